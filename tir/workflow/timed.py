"""Stages of Table 8: the jobs whose times are summed, their outputs, samples and hardware.

A row is `{label, timings, made, samples?, epochs?, hardware}`. `timings` are names of benchmark files, `made` are
outputs of these jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tir.config.experiment import Config
from tir.config.rl import Rl
from tir.config.synthesis import RUNS as COMPARED
from tir.workflow.shown import SAMPLED, record_path

TASKS = ("math", "qa")


def fine_tuning(cfg: Config, models: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Runs of fine-tuning, and the data synthesis that made rows for them.

    Args:
        cfg: the configuration.
        models: ids of the models that the tables show.
    """
    compared = [run for run in COMPARED if f"sft-{run}" in models]
    if cfg.synthesis and (compared or "synthesis" in (cfg.data.sft.kind, cfg.data.rl_train.kind)):
        yield {
            "label": "data synthesis, answers of the teacher (samples: questions)",
            "timings": ["synthesis/teacher_samples"],
            "made": ["synthesis/sampled.jsonl"],
            "samples": cfg.synthesis.max_questions or "all",
            "hardware": hardware(cfg, 1) if cfg.synthesis.teacher.endpoint is None else "a server",
        }
    for run in (*cfg.sft_pilots, "full", *compared):
        settings = cfg.pilot(run)
        yield {
            "label": f"SFT {run}",
            "timings": [f"sft/{run}"],
            "made": [f"runs/sft/{run}/log.jsonl"],
            "samples": settings.max_rows or "all",
            "epochs": settings.epochs,
            "hardware": hardware(cfg),
        }


def reinforcement(cfg: Config, arms: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Runs of RL of arms without DPO, or of the RL before the first DPO."""
    for arm in arms:
        yield {
            "label": f"RL {arm}, {_seeds(cfg)}",
            "timings": [f"rl/{arm}-seed{seed}" for seed in cfg.rl.seeds],
            "made": [f"runs/rl/{arm}/seed{seed}/metrics.jsonl" for seed in cfg.rl.seeds],
            "samples": _rollouts(cfg, cfg.rl),
            "hardware": hardware(cfg),
        }


def preference(cfg: Config, rows: Iterable[str]) -> Iterator[dict[str, Any]]:
    """DPO of the arms that have it, and the RL that goes on after it.

    Args:
        cfg: the configuration.
        rows: models of the tables' rows, as `tool_star@last`.
    """
    last: dict[str, int] = {}
    for arm, at, step in (row.partition("@") for row in rows):
        if at and cfg.arms[arm].dpo:
            last[arm] = max(last.get(arm, 0), cfg.step(step))
    timed: set[str] = set()  # two arms may share the first policy
    for arm, end in sorted(last.items()):  # the order of the tables does not change Table 8
        trained = [cfg.policy(arm, step, seed) for step in cfg.dpo_steps(arm) if step <= end for seed in cfg.rl.seeds]
        trained = [model for model in trained if model not in timed]
        timed.update(trained)
        if trained:
            yield from _dpo(cfg, arm, trained)
        first, *_ = cfg.dpo_steps(arm)
        ends = [step for step in cfg.kept_steps(arm) if first < step <= end and step in (*cfg.dpo_steps(arm), end)]
        if ends:
            parts = [f"{arm}-step{step}-seed{seed}" for step in ends for seed in cfg.rl.seeds]
            yield {
                "label": f"RL {arm} after DPO, {_seeds(cfg)}",
                "timings": [f"rl_after_dpo/{model}" for model in parts],
                "made": [f"models/{model}/manifest.json" for model in parts],
                "samples": sum(_rollouts(cfg, cfg.part(arm, step)) for step in ends),
                "hardware": hardware(cfg),
            }


def _dpo(cfg: Config, arm: str, trained: Sequence[str]) -> Iterator[dict[str, Any]]:
    files = [(model, task) for model in trained for task in TASKS]
    yield {
        "label": f"DPO {arm}, trajectories, {_seeds(cfg)}",
        "timings": [f"dpo_samples/{model}/{task}" for model, task in files],
        "made": [f"runs/dpo/{model}/samples/{task}.jsonl" for model, task in files],
        "samples": cfg.dpo.pairs.rows * cfg.dpo.pairs.samples * len(trained),
        "hardware": hardware(cfg, 1),
    }
    yield {
        "label": f"DPO {arm}, training, {_seeds(cfg)}",
        "timings": [f"dpo/{model}" for model in trained],
        "made": [f"models/{model}/manifest.json" for model in trained],
        "epochs": cfg.dpo.epochs,
        "hardware": hardware(cfg),
    }


def evaluation(
    cfg: Config,
    evaluated: Iterable[tuple[str, str]],
    sampled: Iterable[tuple[str, str]],
    judged: Iterable[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    """Trajectories of the accuracy tables and of the trace analysis, and the judge's verdicts.

    Args:
        cfg: the configuration.
        evaluated: (model, benchmark) of the accuracy tables.
        sampled: those of the trace analysis.
        judged: those that the judge reads.
    """
    # Sorted, so that the order of the tables does not change Table 8.
    stages = [("trajectories of the accuracy tables", "traces", sorted(set(evaluated)), 1)]
    stages += [
        (f"trajectories, {model}/{benchmark}", "traces", [(model, benchmark)], 1) for model, benchmark in sampled
    ]
    stages += [
        (f"judge, {model}/{benchmark}", "judge", [(f"{SAMPLED}{model}", benchmark)], cfg.judge.gpus)
        for model, benchmark in judged
    ]
    for label, stage, pairs, gpus in stages:
        made = [record_path(stage, *pair) for pair in pairs]
        yield {
            "label": label,
            "timings": [path.removesuffix(".jsonl") for path in made],
            "made": made,
            "samples": sum(_trajectories(cfg, *pair) for pair in pairs),
            "hardware": hardware(cfg, gpus),
        }


def _trajectories(cfg: Config, model: str, benchmark: str) -> int:
    """Trajectories in a trace file. The time covers all of them, also if the trace analysis uses fewer."""
    return cfg.benchmarks[benchmark].n * cfg.decoding(sampled=model.startswith(SAMPLED)).samples


def hardware(cfg: Config, gpus: int | None = None) -> str:
    """GPUs of a job; without a number, the table reads it from the benchmark file."""
    if cfg.device == "cpu":
        return "CPU"
    return f"{gpus} GPU" if gpus else "GPU"


def _rollouts(cfg: Config, rl: Rl) -> int:
    """Trajectories of a run of RL, over all seeds."""
    return rl.steps * rl.batch_prompts * rl.group_size * len(cfg.rl.seeds)


def _seeds(cfg: Config) -> str:
    number = len(cfg.rl.seeds)
    return f"{number} seed{'s' if number > 1 else ''}"
