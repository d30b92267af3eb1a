"""Kill a finished workflow's stages at random moments, repeat the command until it finishes, and compare every byte.

    make demo PROFILE=profiles/ci
    make bench-kill KILLS=200

A round copies the finished folder, deletes the outputs of one stage, and runs the command that makes them. Each run is
disturbed at a random moment: a random process of it gets SIGKILL or SIGTERM (often one that runs model-written code or
serves retrieval), the whole run does, or the disk becomes full for some seconds. The same command is repeated, the last
times without a disturbance, until it succeeds. Then the stage's outputs are compared with those of the finished folder.

Not compared: times, and files that consist of them (`TIMES`).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = ROOT / ".venv/workflow/bin/snakemake"
MARK = "TIR_KILL_ROUND"  # environment variable of every process of a round, to find those that outlive their parent
LIMIT_S = 900.0
ATTEMPTS = 12  # runs without a disturbance before a round counts as stuck
LINKED = (".venv", ".git")
TIMES = (
    "table8",
    "resources",
    "items.parquet",
    "retrieval_smoke",
    "wall_clock",
    "verl.log",
    "manifest.json",
    "provenance",
    "retrieval.log",
)
_TIME_KEYS = {"seconds", "timings", "tool_seconds", "elapsed_time", "remaining_time"}


@dataclass
class Outcome:
    """What a round did: kinds of its disturbances, runs of the command, and what differs at its end."""

    stage: str
    kills: Counter = field(default_factory=Counter)
    runs: int = 0
    different: list[str] = field(default_factory=list)


def outputs(folder: Path, command: list[str]) -> dict[str, list[str]]:
    """Existing output files of each rule."""
    done = subprocess.run([*command, "--summary"], cwd=folder, capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    made: dict[str, list[str]] = {}
    for row in rows:
        if (folder / row[0]).exists():
            made.setdefault(re.sub(r"^(table|figure)\w+", r"\1", row[2]), []).append(row[0])
    return made


def whole(output: str) -> str:
    """What belongs to an output: the folder of a model, an index or a run, else the file."""
    return str(Path(output).parent) if Path(output).name in ("manifest.json", "metrics.jsonl") else output


def contents(folder: Path, paths: Iterable[str]) -> dict[str, str]:
    """Digest of each compared file at or below the paths, by path; times are left out of records."""
    found = {}
    for top in sorted(folder / path for path in paths):
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and not any(name in str(path.relative_to(folder)) for name in TIMES):
                found[str(path.relative_to(folder))] = hashlib.sha256(_without_times(path)).hexdigest()
    return found


def _without_times(path: Path) -> bytes:
    if path.suffix != ".jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [
        {key: value for key, value in row.items() if key not in _TIME_KEYS and not key.startswith(("timing", "perf/"))}
        for row in rows
    ]
    return json.dumps(kept, sort_keys=True).encode()


class Round:
    """One stage, killed several times.

    Args:
        finished: folder of the finished workflow; it is only read.
        folder: folder for the copy.
        command: the command that is repeated, without targets.
        stage: name of a rule.
        made: its outputs; they are deleted, and the command makes them again.
        chance: source of random numbers.
    """

    def __init__(
        self, finished: Path, folder: Path, command: list[str], stage: str, made: list[str], chance: random.Random
    ):
        self.folder, self.chance, self.outcome = folder, chance, Outcome(stage)
        self._copy(finished)
        self.paths = sorted(set(map(whole, made)))
        self.expected, self.command = contents(finished, self.paths), [*command, *made]
        for path in self.paths:
            shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()

    def _copy(self, finished: Path) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for path in finished.iterdir():
            if path.name in LINKED:
                (self.folder / path.name).symlink_to(path.resolve())
            else:
                subprocess.run(["cp", "-a", str(path), str(self.folder)], check=True)

    def play(self, kills: int, longest_s: float) -> Outcome:
        """Disturb the stage `kills` times, then finish it; `longest_s`: latest moment of a disturbance in a run."""
        outcome, log = self.outcome, self.folder / "kill.log"
        quiet = 0
        while quiet < ATTEMPTS:
            disturb = sum(outcome.kills.values()) < kills
            outcome.runs += 1
            with open(log, "ab") as output:
                child = subprocess.Popen(
                    self.command,
                    cwd=self.folder,
                    env={**os.environ, MARK: str(self.folder)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                try:
                    if disturb:
                        self._disturb(child, self.chance.uniform(0.5, longest_s))
                    status = child.wait(LIMIT_S)
                except subprocess.TimeoutExpired:
                    outcome.different.append(f"the command did not end within {LIMIT_S:g} s")
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
            outcome.different.append(f"the command failed {ATTEMPTS} times in a row, see {log}")
        self._end_all()
        found = contents(self.folder, self.paths)
        outcome.different += sorted(
            path for path in self.expected.keys() | found.keys() if self.expected.get(path) != found.get(path)
        )
        return outcome

    def _disturb(self, child: subprocess.Popen, delay_s: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(delay_s)
            return  # the stage was finished before
        processes = self._processes(child.pid)
        kind = self.chance.choice(["process", "process", "tool", "run", "disk"])
        number = self.chance.choice([signal.SIGKILL, signal.SIGTERM])
        if kind == "disk":
            with _full_disk(self.folder) as full:
                if full:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(10)
                    self.outcome.kills["full disk"] += 1
                    return
        if not processes:
            return
        tools = [each for each in processes if "sandbox" in _words(each) or "retrieval" in _words(each)]
        victims = processes if kind == "run" else [self.chance.choice(tools if kind == "tool" and tools else processes)]
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.send_signal(number)
        self.outcome.kills[f"{signal.Signals(number).name} {kind}"] += 1

    def _processes(self, root: int) -> list[psutil.Process]:
        """Snakemake and its descendants, in a fixed order."""
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(root)
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
def _full_disk(folder: Path) -> Iterator[bool]:
    """Fill the file system of `folder` if it is a small one (a tmpfs); yields whether it did."""
    filler, free = folder / "filler", shutil.disk_usage(folder).free
    if free > 4 << 30:
        yield False
        return
    try:
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        yield True
    finally:
        filler.unlink(missing_ok=True)


def play(
    finished: Path,
    folder: Path,
    profile: str,
    kills: int,
    seed: int,
    stages: list[str] | None = None,
    *,
    per_round: int = 5,
    longest_s: float = 60.0,
) -> list[Outcome]:
    """Rounds until `kills` disturbances were made; stages (None: all) take turns in a random order."""
    chance, outcomes, total = random.Random(seed), [], 0
    command = [str(SNAKEMAKE), "--quiet", "host", "--profile", profile]
    by_rule = outputs(finished, command)
    stages = sorted(stages or by_rule)
    while total < kills:
        for stage in chance.sample(stages, len(stages)):
            if total >= kills:
                break
            started = time.monotonic()
            several = sorted(by_rule[stage])
            chosen = chance.sample(several, min(len(several), 4))
            disturbed = Round(finished, folder, command, stage, chosen, chance)
            outcome = disturbed.play(min(per_round, kills - total), longest_s)
            total += sum(outcome.kills.values())
            outcomes.append(outcome)
            print(
                f"{total:4d} {stage}: {dict(outcome.kills)}, {outcome.runs} runs, {time.monotonic() - started:.0f} s, "
                f"{'equal' if not outcome.different else 'DIFFERENT: ' + ', '.join(outcome.different[:8])}",
                flush=True,
            )
            if outcome.different:
                shutil.copy(folder / "kill.log", f"{folder}-{total}.log")
    return outcomes


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--finished", type=Path, default=ROOT, help="folder of a finished workflow")
    parse.add_argument("--folder", type=Path, required=True, help="folder for copies; a small tmpfs fills up too")
    parse.add_argument("--profile", default="profiles/ci")
    parse.add_argument("--kills", type=int, default=200)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--stages", nargs="*", help="rules; default: all that have made files")
    parse.add_argument("--longest", type=float, default=60.0, help="latest moment of a disturbance in a run, s")
    options = parse.parse_args()
    outcomes = play(
        options.finished.resolve(),
        options.folder.resolve(),
        options.profile,
        options.kills,
        options.seed,
        options.stages,
        longest_s=options.longest,
    )
    total = sum((outcome.kills for outcome in outcomes), Counter())
    wrong = [outcome for outcome in outcomes if outcome.different]
    print(f"{sum(total.values())} disturbances {dict(total)}, {len(outcomes)} rounds, {len(wrong)} with a difference")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
