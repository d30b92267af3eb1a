"""How long this job may run, and a warning before that is over.

Slurm's own warning (`--signal`) goes to every process of a job. One of them mounts the image of an unprivileged
container: it ends, and whatever else the stage needs from the image is gone, so that it dies of a bus error where it
should save. So the profile tells each job when it ends, and a stage warns itself.
"""

from __future__ import annotations

import os
import signal
import time

END_VARIABLE = "JOB_END_TIME"  # seconds since 1970; the profile asks Slurm for it, and leaves it empty without an answer
_LONGEST_LEAD_S = 600.0  # a sharded checkpoint of 3 B parameters with its optimizer is 40 GB


def warning_time() -> tuple[float, float] | None:
    """When to save and end, in seconds since 1970, and how many seconds are left then; None where there is no limit.

    The lead is a tenth of the time that is left now, at most ten minutes.
    """
    end, now = float(os.environ.get(END_VARIABLE) or 0), time.time()
    if end <= now:
        return None
    lead = min(_LONGEST_LEAD_S, (end - now) / 10)
    return end - lead, lead


def set_alarm() -> None:
    """Have SIGALRM sent to this process at the warning time."""
    if warning := warning_time():
        signal.setitimer(signal.ITIMER_REAL, max(1.0, warning[0] - time.time()))
