"""A copy of the finished workflow, for tests that edit it and check which jobs would run again.

Its jobs have run, but each wrote some text into its outputs instead of running its command.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from support.paths import ROOT, SNAKEMAKE

PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "tir", "aspo", "profiles", "envs")
NONE: Mapping[str, str] = MappingProxyType({})


class Forks:
    """Runs of Snakemake with the laptop profile, by `snakemake_forks.py`.

    Attributes:
        modules: names of the workflow's modules that the last run imported.
    """

    def __init__(self, home: Path = ROOT):
        """`home`: the folder in which most runs will be; they take two thirds of the time of others."""
        python, program = SNAKEMAKE.with_name("python"), Path(__file__).with_name("snakemake_forks.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([python, program], cwd=home, **pipes)
        self.modules: list[str] = []

    def run(self, directory: Path, *arguments: str, fake: bool, stop_after: int | None, environment) -> tuple[int, str]:
        """Exit status and output of a run."""
        request = {
            "directory": str(directory),
            "arguments": ["--profile", "profiles/laptop", "--quiet", "host", *arguments],
            "environment": dict(os.environ) | dict(environment),
            "fake": fake,
            "stop_after": stop_after,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.modules = answer["modules"]
        return answer["status"], answer["text"]


@cache
def forks() -> Forks:
    """The process for the runs of all tests."""
    return Forks()


def snakemake(directory: Path, *arguments: str, environment: Mapping[str, str] = NONE, fake: bool = False) -> str:
    """Run Snakemake with the laptop profile; returns its output. `fake`: see `snakemake_forks.py`."""
    status, text = forks().run(directory, *arguments, fake=fake, stop_after=None, environment=environment)
    assert status == 0, text
    return text


def copy_workflow(target: Path) -> Path:
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target / part)
    return target


def finish(directory: Path) -> Path:
    """Run all jobs that are left, without their commands."""
    snakemake(directory, fake=True)
    assert planned(directory) == set()
    return directory


def jobs_of(text: str) -> dict[str, str]:
    """Description of each job that a dry run plans or a run begins, by `rule` or `rule:wildcard,wildcard`."""
    jobs = {}
    for description in re.split(r"^\[.* \d{4}\]$", text, flags=re.MULTILINE)[1:]:
        if not (begun := re.match(r"\s*(?:local)?rule (\w+):", description)):
            continue
        rule = begun[1]
        wildcards = re.search(r"^    wildcards: (.*)", description, re.MULTILINE)
        values = [pair.partition("=")[2] for pair in wildcards[1].split(", ")] if wildcards else []
        jobs[":".join(filter(None, [rule, ",".join(filter(None, values))]))] = description
    return jobs


def planned(directory: Path) -> set[str]:
    """Jobs that would run, as `rule` or `rule:wildcard,wildcard`."""
    return set(jobs_of(snakemake(directory, "-n")))


def rules_of(jobs: set[str]) -> set[str]:
    """Names of the jobs' rules; all tables are `table`, all figures `figure`."""
    names = {re.sub(r"^(table|figure)\d+(_n\d+)?$", r"\1", job.partition(":")[0]) for job in jobs}
    return {"table" if name in ("claims", "arithmetic", "leakage", "judgements") else name for name in names}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)
