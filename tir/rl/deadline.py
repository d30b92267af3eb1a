"""A checkpoint shortly before a job's time is up, whatever `save_freq` says.

A step of the paper's run takes eleven minutes and a checkpoint comes every fifteen steps: without this, a job that meets
its limit loses hours. verl's older trainer does the same for rented machines (`should_save_ckpt_esi`); the present one has
the hook this needs and not the check.
"""

from __future__ import annotations

import time


class Deadline:
    """Watches the length of steps; from the last one that can be saved in time on, every step is.

    Args:
        latest: when a checkpoint must be complete, in seconds since 1970.
    """

    def __init__(self, latest: float):
        self._latest, self._longest, self._began = latest, 0.0, 0.0

    def on_step_begin(self, trainer) -> None:
        """verl's hook: called with its trainer before each step."""
        now = time.time()
        if self._began:
            self._longest = max(self._longest, now - self._began)
        self._began = now
        # The step that begins now is saved if the one after it might not be.
        if self._longest and now + 2 * self._longest > self._latest and trainer.config.trainer.save_freq != 1:
            print(f"the job's time is nearly up: saving every step from step {trainer.global_steps} on", flush=True)
            trainer.config.trainer.save_freq = 1
