"""The time limit of this job, and a warning before it is reached.

Slurm's warning (`--signal`) goes to every process of a job, also to the one that mounts the image of an unprivileged
container. That process ends, the image disappears, and the stage dies of a bus error instead of saving its work. So the
profile passes each job its end time, and the stage sets its own alarm.
"""

from __future__ import annotations

import os
import signal
import time

# Seconds since 1970. The profile gets the value from Slurm; it is empty if Slurm does not answer.
END_VARIABLE = "JOB_END_TIME"
_LONGEST_LEAD_S = 600.0  # time to write a checkpoint of 3 B parameters, 49 GB: shards, optimizer, and a copy to export


def warning_time() -> tuple[float, float] | None:
    """When to save and exit (seconds since 1970), and the lead: how many seconds before the limit that is.

    The lead is a tenth of the time left now, at most ten minutes. Returns None if the job has no limit.
    """
    end, now = float(os.environ.get(END_VARIABLE) or 0), time.time()
    if end <= now:
        return None
    lead = min(_LONGEST_LEAD_S, (end - now) / 10)
    return end - lead, lead


def set_alarm() -> None:
    """Set a timer that sends SIGALRM to this process at the warning time."""
    if warning := warning_time():
        signal.setitimer(signal.ITIMER_REAL, max(1.0, warning[0] - time.time()))
