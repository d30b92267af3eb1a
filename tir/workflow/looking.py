"""Inputs and parameters of results that show single trajectories: table of items, comparisons, exports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tir.common.errors import ConfigError
from tir.config.data import Benchmark
from tir.config.experiment import Config
from tir.config.params import params, without
from tir.workflow.shown import SAMPLED, record_path
from tir.workflow.targets import Target, Targets

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
        for row in targets.shown.rows(name)
        for model in row["models"]
        for column in targets.shown.columns(name)
    ]
    pairs += [(each["model"], each["benchmark"], "") for each in targets.shown.pooled()]
    pairs = list(dict.fromkeys(pairs))
    selection: dict[str, dict[str, list[str]]] = {}
    for model, benchmark, size in pairs:
        folder = (size + (SAMPLED if model.startswith(SAMPLED) else "")).rstrip("/")
        selection.setdefault(folder, {}).setdefault(model.removeprefix(SAMPLED), []).append(benchmark)
    origin, counted = targets.labelled([(model, benchmark) for model, benchmark, _ in pairs])
    records = [record_path(kind, *pair) for kind in ("traces", "scores") for pair in pairs]
    judged = targets.verdicts()
    return Target(
        {"after": [*records, *judged]} | counted,
        params(records=selection, judged=judged, judge_decides=cfg.judge.decides, **origin),
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
    benchmarks = [{"name": name, "label": each.label, "task": each.task} for name, each in _standard(cfg).items()]
    pairs = [(model, each["name"]) for model in dict.fromkeys(sum(models, [])) for each in benchmarks]
    origin, counted = targets.labelled(pairs, seeds=max(map(len, models)))
    records = {kind: [record_path(kind, *pair) for pair in pairs] for kind in ("scores", "traces")}
    return Target(records | counted, params(names=[a, b], models=models, benchmarks=benchmarks, **origin))


def shown_arm(targets: Targets) -> str | None:
    """The arm whose trajectories are shown beside those of the fine-tuned model: the first shaped one, or the first."""
    arms = [arm for arm in targets.shown.arms if targets.cfg.arms[arm].estimator == "aspo"] or targets.shown.arms
    return arms[0] if arms else None


def shown_models(targets: Targets) -> tuple[str, str] | None:
    """The fine-tuned model and the last checkpoint of `shown_arm`, first seed, whose trajectories are compared.

    None where the tables of `rule all` do not have all their records.
    """
    cfg, arm = targets.cfg, shown_arm(targets)
    pair = arm and ("sft", cfg.policy(arm, cfg.rl.steps, cfg.rl.seeds[0]))
    return pair if pair and set(compared(targets, *pair).files) <= set(items(targets).files) else None


def default(targets: Targets) -> list[str]:
    """What `rule all` makes: the table of items, and a comparison of `shown_models`."""
    pair = shown_models(targets)
    return ["results/items.parquet", *([f"results/compare/{pair[0]}_vs_{pair[1]}.html"] if pair else [])]


def logs(targets: Targets) -> list[str]:
    """What `rule inspected` makes: logs of inspect_ai of `shown_models` on the first benchmark of each task, and of the
    last step of the arm's reinforcement learning.
    """
    cfg, arm, pair = targets.cfg, shown_arm(targets), shown_models(targets)
    first = {each.task: name for name, each in reversed(_standard(cfg).items())}
    made = [f"results/inspect/{model}_{name}.eval" for model in pair or () for name in first.values()]
    if pair and not cfg.arms[arm].dpo:
        made.append(f"results/inspect/rl/{pair[1]}_train.eval")
    return made


def existing(targets: Targets, folder: str) -> list[str]:
    """Comparisons in a folder that this configuration can make from records that are there."""
    side = expressions(targets.cfg)
    found = []
    for path in sorted(Path(folder).glob("*_vs_*.html")):
        names = re.fullmatch(rf"(?P<a>{side})_vs_(?P<b>{side})", path.stem)
        if names and all(Path(each).exists() for each in compared(targets, names["a"], names["b"]).files):
            found.append(path.as_posix())
    return found


def benchmark_records(cfg: Config, model: str) -> dict[str, list[str]]:
    """Scores and trajectories of a model on the standard benchmarks."""
    return {kind: [record_path(kind, model, name) for name in _standard(cfg)] for kind in ("scores", "traces")}


def rollouts(cfg: Config, arm: str, step: int, seed: str) -> tuple[str, int]:
    """Folder of the run with a step of an arm's reinforcement learning, and the number of the step there.

    Raises `ConfigError` for an arm with DPO and a step that does not end a part of its own.
    """
    folder = f"runs/rl/{arm}/seed{seed}"
    if not cfg.arms[arm].dpo:
        return folder, step
    first = cfg.dpo_steps(arm)[0]
    parts = [each for each in cfg.kept_steps(arm) if each > first]
    if step not in parts:
        raise ConfigError(
            "no rollouts of this step",
            where=f"{arm}-step{step}-seed{seed}",
            why=f"this arm's own runs end at step {', '.join(map(str, parts))}; its first {first} steps are those of "
            f"{cfg.trained_as(arm)}",
        )
    return f"{folder}/to{step}", step - cfg.part_before(arm, step)


def described(targets: Targets, **more: Any) -> str:
    """Parameters of an export: how the run is described there; `evaluation` is that of benchmarks, unless given."""
    cfg = targets.cfg
    origin = {"generated": cfg.generated} if cfg.generated else {}
    return params(**{"evaluation": without(cfg.evaluation, "tools")} | more | origin)


def exported(targets: Targets, benchmark: str) -> str:
    """Parameters of `results/inspect/{model}_{benchmark}.eval`."""
    each = targets.cfg.benchmarks[benchmark]
    return described(targets, task=each.task, metric=each.metric)


def exported_rollouts(targets: Targets, kind: str) -> str:
    """Parameters of `results/inspect/rl/{arm}-step{step}-seed{seed}_{kind}.eval`; validation is greedy."""
    rl = targets.cfg.rl
    temperature, samples = (rl.temperature, rl.group_size) if kind == "train" else (0, 1)
    return described(targets, evaluation={"temperature": temperature, "samples": samples})


def _standard(cfg: Config) -> dict[str, Benchmark]:
    return {name: each for name, each in cfg.benchmarks.items() if each.standard}
