"""The state of a run in progress, read from Snakemake's log, the logs of its jobs and Slurm; no server is asked.

Snakemake writes its whole log to `.snakemake/log`, whatever it prints. It names each job that is started, its log and
its job in Slurm, and later its end. Progress is the last line of a job's log that counts something (`step 5/26, loss
4.98`, `12/40 trajectories`). Only the standard library is imported, so the answer takes a fraction of a second.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tir.common.subprocesses import tail

SLURM_SECONDS = 0.7  # longest wait for squeue and for sacct
MOST = 40  # jobs in the table
WIDTHS = {"job": 44, "state": 12, "where": 22, "progress": 34, "last line of the log": 70}
_TIME = re.compile(r"\[(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\]")
_BEGIN = re.compile(r"(?:local)?rule (\w+):")
_ERROR = re.compile(r"Error in (?:local)?rule (\w+)")
_FIELD = re.compile(r"    (jobid|log|wildcards|resources|message|external_jobid): (.*)")
_SUBMITTED = re.compile(r"Job (\d+) has been submitted with SLURM jobid (\S+)")
_DONE = re.compile(r"Finished jobid: (\d+)")
_STATS = re.compile(r"(\w+) +(\d+)$")
_COUNT = re.compile(r"(?:step )?\d[\d,]*/\d(?:[\d,]*\d)?(?: [a-z]+|, (?:eval_)?loss [\d.]+|  score -?[\d.]+)?")
_LEFT = re.compile(r"(\d+) s left")


@dataclass
class Job:
    """A job that was started.

    Attributes:
        name: rule and wildcards, e.g. `traces sft/gsm8k`.
        state: `running`, `failed`, `done`, or for a job in Slurm what squeue says.
        why: the reason that Snakemake states for a failure.
        gpu, node: GPUs and node that it asked for or has.
        left: time until its limit (Slurm), or what its log expects.
    """

    rule: str
    name: str = ""
    logs: list[str] = field(default_factory=list)
    since: datetime | None = None
    state: str = "running"
    why: str = ""
    slurm: str = ""
    gpu: str = ""
    node: str = ""
    left: str = ""


@dataclass
class Run:
    """A run of Snakemake: jobs by its number for them, numbers of planned jobs by rule, the last event, its end."""

    jobs: dict[int, Job] = field(default_factory=dict)
    planned: Counter = field(default_factory=Counter)
    last: datetime | None = None
    ended: bool = False


def newest_log(folder: Path) -> Path | None:
    """The log of the last run. Plans write none, and neither do the Snakemakes that run single jobs of a cluster."""
    return max(folder.glob("*.snakemake.log"), default=None)


def read(lines: Iterable[str]) -> Run:
    """What a log of Snakemake says about its run."""
    run, job, number, failed, in_stats = Run(), None, None, False, False
    for line in lines:
        if line.startswith("    input: "):
            continue  # these lines are most of a log
        if not line.endswith("\n"):
            break  # it is being written
        line = line.rstrip("\n")
        if match := _TIME.match(line):
            run.last = datetime.strptime(match[1], "%a %b %d %H:%M:%S %Y")
        elif line.startswith("Job stats:"):
            in_stats = True
        elif in_stats and (match := _STATS.match(line)):
            run.planned[match[1]] += int(match[2]) if match[1] not in ("total", "all") else 0
        elif in_stats and not line:
            in_stats = False
        elif match := _BEGIN.match(line):
            job, number, failed = Job(match[1], match[1], since=run.last), None, False
        elif match := _ERROR.match(line):
            job, number, failed = Job(match[1], match[1]), None, True
        elif job and (match := _FIELD.match(line)):
            key, value = match.groups()
            if key == "jobid":
                number = int(value)
                job = _known(run, number, job, failed)
            elif key == "message":
                job.why = "" if value == "None" else value
            else:
                _set(job, key, value)
        elif match := _SUBMITTED.match(line):
            if int(match[1]) in run.jobs:
                run.jobs[int(match[1])].slurm = match[2]
        elif match := _DONE.match(line):
            run.jobs.setdefault(int(match[1]), Job("")).state = "done"
        elif line.startswith(("Complete log", "Nothing to be done")):
            run.ended = True
    return run


def _known(run: Run, number: int, job: Job, failed: bool) -> Job:
    """The job with this number: a new one, one that starts again, or the one that an error is about."""
    if failed and number in run.jobs:
        run.jobs[number].why = job.why
        job = run.jobs[number]
    run.jobs[number] = job
    if failed:
        job.state = "failed"
    return job


def _set(job: Job, key: str, value: str) -> None:
    if key == "log":
        job.logs = [each.removesuffix(" (check log file(s) for error details)") for each in value.split(", ")]
    elif key == "wildcards":
        values = [pair.partition("=")[2].strip("/") for pair in value.split(", ")]
        job.name = f"{job.rule} {'/'.join(filter(None, values))}"
    elif key == "external_jobid":
        job.slurm = value
    elif key == "resources":
        stated = re.search(r"gres=\W*gpu:([\w.:-]+)", value) or re.search(r"\bgpu=(\d+)", value)
        job.gpu = stated[1] if stated and stated[1] != "0" else ""


def ask_slurm(run: Run) -> list[str]:
    """Add Slurm's state of each job that has not ended; returns a sentence for each query that Slurm did not answer."""
    waiting = {job.slurm: job for job in run.jobs.values() if job.slurm and job.state == "running"}
    notes: list[str] = []
    if not waiting:
        return notes
    rows = _ask(["squeue", "--noheader", "--jobs", ",".join(waiting), "--format", "%i|%T|%L|%N|%b|%r"], notes)
    for row in rows or []:
        number, state, left, node, gres, reason = (row.split("|") + [""] * 6)[:6]
        if job := waiting.pop(number, None):
            job.state, job.node = state.lower(), node
            job.gpu = re.sub(r"^(gres[:/])?gpu:", "", gres) if "gpu" in gres else job.gpu
            job.left = left if state == "RUNNING" else ""
            job.why = reason if state == "PENDING" and reason != "None" else ""
    if rows is not None and waiting and shutil.which("sacct"):
        rows = _ask(["sacct", "-n", "-P", "-X", "-j", ",".join(waiting), "-o", "JobID,State,NodeList"], notes)
        for row in rows or []:
            number, state, node = (row.split("|") + [""] * 3)[:3]
            if job := waiting.pop(number, None):
                job.state, job.node = state.lower(), node
    for job in waiting.values():
        job.state = "not known" if rows is None else "left queue"
    return notes


def _ask(command: list[str], notes: list[str]) -> list[str] | None:
    """Lines of a program of Slurm; None if it is missing, fails or is too slow."""
    try:
        asked = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    except FileNotFoundError:
        notes.append(f"There is no {command[0]} on this machine, so the states of the jobs in Slurm are not known.")
        return None
    try:
        found, error = asked.communicate(timeout=SLURM_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(asked.pid, signal.SIGKILL)  # on some clusters it is a script, whose child would hold the pipe
        asked.communicate()
        notes.append(f"{command[0]} did not answer within {SLURM_SECONDS} s.")
        return None
    if asked.returncode:
        notes.append(f"{command[0]} failed: {(error.strip().splitlines() or ['no message'])[-1][:200]}")
        return None
    return found.splitlines()


def report(run: Run, notes: Iterable[str] = (), *, now: datetime, root: Path = Path()) -> str:
    """The table of the jobs that run, wait in Slurm or have failed, and the numbers of the others."""
    states = Counter(job.state for job in run.jobs.values())
    waiting = run.planned - Counter(job.rule for job in run.jobs.values())
    total = max(sum(run.planned.values()), len(run.jobs))
    counted = [f"{states.pop('done', 0)} of {total} jobs done", *(f"{n} {state}" for state, n in states.items())]
    counted += [f"{sum(waiting.values())} not started"] if waiting else []
    lines = [f"{', '.join(counted)}. {_when(run, now)}"]
    active = [job for job in run.jobs.values() if job.state not in ("done", "failed")]
    failed = [job for job in run.jobs.values() if job.state == "failed"]
    shown = [*failed, *sorted(active, key=lambda job: (job.state == "pending", job.name))]
    if shown:
        lines += ["", *_table([_row(job, now, root) for job in shown[:MOST]])]
    if len(shown) > MOST:
        lines.append(f"and {len(shown) - MOST} more jobs")
    for job in failed:
        lines += ["", f"FAILED: {job.name}" + (f": {_clean(job.why)}" if job.why else "")]
        for log in job.logs:
            lines += [f"  the end of {log}:", *(f"    {_clean(line)[:160]}" for line in tail(root / log, 6))]
    if waiting:
        lines += ["", "not started: " + ", ".join(f"{n} {rule}" for rule, n in waiting.most_common())]
    return "\n".join([*lines, *notes])


def _when(run: Run, now: datetime) -> str:
    if run.last is None:
        return "No job has begun, or the run was started with `--quiet all`, which keeps its log empty."
    ago = _duration((now - run.last).total_seconds())
    return f"The run has ended, {ago} ago." if run.ended else f"Last event {ago} ago."


def _row(job: Job, now: datetime, root: Path) -> Mapping[str, str]:
    lines = [line for log in job.logs for line in tail(root / log, 40)]
    counts = [(match[0], line) for line in lines if (match := _COUNT.search(line))]
    left = job.left
    if not left and counts and job.state == "running" and (match := _LEFT.search(counts[-1][1])):
        left = f"~{_duration(float(match[1]))}"
    node = job.node or ("" if job.slurm or job.state == "failed" else socket.gethostname())
    return {
        "job": job.name,
        "state": job.state,
        "where": " ".join(filter(None, [job.gpu, node])),
        "progress": " ".join(counts[-1][0].split()) if counts else "",
        "for": _duration((now - job.since).total_seconds()) if job.since and job.state == "running" else "",
        "left": left,
        "last line of the log": _clean(job.why if job.state == "pending" and job.why else (lines or [""])[-1]),
    }


def _table(rows: list[Mapping[str, str]]) -> list[str]:
    cells = [{name: name for name in rows[0]}, *rows]
    cells = [{name: _short(text, WIDTHS.get(name, 12)) for name, text in row.items()} for row in cells]
    widths = {name: max(len(row[name]) for row in cells) for name in cells[0] if any(row[name] for row in cells[1:])}
    return ["  ".join(row[name].ljust(widths[name]) for name in widths).rstrip() for row in cells]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _clean(text: str) -> str:
    """A line of a log without control characters: it may hold what a model wrote."""
    return "".join(sign if sign.isprintable() else "·" for sign in text.strip())


def _duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return (
        f"{max(0, int(seconds))} s"
        if not minutes
        else f"{hours} h {minutes % 60:02} min"
        if hours
        else f"{minutes} min"
    )
