"""Inputs and parameters of the results for looking at single trajectories, which are made only on request."""

from __future__ import annotations

import re

from tir.config.experiment import Config
from tir.config.params import params, without
from tir.workflow.targets import SAMPLED, Target, Targets, record_path

PAGE = ("page.html", "page.css", "page.js")  # of tir/analysis/compare


def items(targets: Targets) -> Target:
    """`results/items.parquet`: the trajectories of all tables that are made by default, and of the trace analysis."""
    cfg = targets.cfg
    shown = [(name, "") for name in targets.tables if name in cfg.tables]
    if cfg.full_size and cfg.full_size.in_all:
        shown += [(name, f"n{cfg.full_size.n}/") for name in cfg.full_size.tables if name in cfg.tables]
    pairs = [
        (model, column["name"], size)
        for name, size in shown
        for row in targets.rows(name)
        for model in row["models"]
        for column in targets.columns(name)
    ]
    pairs += [(each["model"], each["benchmark"], "") for each in targets.pooled()]
    pairs = list(dict.fromkeys(pairs))
    wanted: dict[str, dict[str, list[str]]] = {}
    for model, benchmark, size in pairs:
        folder = (size + (SAMPLED if model.startswith(SAMPLED) else "")).rstrip("/")
        wanted.setdefault(folder, {}).setdefault(model.removeprefix(SAMPLED), []).append(benchmark)
    origin, counted = targets.labelled([(model, benchmark) for model, benchmark, _ in pairs])
    records = [record_path(kind, *pair) for kind in ("traces", "scores") for pair in pairs]
    judged = targets.verdicts()
    return Target(
        {"after": [*records, *judged]} | counted,
        params(records=wanted, judged=judged, judge_decides=cfg.judge.decides, **origin),
    )


def expressions(cfg: Config) -> str:
    """Pattern of what can be compared: a model id, or an arm with all its seeds (`aspo@30`, `aspo@last`)."""
    arms = "|".join(map(re.escape, sorted(cfg.arms)))
    models = "|".join(map(re.escape, cfg.models))
    return rf"{models}|sft(-\w+?)?|({arms})(-step\d+(-dpo\d+)?-seed\d+|@(first|last|\d+))"


def compared(targets: Targets, a: str, b: str) -> Target:
    """`results/compare/{a}_vs_{b}.html`: both models on the standard benchmarks."""
    cfg = targets.cfg
    models = [cfg.model_ids(side) for side in (a, b)]
    benchmarks = [
        {"name": name, "label": each.label, "task": each.task} for name, each in cfg.benchmarks.items() if each.standard
    ]
    pairs = [(model, each["name"]) for model in dict.fromkeys(sum(models, [])) for each in benchmarks]
    origin, counted = targets.labelled(pairs)
    records = {kind: [record_path(kind, *pair) for pair in pairs] for kind in ("scores", "traces")}
    return Target(records | counted, params(names=[a, b], models=models, benchmarks=benchmarks, **origin))


def exported(targets: Targets, benchmark: str) -> str:
    """Parameters of `results/inspect/{model}_{benchmark}.eval`: how the run is described there."""
    cfg = targets.cfg
    origin = {"generated": cfg.generated} if cfg.generated else {}
    task = cfg.benchmarks[benchmark].task
    return params(
        evaluation=without(cfg.evaluation, "tools"), task=task, metric=cfg.benchmarks[benchmark].metric, **origin
    )
