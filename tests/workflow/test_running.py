"""Locks of Snakemake: those of a killed run do not stop the next one, those of a living run stay."""

import signal
import subprocess
import sys

import pytest
from support.paths import ROOT

_RUN = "import sys, time; from tir.workflow import running; running.begin(); print('begun', flush=True); input()"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    return tmp_path


def begin(folder) -> subprocess.Popen:
    """A process that runs the workflow in the folder until its input ends."""
    run = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {_RUN}"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert run.stdout.readline() == "begun\n"
    return run


def test_locks_are_removed_after_the_last_run_has_died(folder):
    lock = folder / ".snakemake/locks/0.input.lock"
    first = begin(folder)
    lock.touch()
    second = begin(folder)
    assert lock.exists()  # the first run lives
    first.send_signal(signal.SIGKILL)
    first.wait()
    third = begin(folder)
    assert lock.exists()  # it could be the second run's
    for run in (second, third):
        run.kill()
        run.wait()
    last = begin(folder)
    assert not lock.exists()
    last.communicate()
    assert [*(folder / ".snakemake/running").iterdir()] == []  # a run that ends leaves nothing


def test_the_run_of_another_machine_may_live(folder):
    lock = folder / ".snakemake/locks/0.input.lock"
    lock.touch()
    (folder / ".snakemake/running/other-host@x").mkdir(parents=True)
    begin(folder).communicate()
    assert lock.exists()
