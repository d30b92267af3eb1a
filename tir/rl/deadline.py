"""Save a checkpoint shortly before a job's time limit, in addition to those of `save_freq`.

In the paper's run a step takes eleven minutes, and every fifteenth step is saved; a job that reaches its time limit
would lose hours. verl's older trainer has such a check (`should_save_ckpt_esi`); its current one has only the hook.
"""

from __future__ import annotations

import time


class Deadline:
    """Measures the duration of steps, and saves every step as soon as the next one might end too late.

    Args:
        latest: time at which a checkpoint must be complete, in seconds since 1970.
    """

    def __init__(self, latest: float):
        self._latest, self._longest, self._began = latest, 0.0, 0.0

    def on_step_begin(self, trainer) -> None:
        """Hook that verl calls with its trainer before each step."""
        now = time.time()
        if self._began:
            self._longest = max(self._longest, now - self._began)
        self._began = now
        # Save the step that begins now if the next one might end after `latest`.
        if self._longest and now + 2 * self._longest > self._latest and trainer.config.trainer.save_freq != 1:
            print(f"close to the job's time limit: saving every step from step {trainer.global_steps} on", flush=True)
            trainer.config.trainer.save_freq = 1
