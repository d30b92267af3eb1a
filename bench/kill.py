"""Kill the stages of the few-step graph at random moments, repeat the command until it finishes, compare every byte.

    make bench-kill KILLS=200       disturb stages 200 times
    make bench-kill KILLS=0         make the whole graph a second time, undisturbed

First the graph is made undisturbed, by the same code, in FOLDER/reference. A round copies it, deletes all outputs of
one job and what it left in its folder, and runs the command that makes them. Each run is disturbed at a random moment:
one of its processes gets SIGKILL or SIGTERM (often a worker, which runs model-written code or serves retrieval), all of
them do, or the disk becomes full for some seconds. The same command is repeated, the last times without a disturbance,
until it succeeds. Then the job's outputs are compared with those of the reference (`bench/outputs.py`).

The copy is on a tmpfs of its own, so that its disk can become full. That needs a mount namespace, as in the Makefile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.outputs import RESULTS, contents, jobs, whole

ROOT = Path(__file__).resolve().parents[1]
CODE = ("Snakefile", "config.yaml", "rules", "scripts", "tir", "aspo", "profiles", "envs", "containers", "docs")
GRAPH = "graph"  # name of a stage: all of them
MARK = "TIR_KILL_ROUND"  # environment variable of every process of a round, to find those that outlive their parent
LIMIT_S = 3600.0
ATTEMPTS = 12  # runs without a disturbance before a round counts as stuck
DISK_BYTES = 2 << 30  # of the copy's tmpfs; a copy takes 0.3 GB


@dataclass
class Outcome:
    """What a round did: kinds of its disturbances, runs of the command, and what differs at its end."""

    stage: str
    kills: Counter = field(default_factory=Counter)
    runs: int = 0
    different: list[str] = field(default_factory=list)


def run(folder: Path, command: list[str], log: Path) -> subprocess.Popen:
    """Start the command; its processes are marked with the folder."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, MARK: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def make_reference(folder: Path, command: list[str], results: Path | None = None) -> Path:
    """Make the graph undisturbed in `folder`, or what is not made yet; returns the folder.

    Args:
        folder: where to make it.
        command: the command, with its targets.
        results: folder with results that may be taken over; those that this code would not make are made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*CODE, *(RESULTS if results else ())):
        source = (results if name in RESULTS else ROOT) / name
        if source.exists():
            subprocess.run(["cp", "-a", "-T", source, folder / name], check=True)
    if not (folder / ".venv").exists():
        (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    log = folder.with_name(f"{folder.name}.log")
    if run(folder, command, log).wait():
        sys.exit(f"the undisturbed run failed, see {log}")
    return folder


class Round:
    """One job, killed several times.

    Args:
        reference: folder of the finished graph; it is only read.
        folder: folder for the copy.
        command: the command that is repeated, without targets.
        stage: name of the stage.
        made: outputs of the job; they are deleted, and the command makes them again. For `GRAPH`, all outputs.
        chance: source of random numbers.
    """

    def __init__(
        self, reference: Path, folder: Path, command: list[str], stage: str, made: list[str], chance: random.Random
    ):
        self.folder, self.log, self.chance, self.outcome = folder, Path(f"{folder}.log"), chance, Outcome(stage)
        self.ended_after_s: float | None = None  # duration of a run that ended before it could be disturbed
        folder.mkdir(parents=True, exist_ok=True)
        self.small = shutil.disk_usage(folder).total <= DISK_BYTES
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        subprocess.run(["cp", "-a", "-T", reference, folder], check=True)
        self.paths = sorted(set(map(whole, made)))
        self.expected = contents(reference, self.paths, ROOT)
        self.command = [*command, *(made if stage != GRAPH else ())]
        for path in (folder / each for each in (self.paths if stage != GRAPH else RESULTS)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def play(self, kills: int, longest_s: float) -> Outcome:
        """Disturb the job `kills` times, then finish it; `longest_s`: latest moment of a disturbance in a run."""
        outcome, quiet = self.outcome, 0
        while quiet < ATTEMPTS:
            disturb = outcome.kills.total() < kills
            outcome.runs += 1
            child = run(self.folder, self.command, self.log)
            try:
                if disturb:
                    self._disturb(child, longest_s)
                status = child.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                outcome.different.append(f"the command did not end within {LIMIT_S:g} s, see {self.log}")
                break
            finally:
                if child.poll() is None:
                    child.kill()
            if status == 0:
                break
            if not disturb:
                quiet += 1
                time.sleep(1)
        else:
            outcome.different.append(f"the command failed {ATTEMPTS} times in a row, see {self.log}")
        self._end_all()
        found = contents(self.folder, self.paths, ROOT)
        outcome.different += sorted(
            path for path in self.expected.keys() | found.keys() if self.expected.get(path) != found.get(path)
        )
        return outcome

    def _disturb(self, child: subprocess.Popen, longest_s: float) -> None:
        """Disturb a run once: mostly when a stage has begun, otherwise at any moment."""
        begun, self.ended_after_s = self.chance.random() < 0.8, None
        while begun and child.poll() is None and not any("scripts." in _words(each) for each in self._processes(child)):
            time.sleep(0.5)
        started = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if child.wait(self.chance.uniform(0.0, longest_s)) == 0:
                self.ended_after_s = time.monotonic() - started
            return
        kind = self.chance.choice(["process", "process", "worker", "run", *(["disk"] if self.small else [])])
        if kind == "disk":
            with _full_disk(self.folder), contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            self.outcome.kills["full disk"] += 1
            return
        processes = self._processes(child)
        workers = [each for each in processes if re.search(r"sandbox|retrieval\.server|math_worker", _words(each))]
        if kind == "worker" and not workers:
            kind = "process"
        if not processes:
            return
        number = self.chance.choice([signal.SIGKILL, signal.SIGTERM])
        among = workers if kind == "worker" else processes
        for victim in processes if kind == "run" else [self.chance.choice(among)]:
            with contextlib.suppress(psutil.Error):
                victim.send_signal(number)
        self.outcome.kills[f"{signal.Signals(number).name} {kind}"] += 1

    def _processes(self, child: subprocess.Popen) -> list[psutil.Process]:
        """Snakemake and its descendants, in a fixed order."""
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(child.pid)
            return [parent, *sorted(parent.children(recursive=True), key=lambda process: process.pid)]
        return []

    def _end_all(self) -> None:
        """End what outlived the round, and only that."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.folder):
                    process.kill()


def _words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """Fill the file system of `folder`."""
    filler = folder / "filler"
    try:
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass
        yield
    finally:
        filler.unlink(missing_ok=True)


def mount_small_disk(folder: Path) -> bool:
    """Mount a tmpfs on the folder; False where this process may not."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tir-kill", str(folder)]
    return subprocess.run(["mount", *options], stderr=subprocess.DEVNULL).returncode == 0


def play(
    reference: Path,
    folder: Path,
    command: list[str],
    kills: int,
    seed: int,
    stages: list[str] | None = None,
    *,
    per_round: int = 5,
    longest_s: float = 60.0,
) -> list[Outcome]:
    """Rounds until `kills` disturbances were made; with 0 kills, one undisturbed round of each stage.

    Stages (None: all) take turns in a random order; a round takes one of the stage's jobs. If a run ended before it
    could be disturbed, its stage is disturbed earlier from then on.
    """
    chance, outcomes, total, latest = random.Random(seed), [], 0, dict[str, float]()
    by_stage = jobs(reference)
    everything = [output for several in by_stage.values() for outputs in several for output in outputs]
    stages = sorted(stages or by_stage)
    while not outcomes or total < kills:
        for stage in chance.sample(stages, len(stages)):
            if outcomes and total >= kills > 0:
                break
            started = time.monotonic()
            made = everything if stage == GRAPH else chance.choice(by_stage[stage])
            this = Round(reference, folder, command, stage, made, chance)
            outcome = this.play(min(per_round, kills - total), latest.get(stage, longest_s))
            if this.ended_after_s is not None:
                latest[stage] = this.ended_after_s
            total += outcome.kills.total()
            outcomes.append(outcome)
            print(
                f"{total:4d} {stage} {made[0] if stage != GRAPH else ''}: {dict(outcome.kills)}, {outcome.runs} runs, "
                f"{time.monotonic() - started:.0f} s, "
                f"{'equal' if not outcome.different else 'DIFFERENT: ' + ', '.join(outcome.different[:8])}",
                flush=True,
            )
            if outcome.different:
                shutil.copy(f"{folder}.log", f"{folder}-{len(outcomes)}.log")
    return outcomes


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--folder", type=Path, default=Path("/tmp/tir-kill"), help="for the reference and the copy")
    parse.add_argument("--profile", default="profiles/ci")
    parse.add_argument("--kills", type=int, default=20)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--stages", nargs="*", help=f"scripts such as train_rl, or `{GRAPH}`; default: each of them")
    parse.add_argument("--longest", type=float, default=60.0, help="latest moment of a disturbance in a run, s")
    options = parse.parse_args()
    folder = options.folder.resolve()
    command = [".venv/workflow/bin/snakemake", "--quiet", "host", "--profile", options.profile]
    started = time.monotonic()
    reference = make_reference(folder / "reference", command)
    print(f"undisturbed reference: {time.monotonic() - started:.0f} s", flush=True)
    if not mount_small_disk(folder / "copy"):
        print("no tmpfs can be mounted here, so the disk never becomes full", flush=True)
    stages = options.stages or ([GRAPH] if not options.kills else None)
    outcomes = play(reference, folder / "copy", command, options.kills, options.seed, stages, longest_s=options.longest)
    total = sum((outcome.kills for outcome in outcomes), Counter())
    wrong = [outcome for outcome in outcomes if outcome.different]
    print(f"{total.total()} disturbances {dict(total)}, {len(outcomes)} rounds, {len(wrong)} with a difference")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
