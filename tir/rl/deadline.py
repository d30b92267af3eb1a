"""A checkpoint shortly before a job's time is up, whatever `save_freq` says.

A step of the paper's run takes eleven minutes and a checkpoint comes every fifteen steps: without this, a job that meets
its limit loses hours. verl's older trainer does the same for rented machines (`should_save_ckpt_esi`); the present one has
the hook this needs and not the check. The warning signal cannot do it: Slurm sends it to Ray's processes and to the
retrieval server as well, and a step whose helpers end cannot be finished.
"""

from __future__ import annotations

import time

END_VARIABLE = "SLURM_JOB_END_TIME"  # seconds since 1970, set by Slurm in every job
# The profile's warning, at which everything ends, comes 600 s before the limit; a sharded checkpoint takes minutes.
MARGIN_S = 900.0


class Deadline:
    """Watches the length of steps; from the last one that can be saved in time on, every step is.

    Args:
        end: when the job is killed, in seconds since 1970.
        margin_s: seconds before it at which a checkpoint must be complete.
    """

    def __init__(self, end: float, margin_s: float = MARGIN_S):
        self._latest, self._longest, self._began = end - margin_s, 0.0, 0.0

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
