"""Run the smoke run of a profile in this directory, then print one line per stage; `--verdicts` prints them only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tir.common.cli import parser, run
from tir.common.errors import InfrastructureFault
from tir.common.records import write_text
from tir.workflow.findings import table
from tir.workflow.smoke import TARGETS, smoke_profile, verdicts

PROFILE = Path("smoke-profile")


def main() -> None:
    parse = parser(__doc__)
    parse.add_argument("--profile", required=True, help="directory of the profile, e.g. profiles/slurm")
    parse.add_argument("--verdicts", action="store_true", help="judge a run that is finished")
    parse.add_argument("--snakemake", default=str(Path(sys.executable).with_name("snakemake")), help="executable")
    parse.add_argument("more", nargs="*", help="further arguments of Snakemake, after --")
    options = parse.parse_args()
    profile = yaml.safe_load((Path(options.profile) / "config.yaml").read_text(encoding="utf-8"))
    sections = {file: yaml.safe_load(Path(file).read_text(encoding="utf-8")) for file in profile["configfile"]}
    site = {file: section["site"] for file, section in sections.items() if "site" in section}
    on_cpu = any(section.get("device") == "cpu" for section in sections.values())
    status = 0
    if not options.verdicts:
        made = smoke_profile(profile, list(site), on_gpus=not on_cpu)
        PROFILE.mkdir(exist_ok=True)
        write_text(PROFILE / "config.yaml", yaml.safe_dump(made, sort_keys=False))
        command = [options.snakemake, "--profile", str(PROFILE), *options.more, "--", *TARGETS]
        status = subprocess.run(command, check=False).returncode
        if "-n" in options.more:
            sys.exit(status)
    found = verdicts(".", images=any(section.get("containers") for section in site.values()))
    print(table(found))
    failed = [each.check for each in found if not each.ok]
    if failed:
        raise InfrastructureFault(
            "the smoke run failed",
            where=options.profile,
            why=", ".join(failed),
            remedy="apply the first remedy above, then repeat the command; finished stages do not run again",
        )
    if status:
        raise InfrastructureFault(
            "the smoke run failed",
            where=options.profile,
            why=f"Snakemake ended with status {status}; the files of each stage are those of an earlier run",
            remedy="correct what Snakemake's last message above says, then repeat the command",
        )
    print("the smoke run has passed: every stage works")


if __name__ == "__main__":
    run(main, host=True)
