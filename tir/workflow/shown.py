"""What the tables and figures of a configuration show: their rows, columns, sets of trajectories, and arms."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from tir.config.experiment import Config

RL_TABLES = ("table5", "table6")  # their rows are the models whose training and behaviour is shown
SAMPLED = "sampled/"  # prefix of a model id: its trajectories of the trace analysis


class Shown:
    """What the tables and figures show."""

    def __init__(self, cfg: Config):
        self.cfg = cfg

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table, each with its model ids; a generated run is compared with no row of the paper."""
        hidden = ("model", "paper") if self.cfg.generated else ("model",)
        return [
            {key: value for key, value in row.model_dump().items() if value and key not in hidden}
            | {"models": self.cfg.model_ids(row.model)}
            for row in self.cfg.tables[table].rows
        ]

    def columns(self, table: str) -> list[dict[str, Any]]:
        """Benchmarks of a table: those in its configuration."""
        return self.benchmarks(self.cfg.tables[table].benchmarks)

    def benchmarks(self, names: list[str] | None) -> list[dict[str, Any]]:
        """These benchmarks, by default all standard ones, each with its label, task and metric."""
        standard = [name for name, each in self.cfg.benchmarks.items() if each.standard]
        return [
            {"name": name} | {key: getattr(self.cfg.benchmarks[name], key) for key in ("label", "task", "metric")}
            for name in names or standard
        ]

    def pooled(self, name: str = "table3") -> list[dict[str, Any]]:
        """Sets of trajectories (model, benchmark, number of items) that the trace analysis pools."""
        sets = self.cfg.qa_analysis if name == "qa_bigrams" else self.cfg.trace_analysis
        return [
            {
                "model": f"{SAMPLED}{model}",
                "benchmark": each.benchmark,
                "task": self.cfg.benchmarks[each.benchmark].task,
                "n": each.n,
            }
            for each in sets
            for model in self.cfg.model_ids(each.model)
        ]

    @cached_property
    def _rl_rows(self) -> list[Any]:
        """Rows of Tables 5 and 6."""
        return [row for name in RL_TABLES if name in self.cfg.tables for row in self.cfg.tables[name].rows]

    @cached_property
    def arms(self) -> list[str]:
        """Arms whose training curves Figures 4 and 8 draw: those of Table 5, then those of Table 6.

        An arm with DPO has the curve of the arm whose RL it has.
        """
        arms = (row.model.partition("@")[0] for row in self._rl_rows if "@" in row.model)
        return list(dict.fromkeys(self.cfg.trained_as(arm) for arm in arms))

    @property
    def compared(self) -> bool:
        """Whether a row of Table 5 or 6 is compared with a row of the paper."""
        return not self.cfg.generated and any(row.paper for row in self._rl_rows)

    @cached_property
    def judged(self) -> list[tuple[str, str]]:
        """(model, benchmark) of the trajectories that the judge reads."""
        return [(model, each.benchmark) for each in self.cfg.judged() for model in self.cfg.model_ids(each.model)]

    def sft_params(self, run: str) -> dict[str, Any]:
        """What the table of a run of fine-tuning shows of its settings."""
        settings = self.cfg.pilot(run)
        shown = {key: getattr(settings, key) for key in ("epochs", "learning_rate", "schedule")}
        return {
            "run": run,
            "configuration": {"samples": settings.max_rows or "all"} | shown,
            "effective_batch": settings.batch_rows,
        }


def record_path(record: str, model: str, benchmark: str, size: str = "") -> str:
    """File of records of a model on a benchmark; `size`: "" or "n500/"."""
    sampled = SAMPLED if model.startswith(SAMPLED) else ""
    return f"{size}{sampled}{record}/{model.removeprefix(SAMPLED)}/{benchmark}.jsonl"
