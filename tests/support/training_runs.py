"""Training with the real LLaMA-Factory by a script, as a rule runs it, for tests that interrupt it."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.paths import ROOT
from support.processes import alive, wait_until

from tir.sft.log import read_trainer_log

SFT_PYTHON = ROOT / ".venv/sft/bin/python"


class Training:
    """A run of a training script.

    Args:
        script: its module.
        run: the run's directory.
        arguments: values of the script's options, by option.
    """

    def __init__(self, script: str, run: Path, arguments: Mapping[str, Any]):
        self.run = run
        self._command = [SFT_PYTHON, "-m", script, *(str(word) for pair in arguments.items() for word in pair)]

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(self._command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def finish(self) -> str:
        """Run to the end; returns the output."""
        process = self.start()
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
        return errors

    def wait_for(self, process: subprocess.Popen, step: int) -> None:
        """Wait until the run has logged a step."""
        log = self.run / "checkpoints" / "trainer_log.jsonl"
        reached = lambda: any(each["current_steps"] >= step for each in read_trainer_log(log))  # noqa: E731
        wait_until(lambda: reached() or process.poll() is not None, 600)
        assert process.poll() is None and reached(), process.stderr.read()


def gone(processes: set[int]) -> bool:
    """Whether these processes end within a minute."""
    return wait_until(lambda: not any(map(alive, processes)), 60)
