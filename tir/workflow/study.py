"""The runs of the study: one in the folder of the study, and one in worlds/NAME for each world of the phase diagram.

The worlds differ in the generated fine-tuning data, so every stage from there on has its own results. A world's folder
has links to the workflow, a configuration file with what differs, and copies of the results that do not.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tir.config.experiment import Config

SCALE = ("profiles/laptop/tiny.yaml", "profiles/study/study.yaml")
QUICK, ON_CPU, POINT = "profiles/study/quick.yaml", "profiles/study/cpu.yaml", "point.yaml"
TARGETS = ("results/study/effects.csv", "results/study/power.csv")
OF_A_WORLD = "results/study/effects.csv"
FIGURE = "results/study/phase.png"
PARTS = (
    "Snakefile",
    "config.yaml",
    "rules",
    "scripts",
    "tir",
    "aspo",
    "profiles",
    "envs",
    "containers",
    "docs",
    "images",
)
# Results that a world begins with. They are checked like all results, so only what does not fit is made again.
SAME_CORPUS = ("data", "index")
SAME_WORLD = (*SAME_CORPUS, "models", "runs", "traces", "scores")


def study_profile(profile: Mapping[str, Any], site_files: Sequence[str], *further: str) -> dict[str, Any]:
    """A profile with the study in place of its experiment, whose jobs need no GPU.

    Args:
        profile: the content of the profile's config.yaml.
        site_files: its configuration files that describe the machine.
        further: configuration files on top of the study's.
    """
    made = dict(profile) | {"configfile": [*SCALE, *further, *site_files, ON_CPU]}
    made["set-threads"] = {"sft": 1, "rl": 2}
    if made.pop("set-resources", None) is not None:
        made["set-resources"] = {"rl": {"mem_mb": "8000 * attempt"}}
    return made


def point(config: Config, world: str) -> dict[str, Any]:
    """The configuration of one world of the phase diagram, as an overlay of the study's."""
    study, phase = config.study, config.study.phase
    return {
        "world": {"trajectories": {"habits": phase.worlds[world].model_dump()}},
        "rl": {"seeds": phase.seeds},
        "study": {"arms": phase.arms, "benchmarks": phase.benchmarks or study.benchmarks, "phase": None},
    }


def has_habits_of_study(config: Config, world: str) -> bool:
    """Whether a world of the phase diagram has the habits of the study's own world, so that it shares the RL runs."""
    habits = config.world.trajectories.habits
    chosen = config.study.phase.worlds[world]
    return (habits.spoil, habits.repair) == (chosen.spoil, chosen.repair)


def link_workflow(directory: Path) -> None:
    """Put links to the workflow in the folder of a world, whose parent's parent is the folder of the study."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (*PARTS, ".venv"):
        link = directory / name
        if not link.is_symlink() and (directory.parents[1] / name).exists():
            link.symlink_to(Path("../..") / name)


def begin(directory: Path, *, same_world: bool) -> None:
    """Copy results of the study to a world that has none yet, their records last; an interrupted copy begins again."""
    if (directory / "identity").exists():
        return
    study = directory.parents[1]
    for name in SAME_WORLD if same_world else SAME_CORPUS:
        if (study / name).exists():
            shutil.copytree(study / name, directory / name, dirs_exist_ok=True)
    shutil.rmtree(directory / "identity.partial", ignore_errors=True)
    shutil.copytree(study / "identity", directory / "identity.partial")
    (directory / "identity.partial").rename(directory / "identity")
