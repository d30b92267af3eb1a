"""Inputs and parameters of each table and figure, as pure functions of the configuration.

`rules/analysis.smk` calls this module. It does not import Snakemake, so tests can call it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tir.analysis.figures import FIGURES
from tir.analysis.figures import STUDY as STUDY_FIGURES
from tir.analysis.kind import Kind
from tir.analysis.origin import describe
from tir.analysis.tables import STUDY as STUDY_TABLES
from tir.analysis.tables import TABLES
from tir.analysis.tables import kind as table_kind
from tir.common.errors import TirError
from tir.config.experiment import Config
from tir.config.params import params
from tir.workflow import timed
from tir.workflow.digests import ROOT
from tir.workflow.shown import RL_TABLES, SAMPLED, Shown, record_path

PAPER_CELLS = "tir/analysis/tables/paper_reference.yaml"
PAPER_TABLES = tuple(name for name in TABLES if name.startswith("table"))
_ROOTS = {"metrics": "runs/rl", "logs": "runs/sft"}


@dataclass
class Target:
    """One table or figure.

    Attributes:
        inputs: input files by option of the script; those under "after" are inputs of the rule but no option.
        params: parameters as canonical JSON.
        module: dotted name of the module that builds the table or figure.
        companions: suffixes of further tables that are written with it.
        more: command-line options that are not inputs.
    """

    inputs: dict[str, list[str]]
    params: str
    module: str = ""
    companions: list[str] = field(default_factory=list)
    more: str = ""

    @property
    def files(self) -> list[str]:
        return sum(self.inputs.values(), [])

    @property
    def options(self) -> str:
        """Options of the script, except output and parameters."""
        words = []
        for option, paths in self.inputs.items():
            if option == "after":
                continue
            if option in ("scores", "traces"):
                paths = dict.fromkeys(str(PurePosixPath(path).parents[1]) for path in paths)
            words.append(f"--{option} {_ROOTS.get(option) or ' '.join(paths)}")
        return " ".join([*words, self.more]).strip()


@dataclass
class Source:
    """Source of a target: parameters, records by (model, benchmark), other input files, further options.

    Attributes:
        seeds: number of seeds that the target shows; None for all of the configuration.
    """

    params: dict[str, Any] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    options: str = ""
    seeds: int | None = None


class Targets:
    """All tables and figures of a configuration.

    Attributes:
        tables, figures: names that `rule all` makes.
        extra: names of tables that are made only on request.
        study_tables, study_figures: names of those in results/study/, made only on request.
    """

    def __init__(self, cfg: Config):
        self.cfg, self.shown = cfg, Shown(cfg)
        runs = {"full", *cfg.sft_pilots}
        default = [name for name, table in cfg.tables.items() if table.in_all]
        static = ["table2", "table3", "table4", "table7", "table8"]
        static += [name for name, each in TABLES.items() if each.source == "sft_run" and each.of in runs]
        judged = ["judgements"] if cfg.judged() else []
        trained = ["behaviour", "shaping"] if set(RL_TABLES) & set(default) else []
        self.tables = [*default, *static, *trained, *judged, "leakage", "arithmetic"]
        self.extra = [name for name in cfg.tables if name not in default]
        if cfg.qa_analysis:
            self.extra.append("qa_bigrams")
        self.study_tables = [*STUDY_TABLES] if cfg.study else []
        self.study_figures = [*STUDY_FIGURES] if cfg.study and cfg.study.phase else []
        required = {name: each.of if each.source == "rows" else "table1" for name, each in FIGURES.items()}
        drawn = [name for name, table in required.items() if table in cfg.tables]
        self.figures = [name for name in drawn if FIGURES[name].source != "models" or set(RL_TABLES) & set(cfg.tables)]

    def target(self, name: str, size: str = "") -> Target:
        """One target; `size` is "" or "n500/", the folder of its records."""
        kind, source, inputs = _kind(name), self._source(name), self._inputs(name, size)
        printed = ["paper"] if name in PAPER_TABLES and not self.cfg.generated else []
        origin = self._origin(source.pairs, source.seeds)
        return Target(
            inputs | self._counted(origin),
            params(**source.params, **self._judge_params(inputs), **origin),
            kind.module,
            [*kind.companions, *printed],
            source.options,
        )

    def printed(self, name: str) -> list[str]:
        """File of the paper's printed cells, for a target that shows or checks them; else empty."""
        shows = name in (*PAPER_TABLES, "arithmetic") or (name == "figure4" and self.shown.compared)
        return [PAPER_CELLS] if shows and not self.cfg.generated else []

    def origin_label(self) -> str:
        """The label of a generated run for the report, without the number of parameters if the model does not exist."""
        origin = self._origin()
        try:
            return describe(origin, map(Path, self._counted(origin).get("model", [])))
        except TirError:
            return describe(origin, [])

    def _origin(self, pairs: Iterable[tuple[str, str]] = (), seeds: int | None = None) -> dict[str, Any]:
        """The parameter `origin`, which labels results of generated data or models; empty for real ones.

        Args:
            pairs: (model, benchmark) of the records of a target. If this workflow trains none of these models, the
                first one's parameters are counted, else those of the model that training starts from.
            seeds: number of seeds that a target shows; by default all of the configuration.
        """
        if not self.cfg.generated:
            return {}
        shown = dict.fromkeys(model.removeprefix(SAMPLED) for model, _ in pairs)
        trained = not shown or any(model not in self.cfg.models for model in shown)
        model = "base" if trained else next(iter(shown))
        return {"origin": {"data": self.cfg.generated, "model": model, "seeds": seeds or len(self.cfg.rl.seeds)}}

    def _counted(self, origin: dict[str, Any]) -> dict[str, list[str]]:
        """The manifest of the model whose parameters the label of a generated run counts."""
        return {"model": [f"models/{origin['origin']['model']}/manifest.json"]} if origin else {}

    def labelled(
        self, pairs: Iterable[tuple[str, str]], seeds: int | None = None
    ) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """Parameter and input of the label of results of these records; both empty if nothing is generated."""
        origin = self._origin(pairs, seeds)
        return origin, self._counted(origin)

    def claims(self) -> Target:
        """The target that checks the paper's claims; its inputs are those of the tables and figures of `rule all`."""
        tables = [name for name in self.tables if name in self.cfg.tables]
        found: dict[str, list[str]] = {}
        others = ["table3", "figure4", "figure7", "table2", *(["table10"] if "medium" in self.cfg.sft_pilots else [])]
        others += ["figure6"] if "table11" in tables else []  # it reads the trajectories of Table 11
        for name in [*tables, *others]:
            for option, paths in self._inputs(name).items():
                found[option] = list(dict.fromkeys([*found.get(option, []), *paths]))
        found["data"] = [*found.get("data", []), "data/rl_train.parquet"]
        rl = self.cfg.rl
        origin = self._origin()
        return Target(
            found | self._counted(origin),
            params(
                **origin,
                models=self._claimed(tables),
                benchmarks=self.shown.columns("table5" if "table5" in tables else tables[0]),
                sets=self.shown.pooled(),
                statistics=self.cfg.statistics,
                facts={"trajectories": rl.steps * rl.batch_prompts * rl.group_size, "steps": rl.steps},
                **self._judge_params(found),
            ),
        )

    @property
    def summarised(self) -> bool:
        """Whether the results that the summary is written from are made by default."""
        return "behaviour" in self.tables

    def summary(self) -> Target:
        """The target that says in sentences what was run and found; its inputs are other results."""
        cfg, rl, origin = self.cfg, self.cfg.rl, self._origin()
        tables = [name for name in RL_TABLES if name in self.tables]
        figures = [name for name in ("figure1", "figure4", "figure9") if name in self.figures]
        made = [f"{name}_{end}.csv" for name in tables for end in ("comparisons", "detail")]
        made += ["behaviour.csv", "shaping.csv", "claims.json", *(f"{name}.png" for name in figures)]
        facts = {
            "arms": self.shown.arms,
            "seeds": len(rl.seeds),
            "epochs": cfg.sft.epochs,
            "steps": rl.steps,
            "prompts": rl.batch_prompts,
            "samples": rl.group_size,
            "decoding": self._evaluated(),
            "benchmarks": [
                {"label": each["label"], "n": cfg.benchmarks[each["name"]].n} for each in self.shown.columns(tables[0])
            ],
        }
        return Target(
            {"after": [f"results/{name}" for name in made]} | self._counted(origin),
            params(tables=tables, figures=figures, facts=facts, **origin),
        )

    def _evaluated(self) -> dict[str, Any]:
        """How the accuracy tables' questions were answered."""
        return self.cfg.evaluation.model_dump(include={"temperature", "samples"})

    def _claimed(self, tables: list[str]) -> dict[str, list[str]]:
        """Model ids of the tables' models, by each expression that a claim may use (`aspo@30`, `aspo@last`, ...)."""
        rows = [row.model for name in tables for row in self.cfg.tables[name].rows]
        arms = list(dict.fromkeys(model.partition("@")[0] for model in rows if "@" in model))
        shown = {tuple(self.cfg.model_ids(model)) for model in rows}
        expressions = [*rows, *(f"{arm}@{step}" for arm in arms for step in ("first", "last"))]
        return {each: self.cfg.model_ids(each) for each in expressions if tuple(self.cfg.model_ids(each)) in shown}

    def _inputs(self, name: str, size: str = "") -> dict[str, list[str]]:
        source = self._source(name)
        pairs = dict.fromkeys(source.pairs)
        found = {record: [record_path(record, *pair, size) for pair in pairs] for record in _kind(name).records}
        if not size and "scores" in found:
            found["judge"] = [record_path("judge", *pair) for pair in pairs if self._reads_verdicts(source, *pair)]
        return {option: paths for option, paths in (found | source.files).items() if paths}

    def _reads_verdicts(self, source: Source, model: str, benchmark: str) -> bool:
        """Whether a target reads the judge's verdicts on the trajectories of a model on a benchmark."""
        if (model.removeprefix(SAMPLED), benchmark) not in self.shown.judged:
            return False
        if model.startswith(SAMPLED):
            return self.cfg.judge.decides
        columns = source.params.get("benchmarks", [])
        return any(each["metric"] == "judge" for each in columns if each["name"] == benchmark)

    def _judge_params(self, inputs: dict[str, list[str]]) -> dict[str, Any]:
        return {"judge_decides": self.cfg.judge.decides} if "judge" in inputs else {}

    def _source(self, name: str) -> Source:
        """The target's source, by the kind of source that `tir.analysis.kind.Kind` documents."""
        cfg, kind = self.cfg, _kind(name)
        match kind.source:
            case "rows":
                rows, columns = self.shown.rows(kind.of or name), self.shown.columns(kind.of or name)
                pairs = [(model, column["name"]) for row in rows for model in row["models"] for column in columns]
                return Source({"rows": rows, "benchmarks": columns}, pairs)
            case "models":
                shown = [each for each in RL_TABLES if each in cfg.tables]
                rows = {row["label"]: row for each in shown for row in self.shown.rows(each)}.values()
                columns = self.shown.columns(shown[0])
                pairs = [(model, column["name"]) for row in rows for model in row["models"] for column in columns]
                return Source({"rows": list(rows), "benchmarks": columns, "decoding": self._evaluated()}, pairs)
            case "trajectories":
                sets = self.shown.pooled(name)
                pairs = [(each["model"], each["benchmark"]) for each in sets]
                return Source({"sets": sets, "decoding": cfg.trace_sampling}, pairs)
            case "sft_run":
                return Source(self.shown.sft_params(kind.of), files={"logs": [f"runs/sft/{kind.of}/log.jsonl"]})
            case "rl_runs":
                runs = [f"{arm}/seed{seed}" for arm in self.shown.arms for seed in cfg.rl.seeds]
                shown = {"arms": self.shown.arms}
                if name == "figure4":
                    shown |= {"items": cfg.data.validation.rows, "paper": self.shown.compared}
                return Source(shown, files={"metrics": [f"runs/rl/{run}/metrics.jsonl" for run in runs]})
            case "stages":
                rows = self._timed()
                made = [path for row in rows for path in row.pop("made")]
                timings = " ".join(f"benchmarks/{timing}.tsv" for row in rows for timing in row["timings"])
                return Source({"rows": rows}, files={"after": made}, options=f"--timings {timings}")
            case "judge":
                reports = [f"{path}.report.json" for path in self.verdicts()]
                return Source({"judge": cfg.judge.name, "decides": cfg.judge.decides}, files={"data": reports})
            case "sft_data":
                return Source(files={"data": ["data/sft.json"]})
            case "package":
                modules = sorted((ROOT / "aspo").glob("*.py"))
                files = [module.relative_to(ROOT).as_posix() for module in modules]
                return Source(files={"after": files}, options="--data aspo")
            case "study":
                return self._study(name)
            case "phase":
                return self._phase()
            case "tables":
                made = [name for name in self.tables if name in cfg.tables]
                return Source(files={"data": [f"results/{each}{end}.csv" for each in made for end in ("", "_detail")]})
            case "data":
                return self._data()

    def _study(self, name: str) -> Source:
        """Source of the tables of the study; the pilot has its first seeds."""
        cfg, study = self.cfg, self.cfg.study
        seeds = cfg.rl.seeds[: study.pilot_seeds] if name == "power" else cfg.rl.seeds
        baseline, *arms = (
            {"arm": arm, "models": [f"{arm}-step{cfg.rl.steps}-seed{seed}" for seed in seeds]}
            for arm in (study.baseline, *study.arms)
        )
        columns = self.shown.benchmarks(study.benchmarks)
        pairs = [(model, column["name"]) for arm in (baseline, *arms) for model in arm["models"] for column in columns]
        pairs += [(study.start, column["name"]) for column in columns if column["task"] == "qa"]
        runs = [f"runs/rl/{arm['arm']}/seed{seed}/metrics.jsonl" for arm in (baseline, *arms) for seed in seeds]
        shown = {"baseline": baseline, "arms": arms, "seeds": seeds, "benchmarks": columns, "power": study.power}
        planned = {"effects": study.smallest_effects, "planned_seeds": study.planned_seeds} if name == "power" else {}
        return Source(shown | planned | {"start": study.start}, pairs, {"metrics": runs}, seeds=len(seeds))

    def _phase(self) -> Source:
        """Source of the phase diagram: the effects in each world, which a run of its own makes (docs/study.md)."""
        study, phase = self.cfg.study, self.cfg.study.phase
        arms = {arm: self.cfg.arms[arm].lam for arm in phase.arms}
        files = [f"worlds/{world}/results/study/effects.csv" for world in phase.worlds]
        worlds = [*phase.worlds.values()]  # a list, because parameters do not keep the order of a mapping
        shown = {"worlds": worlds, "arms": arms, "baseline": study.baseline}
        return Source(shown, files={"data": files}, seeds=len(phase.seeds))

    def _data(self) -> Source:
        """Source of the leakage table: every training, validation and benchmark file."""
        cfg = self.cfg
        names = ["sft.json", "rl_train.parquet", "rl_validation.parquet", "validation.parquet"]
        names += [f"benchmarks/{each}.jsonl" for each in cfg.benchmarks]
        facts = [
            {"name": name, "label": each.label, "task": each.task, "n": each.n, "kept": each.kept_from_validation}
            for name, each in cfg.benchmarks.items()
        ]
        clean = "validation" if cfg.data.validation.decontaminate else None
        return Source(
            {"benchmarks": facts, "decontaminated": clean}, files={"data": [f"data/{name}" for name in names]}
        )

    def verdicts(self) -> list[str]:
        """Files of the judge's verdicts: on the trace analysis, and on what the tables of `rule all` show."""
        shown = [
            path for name in self.tables if name in self.cfg.tables for path in self._inputs(name).get("judge", [])
        ]
        pooled = [record_path("judge", f"{SAMPLED}{model}", benchmark) for model, benchmark in self.shown.judged]
        return list(dict.fromkeys([*pooled, *shown]))

    def _timed(self) -> list[dict[str, Any]]:
        """Stages of Table 8: label, benchmark files with the times, outputs of the timed jobs, samples and hardware."""
        shown = [row.model for name in self.tables if name in self.cfg.tables for row in self.cfg.tables[name].rows]
        rows = [*timed.fine_tuning(self.cfg, shown)]
        rows += timed.reinforcement(self.cfg, self.shown.arms)
        rows += timed.preference(self.cfg, shown)
        evaluated = [pair for name in self.tables if name in self.cfg.tables for pair in self._source(name).pairs]
        sampled = [(each["model"], each["benchmark"]) for each in self.shown.pooled()]
        return [*rows, *timed.evaluation(self.cfg, evaluated, sampled, self.shown.judged)]


def last_summary(path: str | os.PathLike) -> dict[str, list[str]]:
    """Sentences by heading of the last summary of these results, for the report; empty before there is one."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _kind(name: str) -> Kind:
    return (FIGURES | STUDY_FIGURES).get(name) or table_kind(name)
