"""Experiment trackers beside a training run: TensorBoard, Weights & Biases, MLflow.

The trainers' own loggers write to them. Each logger runs in a thread of its own (`Background`), so a tracker that is
slow or cannot be reached neither stops nor slows a run: its first error is printed, and the run goes on without it. The
JSON Lines of a run are its record. Figures and tables read only them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import queue
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from tir.common.keys import Redaction
from tir.common.subprocesses import end_at_once

TRACKERS = ("tensorboard", "wandb", "mlflow")  # also the names of their packages
VARIABLE = "TIR_TRACKING"  # name and configuration of the run, as JSON, for the process that trains
CLOSE_SECONDS = 5.0  # longest wait at the end of a run, until a tracker has written everything
_KEYS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")


@dataclass(frozen=True)
class TrackedRun:
    """The trackers of a run.

    Attributes:
        name: the run's name in them, a model id.
        trackers: names of the trackers.
        variables: environment variables of the process that trains.
    """

    name: str = ""
    trackers: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of transformers' Trainer; none without trackers."""
        return {"report_to": list(self.trackers), "run_name": self.name} if self.trackers else {}


NOT_TRACKED = TrackedRun()


def add_argument(parse: argparse.ArgumentParser) -> None:
    """Add `--tracking` to the arguments of a script that trains."""
    parse.add_argument("--tracking", type=json.loads, default={}, help="site.tracking, JSON; without it no trackers")


def prepare(settings: Mapping[str, Any], name: str, config: Mapping[str, Any]) -> TrackedRun:
    """The trackers that are asked for and installed in this environment; prints them.

    Args:
        settings: the section `site.tracking`.
        name: the run's name, a model id.
        config: what is shown as the run's configuration; JSON values without secrets.
    """
    asked = settings.get("trackers", [])
    requested = ["tensorboard"] if asked == "auto" else list(asked)
    used = tuple(each for each in requested if importlib.util.find_spec(each))
    if missing := [each for each in requested if each not in used]:
        _say(f"{', '.join(missing)} not installed in this stage's environment ({sys.prefix})")
    if not used:
        return TrackedRun(name)
    directory = Path(settings["directory"]).resolve()
    events = directory / "tensorboard" / name
    try:
        (directory / "wandb" if "wandb" in used else directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _say(f"none, because {directory} cannot be written: {error.strerror}")
        return TrackedRun(name)
    variables = {
        VARIABLE: json.dumps({"name": name, "project": settings["project"], "config": config}),
        "TENSORBOARD_LOGGING_DIR": str(events),  # transformers
        "TENSORBOARD_DIR": str(events),  # verl
        **_wandb(settings, directory, name),
        "MLFLOW_TRACKING_URI": _address(settings, directory),
        "MLFLOW_EXPERIMENT_NAME": settings["project"],
        "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder; a database file is not safe on network file systems
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }
    _say(f"{', '.join(used)}, run {name}, files in {directory}")
    return TrackedRun(name, used, variables)


def _wandb(settings: Mapping[str, Any], directory: Path, name: str) -> dict[str, str]:
    mode = settings["wandb_mode"]
    if mode == "online" and "WANDB_API_KEY" not in os.environ and "wandb" in settings["trackers"]:
        _say("wandb writes offline, because WANDB_API_KEY is not set; `wandb sync` sends its files later")
        mode = "offline"
    return {
        "WANDB_MODE": mode,
        "WANDB_DIR": str(directory),
        "WANDB_PROJECT": settings["project"],
        "WANDB_NAME": name,
        "WANDB_CONSOLE": "off",  # the log of the stage stays here
        "WANDB_SILENT": "true",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_LOG_MODEL": "false",
        "WANDB_WATCH": "false",
    }


def _address(settings: Mapping[str, Any], directory: Path) -> str:
    stated = settings["mlflow_uri"]
    return stated if stated != "none" else os.environ.get("MLFLOW_TRACKING_URI") or (directory / "mlflow").as_uri()


def described() -> dict[str, Any]:
    """`name`, `project` and `config` of this process's run; empty if it has no trackers."""
    return json.loads(os.environ.get(VARIABLE, "{}"))


class Background:
    """A tracker in a thread of its own.

    Args:
        name: the tracker.
        start: makes the logger; runs in the thread.

    After an error the tracker gets no more calls.
    """

    running: list[Background] = []  # of this process

    def __init__(self, name: str, start: Callable[[], Any]):
        self.name = name
        self._calls: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._run, args=(start,), name=f"tracking-{name}", daemon=True)
        self._thread.start()
        self.running.append(self)

    def put(self, call: Callable[[Any], None]) -> None:
        """Call `call(logger)` after the calls before it; returns at once."""
        if not self._failed:
            self._calls.put(call)

    def close(self, call: Callable[[Any], None] | None = None, seconds: float | None = None) -> bool:
        """Make a last call, and wait for all of them, at most CLOSE_SECONDS; whether they were made."""
        if call:
            self.put(call)
        self._calls.put(None)
        self._thread.join(CLOSE_SECONDS if seconds is None else seconds)
        if self.alive:
            _say(f"{self.name} does not answer; the run does not wait for it")
        return not (self.alive or self._failed)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self, start: Callable[[], Any]) -> None:
        try:
            logger = start()
            while call := self._calls.get():
                call(logger)
        except BaseException as error:  # a tracker's client may raise SystemExit
            self._failed = True
            _say(f"{self.name} failed, the run goes on without it: {type(error).__name__}: {_public(str(error))}")


def run(main: Callable[[], None]) -> None:
    """Run the main function of a process that trains; then end the process.

    If a tracker still runs, the process ends without its exit functions: a client would wait for a server that does not
    answer.
    """
    try:
        main()
    except BaseException:
        if any(each.alive for each in Background.running):
            traceback.print_exc()
        leave(1)
        raise
    leave(0)


def leave(status: int) -> None:
    """End this process at once if a tracker still runs."""
    if any(each.alive for each in Background.running):
        end_at_once(status)


def _public(text: str) -> str:
    """The first line of a message, without the keys of the trackers and without names and passwords in addresses."""
    text = re.sub(r"://[^/@\s]+@", "://", text)
    for name in _KEYS:
        if value := os.environ.get(name):
            text = Redaction(SecretStr(value)).in_error(text)
    return text.strip().partition("\n")[0][:300]


def _say(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)
