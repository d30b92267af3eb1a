"""Checks of a profile: its rule names, and whether the GPUs of a training stage divide its effective batch.

Snakemake silently ignores unknown rule names, and the rule runs with default resources.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tir.common.errors import ConfigError
from tir.config.experiment import Config
from tir.config.faults import nearest
from tir.config.judge import Judge
from tir.config.site import RetrievalServer


def require_rules(named: Mapping[str, Iterable[str]], known: Iterable[str]) -> None:
    """Raise a `ConfigError` that lists all unknown rule names.

    Args:
        named: option of the profile, e.g. `set-resources` -> rule names in it.
        known: names of the workflow's rules.
    """
    known = sorted(known)
    faults = []
    for option, names in named.items():
        for name in names:
            if name not in known:
                near = nearest(name, known)
                faults.append(f"  {option}: {name}" + (f"; did you mean `{near}`?" if near else "; delete it"))
    if faults:
        raise ConfigError("\n".join(["unknown rule names", *faults]), where="profile")


def effective_batches(config: Config) -> dict[str, dict[str, int]]:
    """Rows or trajectories of an optimiser step, by stage and key of the configuration."""
    pilots = {f"sft_pilots.{name}.batch_rows": config.pilot(name).batch_rows for name in config.sft_pilots}
    trajectories = {"rl.mini_batch_prompts x rl.group_size": config.rl.mini_batch_prompts * config.rl.group_size}
    return {
        "sft": {"sft.batch_rows": config.sft.batch_rows} | pilots,
        "rl": trajectories,
        "rl_after_dpo": trajectories if config.interleaved_arms else {},
        "dpo": {"dpo.batch_pairs": config.dpo.batch_pairs} if len(config.plain_arms) < len(config.arms) else {},
    }


def require_divisors(gres: Mapping[str, str], config: Config, machine: int = 0) -> None:
    """Raise a `ConfigError` for each stage whose GPUs do not divide its effective batches, with a line to paste.

    Args:
        gres: GPUs of each rule as the profile writes them, e.g. `'gpu:h100:8'`.
        config: the experiment.
        machine: GPUs of a machine without Slurm, all of which a training stage takes; 0 on a cluster.
    """
    faults = []
    for stage, batches in effective_batches(config).items():
        kind, number = _gpus(stage, gres, machine)
        wrong = [f"{key} is {size}" for key, size in batches.items() if number and size % number]
        if wrong:
            fits = max(n for n in range(1, number + 1) if not any(size % n for size in batches.values()))
            faults.append(f"  {stage}: {number} GPUs do not divide a step: {', '.join(wrong)}")
            paste = f"set-resources: {{{stage}: {{gres: \"'{kind}{fits}'\"}}}}"
            faults.append("  try: " + (paste if stage in gres else f"resources: [gpu={fits}]"))
    if faults:
        raise ConfigError("\n".join(["GPUs of the profile do not fit the configuration", *faults]), where="profile")


def require_judge_gpus(judge: Judge, gres: Mapping[str, str], machine: int) -> None:
    """Raise a `ConfigError` if a job's judge server needs more GPUs than the profile gives it.

    Args:
        judge: the section `judge`.
        gres: GPUs of each rule as the profile writes them, e.g. `'gpu:h100:4'`.
        machine: GPUs of a machine without Slurm; 0 on a cluster.
    """
    kind, number = _gpus("judge", gres, machine)
    if judge.engine == "vllm" and 0 < number < judge.gpus:
        fits = 1 << number.bit_length() - 1  # a power of two, which divides the heads of most models
        more = f"set-resources: {{judge: {{gres: \"'{kind}{judge.gpus}'\"}}}}  # or " if "judge" in gres else ""
        fewer = f"judge: {{gpus: {fits}}}  # if the model fits there; or judge: {{kind: rules}}, without a judge"
        raise ConfigError(
            "fewer GPUs than the judge is split over",
            where="judge.gpus",
            why=f"{judge.gpus}; the profile states {kind}{number}",
            remedy=more + fewer,
        )


def _gpus(stage: str, gres: Mapping[str, str], machine: int) -> tuple[str, int]:
    """GPUs of a job of a stage as `gpu:h100:`, 8 or as `gpu=`, 8; 0 if the profile states none, or not as a number."""
    found = re.search(r"(gpu[:=](?:[\w.-]+:)?)(\d+)", gres.get(stage, f"gpu={machine}"))
    return (found[1], int(found[2])) if found else ("", 0)


def require_server_gpus(server: RetrievalServer, machine: int) -> None:
    """Raise a `ConfigError` if a retrieval server on this machine would use the GPUs of the jobs.

    Args:
        server: the section `site.retrieval_server`.
        machine: GPUs for jobs on this machine; 0 if they run elsewhere or on its processor.
    """
    if server.runs_on == "local" and server.gpus is None and machine:
        last = machine - 1
        fewer = 1 << last.bit_length() - 1 if last else 0  # a power of two, which divides most effective batches
        one = f'gpus: "{last}"}}}}  # and in the profile, resources: [gpu={fewer}, ...]; or gpus: "" for the CPU'
        raise ConfigError(
            "the retrieval server would use the GPUs of the jobs",
            where="site.retrieval_server.gpus",
            why=f"null, which means all of this machine; the profile has gpu={machine} for jobs",
            remedy="site: {retrieval_server: {" + (one if last else 'gpus: ""}}  # it then uses the CPU'),
        )
