"""What each table and figure is made from: its records, its parameters, its files. Pure functions of the configuration.

`rules/analysis.smk` asks here; nothing in this module knows Snakemake, so that a test can ask too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tir.config import Config
from tir.workflow import code, params

PAPER_CELLS = "tir/tables/paper_reference.yaml"
FULL_LOG = "runs/sft/full/log.jsonl"
# Figures that show the models of a table.
SHOWS = {"figure1": "table1", "figure2": "table5", "figure5": "table11", "figure6": "table11"}
POOLED = ("table3", "table4", "figure3")
SFT_RUNS = {"table9": "smoke", "table10": "medium", "table13": "full", "figure7": "full"}
PAPER_TABLES = tuple(f"table{number}" for number in range(1, 14))
FIGURES = tuple(f"figure{number}" for number in range(1, 9))
COMPANIONS = {"table1": ["calls", "detail"], "table3": ["by_task", "tests"], "qa_bigrams": ["by_task", "tests"],
              "leakage": ["files"]}
ONE_BENCHMARK = ("table11", "table12")
_ROOTS = {"scores": "scores", "traces": "traces", "metrics": "runs/rl", "logs": "runs/sft"}


@dataclass
class Target:
    """One table or figure.

    Attributes:
        inputs: files by the script's option, all of them reasons to make it anew.
        params: sub-configuration, canonical JSON.
        companions: suffixes of the tables written beside it.
        options: the script's command line, without output and parameters.
    """

    inputs: dict[str, list[str]]
    params: str
    companions: list[str] = field(default_factory=list)
    more: str = ""
    size: str = ""

    @property
    def files(self) -> list[str]:
        return sum(self.inputs.values(), [])

    @property
    def options(self) -> str:
        said = []
        for kind, paths in self.inputs.items():
            if kind == "after":
                continue
            root = f"{self.size}{_ROOTS[kind]}" if kind in ("scores", "traces") else _ROOTS.get(kind)
            said.append(f"--{kind} {root or ' '.join(paths)}")
        return " ".join([*said, self.more]).strip()


class Targets:
    """All tables and figures of a configuration.

    Attributes:
        tables, figures: names made by default.
        extra: names of tables that are made when asked for.
    """

    def __init__(self, cfg: Config):
        self.cfg = cfg
        runs = {"full", *cfg.sft_pilots}
        static = ["table2", "table3", "table4", "table7", "table8"]
        static += [name for name, run in SFT_RUNS.items() if name.startswith("table") and run in runs]
        asked = [name for name, table in cfg.tables.items() if table.in_all]
        judged = ["judgements"] if cfg.judged() else []
        self.tables = [*asked, *static, *judged, "leakage", "arithmetic"]
        self.extra = [name for name in cfg.tables if name not in asked]
        if cfg.qa_analysis:
            self.extra.append("qa_bigrams")
        self.figures = [each for each in FIGURES if SHOWS.get(each, "table1") in cfg.tables]

    def claims(self) -> Target:
        """The paper's claims: every record that the tables and figures made by default read anyway."""
        tables = [name for name in self.tables if name in self.cfg.tables]
        found: dict[str, list[str]] = {}
        for name in [*tables, "table3", "figure4", "figure7", "table2"]:
            for kind, paths in self._inputs(name, "").items():
                found[kind] = list(dict.fromkeys([*found.get(kind, []), *paths]))
        rl = self.cfg.rl
        return Target(found, params(
            models=self._claimed(tables), benchmarks=self.columns("table5" if "table5" in tables else tables[0]),
            sets=self.pooled(), statistics=self.cfg.statistics,
            facts={"trajectories": rl.steps * rl.batch_prompts * rl.group_size}))

    def _claimed(self, tables: list[str]) -> dict[str, list[str]]:
        """Models of the tables, under every expression a claim may use for them."""
        rows = [row.model for name in tables for row in self.cfg.tables[name].rows]
        arms = list(dict.fromkeys(model.partition("@")[0] for model in rows if "@" in model))
        shown = {tuple(self.cfg.model_ids(model)) for model in rows}
        said = [*rows, *(f"{arm}@{step}" for arm in arms for step in ("first", "last"))]
        return {each: self.cfg.model_ids(each) for each in said if tuple(self.cfg.model_ids(each)) in shown}

    def target(self, name: str, size: str = "") -> Target:
        """One target; `size` is "" or "n500/", where records of that size lie."""
        target = Target(self._inputs(name, size), self._params(name, size), self._companions(name), size=size)
        if name == "table7":
            target.more = "--data aspo"
            target.inputs = {"after": target.inputs["data"]}
        if name == "table8":
            target.more = "--timings " + " ".join(f"benchmarks/{row['timing']}.tsv" for row in self._timed())
        return target

    def _inputs(self, name: str, size: str) -> dict[str, list[str]]:
        found = {"scores": [] if name == "figure6" else self._records("scores", name, size)}
        found["traces"] = self._records("traces", name, size) if self._needs_traces(name) else []
        if name in ("figure4", "figure8"):
            found["metrics"] = [f"runs/rl/{arm}/seed{seed}/metrics.jsonl" for arm in self.shown_arms
                                for seed in self.cfg.rl.seeds]
        if name in SFT_RUNS:
            found["logs"] = [f"runs/sft/{SFT_RUNS[name]}/log.jsonl"]
        if name == "table8":
            found["after"] = [row["made"] for row in self._timed()]
        found["data"] = self._data(name)
        return {kind: paths for kind, paths in found.items() if paths}

    def _data(self, name: str) -> list[str]:
        if name == "table2":
            return ["data/sft.json"]
        if name == "table7":
            return code("aspo")
        if name == "leakage":
            files = ["sft.json", "rl_train.parquet", "rl_validation.parquet", "validation.parquet"]
            return [f"data/{file}" for file in [*files, *(f"benchmarks/{each}.jsonl" for each in self.cfg.benchmarks)]]
        if name == "judgements":
            return [f"judge/{model}/{each.benchmark}.jsonl.report.json"
                    for each in self.cfg.judged() for model in self.cfg.model_ids(each.model)]
        if name == "arithmetic":
            made = [each for each in self.tables if each in self.cfg.tables]
            return [f"results/{each}{suffix}.csv" for each in made for suffix in ("", "_detail")]
        return []

    def _params(self, name: str, size: str) -> str:
        statistics = self.cfg.statistics
        if name in POOLED or name == "qa_bigrams":
            return params(sets=self.pooled(name), statistics=statistics)
        table = SHOWS.get(name, name)
        if table in self.cfg.tables:
            return params(rows=self.rows(table), benchmarks=self.columns(table), statistics=statistics)
        if name in SFT_RUNS:
            return self._sft_params(SFT_RUNS[name])
        if name == "table8":
            return params(rows=[{key: value for key, value in row.items() if key != "made"} for row in self._timed()])
        if name == "judgements":
            return params(judge=self.cfg.judge.name, decides=self.cfg.judge.decides)
        if name == "leakage":
            clean = "validation" if self.cfg.data.validation.decontaminate else None
            facts = [{"name": each, "label": item.label, "task": item.task, "n": item.n, "kept": item.kept_from_validation}
                     for each, item in self.cfg.benchmarks.items()]
            return params(benchmarks=facts, decontaminated=clean)
        if name == "figure4":
            return params(arms=self.shown_arms, items=self.cfg.data.validation.rows, paper=self._compared)
        return params(**({"arms": self.shown_arms} if name == "figure8" else {}))

    def printed(self, name: str) -> list[str]:
        """The file of the paper's own cells, for a target that shows or checks them."""
        shows = name in (*PAPER_TABLES, "arithmetic") or (name == "figure4" and self._compared)
        return [PAPER_CELLS] if shows else []

    @property
    def _compared(self) -> bool:
        return any(row.paper for table in ("table5", "table6") if table in self.cfg.tables
                   for row in self.cfg.tables[table].rows)

    def _companions(self, name: str) -> list[str]:
        printed = ["paper"] if name in PAPER_TABLES else []
        if name in COMPANIONS or name not in self.cfg.tables:
            return COMPANIONS.get(name, []) + printed
        return ["comparisons", "detail"] + ([] if name in ONE_BENCHMARK else ["variance"]) + printed

    # --- accuracy ---------------------------------------------------------------------------------------------

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table with the model ids behind them."""
        return [{key: value for key, value in row.model_dump().items() if value and key != "model"}
                | {"models": self.cfg.model_ids(row.model)} for row in self.cfg.tables[table].rows]

    def columns(self, table: str) -> list[dict[str, Any]]:
        """Benchmarks of a table: those it names, else all standard ones."""
        standard = [name for name, each in self.cfg.benchmarks.items() if each.standard]
        return [{"name": name} | {key: getattr(self.cfg.benchmarks[name], key) for key in ("label", "task", "metric")}
                for name in self.cfg.tables[table].benchmarks or standard]

    def pooled(self, name: str = "table3") -> list[dict[str, Any]]:
        """Sets of trajectories that the trace analysis pools."""
        sets = self.cfg.qa_analysis if name == "qa_bigrams" else self.cfg.trace_analysis
        return [{"model": model, "benchmark": each.benchmark, "task": self.cfg.benchmarks[each.benchmark].task, "n": each.n}
                for each in sets for model in self.cfg.model_ids(each.model)]

    def _records(self, kind: str, name: str, size: str) -> list[str]:
        if name in POOLED or name == "qa_bigrams":
            pairs = [(each["model"], each["benchmark"]) for each in self.pooled(name)]
        elif SHOWS.get(name, name) in self.cfg.tables:
            table = SHOWS.get(name, name)
            pairs = [(model, column["name"]) for row in self.rows(table) for model in row["models"]
                     for column in self.columns(table)]
        else:
            pairs = []
        return list(dict.fromkeys(f"{size}{kind}/{model}/{benchmark}.jsonl" for model, benchmark in pairs))

    def _needs_traces(self, name: str) -> bool:
        return name in (*POOLED, "qa_bigrams", "table1", "figure6")

    # --- training ---------------------------------------------------------------------------------------------

    @cached_property
    def shown_arms(self) -> list[str]:
        """Arms whose training curves Figures 4 and 8 draw: those of Table 5, then Table 6."""
        rows = [row.model for table in ("table5", "table6") if table in self.cfg.tables for row in self.cfg.tables[table].rows]
        return list(dict.fromkeys(model.partition("@")[0] for model in rows if "@" in model))

    def _sft_params(self, run: str) -> str:
        settings = self.cfg.pilot(run)
        shown = {"samples": settings.max_rows or "all"} | {
            key: getattr(settings, key) for key in ("epochs", "gpus", "learning_rate", "schedule")}
        return params(run=run, configuration=shown,
                      effective_batch=settings.per_device_batch * settings.accumulation * settings.gpus)

    def _timed(self) -> list[dict[str, Any]]:
        """Stages of Table 8: what to time, by which file, and the file whose making was timed."""
        rows = []
        for run in (*self.cfg.sft_pilots, "full"):
            each = self.cfg.pilot(run)
            rows.append({"label": f"SFT {run}", "timing": "sft" if run == "full" else f"sft/{run}",
                         "made": f"runs/sft/{run}/log.jsonl", "samples": each.max_rows or "all", "epochs": each.epochs,
                         "hardware": self._hardware(each.gpus)})
        for arm in self.shown_arms:
            seed = self.cfg.rl.seeds[0]
            rows.append({"label": f"RL {arm}, one seed", "timing": f"rl/{arm}-seed{seed}",
                         "made": f"runs/rl/{arm}/seed{seed}/metrics.jsonl",
                         "samples": self.cfg.rl.steps * self.cfg.rl.batch_prompts * self.cfg.rl.group_size,
                         "hardware": self._hardware(self.cfg.rl.gpus)})
        for each in self.pooled():
            place = f"{each['model']}/{each['benchmark']}"
            rows.append({"label": f"trajectories, {place}", "timing": f"traces/{place}", "made": f"traces/{place}.jsonl",
                         "samples": self._trajectories(each["benchmark"]), "hardware": self._hardware(1)})
        for each in self.cfg.judged():
            for model in self.cfg.model_ids(each.model):
                rows.append({"label": f"judge, {model}/{each.benchmark}", "timing": f"judge/{model}/{each.benchmark}",
                             "made": f"judge/{model}/{each.benchmark}.jsonl", "samples": self._trajectories(each.benchmark),
                             "hardware": self._hardware(self.cfg.judge.gpus)})
        return rows

    def _trajectories(self, benchmark: str) -> int:
        """Trajectories in a file of a benchmark, all of which were timed, however many the trace analysis takes."""
        return self.cfg.benchmarks[benchmark].n * self.cfg.evaluation.samples

    def _hardware(self, gpus: int) -> str:
        return f"{gpus} GPU" if self.cfg.device == "cuda" else "CPU"
