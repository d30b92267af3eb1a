"""verl's `Tracking` (`trainer.logger`) with each experiment tracker in a thread of its own.

verl writes the metrics of a step to its file last: the launcher ends the process when the file has the last step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from verl.trainer.ppo.v1 import trainer_base
from verl.utils.tracking import Tracking

from tir.common.tracking import TRACKERS, Background, described


class BackgroundTracking:
    """Has the methods of verl's `Tracking` that the trainer calls."""

    def __init__(
        self, project_name: str, experiment_name: str, default_backend: Sequence[str], config: Mapping[str, Any]
    ):
        self._last = config["trainer"]["total_training_steps"]
        record = [name for name in default_backend if name not in TRACKERS]
        self._record = Tracking(project_name, experiment_name, record, config)
        self._trackers = [
            Background(name, lambda name=name: _start(name)) for name in default_backend if name in TRACKERS
        ]

    def log(self, data: Mapping[str, Any], step: int, backend: Any = None) -> None:
        """Log the metrics of a step."""
        numbers = {name: float(value) for name, value in data.items() if isinstance(value, Real)}
        numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
        for each in self._trackers:
            each.put(lambda tracking: _log(tracking, numbers, step))
            if step == self._last:
                each.close(lambda tracking: tracking.finish())
        self._record.log(data, step)

    def finish(self, exit_code: int = 0) -> None:
        self._record.finish(exit_code)


def _start(name: str) -> Tracking:
    run = described()
    tracking = Tracking(run["project"], run["name"], [name], {"trainer": {}, **run["config"]})
    if name not in tracking.logger:
        raise ConnectionError("verl could not start it; the reason is in its warnings")
    if name == "tensorboard":
        text = f"```json\n{json.dumps(run['config'], indent=1)}\n```"
        tracking.logger[name].writer.add_text("configuration", text)
    return tracking


def _log(tracking: Tracking, numbers: Mapping[str, float], step: int) -> None:
    tracking.log(numbers, step)
    if "tensorboard" in tracking.logger:
        tracking.logger["tensorboard"].writer.flush()


def install() -> None:
    """Make verl's trainer use `BackgroundTracking`, if this process's run has trackers."""
    if described():
        trainer_base.Tracking = BackgroundTracking
