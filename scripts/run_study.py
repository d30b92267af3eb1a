"""Run the study in this folder: effects and power, then the worlds of the phase diagram."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import update_config

from tir.common.cli import parser, run
from tir.common.errors import InfrastructureFault
from tir.common.records import write_text
from tir.config.experiment import Config, load
from tir.workflow import study

PROFILE = Path("study-profile")


def main() -> None:
    parse = parser(__doc__)
    parse.add_argument("--profile", required=True, help="directory of the profile, e.g. profiles/slurm")
    parse.add_argument("--quick", action="store_true", help="the pilot: few arms, two seeds, two worlds")
    parse.add_argument("--snakemake", default=str(Path(sys.executable).with_name("snakemake")), help="executable")
    parse.add_argument("more", nargs="*", help="further arguments of Snakemake, after --")
    options = parse.parse_args()
    profile = yaml.safe_load((Path(options.profile) / "config.yaml").read_text(encoding="utf-8"))
    site = [file for file in profile["configfile"] if "site" in yaml.safe_load(Path(file).read_text(encoding="utf-8"))]
    further = [study.QUICK] if options.quick else []
    config = configuration(*study.SCALE, *further)

    def snakemake(directory: Path, *targets: str, overlay: str | None = None) -> None:
        made = study.study_profile(profile, site, *further, *([overlay] if overlay else []))
        write_yaml(directory / PROFILE / "config.yaml", made)
        command = [options.snakemake, "--profile", str(PROFILE), *options.more, "--", *targets]
        if subprocess.run(command, cwd=directory, check=False).returncode:
            raise InfrastructureFault(
                "the study stopped",
                where=str(directory.resolve()),
                why="a job failed, see above",
                remedy="correct the cause, then repeat the command; finished jobs do not run again",
            )

    planned_only = bool({"-n", "--dry-run"} & {*options.more})
    snakemake(Path(), *study.TARGETS)
    if config.study.phase is None:
        return
    for world in config.study.phase.worlds:
        directory = Path("worlds") / world
        study.link_workflow(directory)
        write_yaml(directory / study.POINT, study.point(config, world))
        if not planned_only:
            study.begin(directory, same_world=study.has_habits_of_study(config, world))
        snakemake(directory, study.OF_A_WORLD, overlay=study.POINT)
    if not planned_only:  # the figure's inputs are the results of the worlds
        snakemake(Path(), study.FIGURE)


def configuration(*files: str) -> Config:
    """The experiment of config.yaml and further files, merged as Snakemake does."""
    merged: dict[str, Any] = {}
    for file in ("config.yaml", *files):
        update_config(merged, yaml.safe_load(Path(file).read_text(encoding="utf-8")))
    return load(merged, ["config.yaml", *files])


def write_yaml(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(content, sort_keys=False))


if __name__ == "__main__":
    run(main, host=True)
