"""One RL run from its inputs to metrics and policies: prepares, starts verl, watches, resumes, checks, collects.

    run directory                              after a complete run
    ├── metrics.jsonl                          one object per step (see `tir.rl.metrics`)
    ├── policies/step{N}/                      Hugging Face directory of every saved step
    ├── rollouts/{train,val}_{N}.jsonl         every trajectory with its reward
    ├── wall_clock.jsonl                       when what happened
    ├── verl.log, overrides.txt                output of verl; what it was told
    └── checkpoints/, records/                 until the run is `delivered`: what it resumes from

A killed run continues from its last complete checkpoint when the same command is given again. A run whose settings or inputs
have changed starts afresh.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tenacity

from tir.errors import CheckpointError, InfrastructureFault, TirError
from tir.records import digest, file_digest, read_json, write_json, write_text
from tir.rl import processes
from tir.rl.collect import collect, verl_logs
from tir.rl.data import prepare_rows
from tir.rl.export import export_policy
from tir.rl.forkserver import write_stand_in
from tir.rl.metrics import drop_records, read_log
from tir.rl.overrides import RunFiles, environment, overrides, rollout_dtype
from tir.rl.settings import RlSettings
from tir.settings import merged
from tir.tools.registry import files_of, kind, modules
from tir.workflow import code

ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.5
RETRY_WAIT_S = 10.0  # before a slow start of Ray is tried again
_FORKED_SCRIPTS = ("setup_worker.py", "default_worker.py")  # what Ray starts a worker with, one after the other
_LONGEST_SCRATCH = 40  # Ray appends about 65 characters to it; a socket's path ends at 107


class SlowStart(InfrastructureFault):
    """Ray gave its own node 30 s to start, which a loaded machine can exceed; nothing was trained yet."""


class TrainingFailed(TirError):
    """verl ended with an error of its own, or without what was asked for."""


@dataclass(frozen=True)
class RunInputs:
    """What a run reads.

    Attributes:
        model: Hugging Face directory of the starting policy.
        train, validation: parquet files in the upstream columns.
        system_prompt: text of the system turn.
        endpoint: address of the retrieval server, or None for a run without search.
        index: directory of the index it serves, if there is one.
        operation: how long its tools are waited for, and the like; a run goes on if this has changed.
    """

    model: Path
    train: Path
    validation: Path
    system_prompt: str
    endpoint: str | None = None
    index: Path | None = None
    operation: Mapping[str, Any] = field(default_factory=dict)


def train(settings: RlSettings, inputs: RunInputs, directory: str | os.PathLike, *, stall_s: float = 7200.0) -> list[Path]:
    """Train one arm with one seed; returns the policies' directories, one per saved step.

    What a repetition would need stays until it is `delivered` (`tir.rl.collect`).

    Args:
        settings: the run.
        inputs: what it reads.
        directory: the run's own directory.
        stall_s: seconds without a finished step after which the run counts as hung and ends.

    Raises:
        InfrastructureFault: a tool, the rollout engine or the machine failed; running again resumes.
        TrainingFailed: verl failed otherwise; says with what.
        CheckpointError: verl ended well but the last step's policy is not there.
    """
    run = _Run(settings, inputs, Path(directory).resolve(), stall_s)
    run.open()
    run.mend()
    for attempt in tenacity.Retrying(retry=tenacity.retry_if_exception_type(SlowStart), reraise=True,
                                     stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(RETRY_WAIT_S)):
        with attempt:
            if run.saved_step() < settings.steps:
                with run.scratch() as files:
                    run.execute(files)
    return collect(run.directory, settings)


class _Run:
    """State of a run on disk, and the process that advances it."""

    def __init__(self, settings: RlSettings, inputs: RunInputs, directory: Path, stall_s: float):
        self.settings, self.inputs, self.directory, self.stall_s = settings, inputs, directory, stall_s
        self.records, self.policies = directory / "records", directory / "policies"

    # --- before -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the directory; set aside what belongs to other settings, inputs or code."""
        found, work = self.directory / "work.json", self._work()
        if found.exists() and read_json(found)["digest"] != digest(work):
            print("settings, inputs or code have changed: the run starts afresh", file=sys.stderr)
            shutil.rmtree(self.directory)
        elif self._last_policy().is_dir() and not (self._complete() or self.records.is_dir()):
            # It was delivered and its metrics were taken away: whoever did that wants the run again.
            shutil.rmtree(self.directory)
        for path in (self.directory, self.policies, self.directory / "logs"):
            path.mkdir(parents=True, exist_ok=True)
        write_json(found, {"digest": digest(work), **work})

    def mend(self) -> None:
        """Export the policy of verl's last checkpoint if a kill came in between, so that verl and this agree on the step."""
        step = self._checkpoint()
        if not step or (self.policies / f"step{step}").is_dir():
            return
        checkpoints = self.directory / "checkpoints"
        try:
            export_policy(checkpoints / f"global_step_{step}" / "actor" / "huggingface", self.inputs.model,
                          self.policies / f"step{step}", rollout_dtype(self.settings))
        except CheckpointError as error:
            print(f"the checkpoint of step {step} is unusable, the run starts afresh: {error}", file=sys.stderr)
            shutil.rmtree(checkpoints)

    def _checkpoint(self) -> int:
        """Step of verl's last complete checkpoint, or 0."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.directory / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
        return 0

    def _work(self) -> dict[str, Any]:
        """What a run is, as a JSON value: another one must not continue from its checkpoints."""
        inputs = self.inputs
        # What runs inside verl's processes, and what they are told; the launcher itself decides no result. The shaping
        # term's name is not written out, so that an arm without one does not depend on its code (see `tir.workflow.code`).
        shaping = [f"{self.settings.estimator}.integration"] if self.settings.estimator != "grpo" else []
        tools = _tools(self.settings, inputs)
        route = sorted({name for names in tools["routes"].values() for name in names})
        files = code("tir.rl.agent_loop", "tir.rl.overrides", *shaping, *modules(route))
        answered_from = files_of([name for name in route if inputs.index or not kind(name).retrieval], tools, inputs.index or "")
        return {"settings": asdict(self.settings), "system_prompt": inputs.system_prompt,
                "train": file_digest(inputs.train), "validation": file_digest(inputs.validation),
                "model": {path.name: file_digest(path) for path in sorted(inputs.model.glob("*.safetensors"))},
                "answered_from": {file: file_digest(file) for file in answered_from},
                "code": {file: file_digest(ROOT / file) for file in files}}

    def _last_policy(self) -> Path:
        return self.policies / f"step{self.settings.steps}"

    def _complete(self) -> bool:
        return (self.directory / "metrics.jsonl").exists() and self._last_policy().is_dir()

    def saved_step(self) -> int:
        """Step of the last complete checkpoint whose policy has been exported, or 0; all steps of a complete run."""
        if self._complete():
            return self.settings.steps
        step = self._checkpoint()
        return step if (self.policies / f"step{step}").is_dir() else 0

    @contextlib.contextmanager
    def scratch(self) -> Iterator[RunFiles]:
        """Prepare what verl reads; yield the paths, with a scratch directory that is gone afterwards."""
        settings, inputs, directory = self.settings, self.inputs, self.directory
        files = {name: directory / f"{name}.parquet" for name in ("train", "validation")}
        prepare_rows(inputs.train, files["train"], inputs.system_prompt, settings.rows)
        prepare_rows(inputs.validation, files["validation"], inputs.system_prompt)
        loop = directory / "loop.json"
        write_json(loop, {"tools": _tools(settings, inputs), "endpoint": inputs.endpoint, "reward": dict(settings.reward),
                          "max_response_tokens": settings.max_response_tokens, "seed": settings.seed,
                          "records": str(self.records)})
        write_json(directory / "loop.yaml", [{"name": "tir", "_target_": "tir.rl.agent_loop.TirAgentLoop",
                                              "settings": str(loop)}])  # JSON is YAML
        base = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST_SCRATCH - 15 else "/tmp"
        scratch = Path(tempfile.mkdtemp(prefix="tir-rl-", dir=base))
        self._forget_scratch()
        write_text(self.directory / "scratch", str(scratch))
        try:
            token = scratch / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            paths = RunFiles(inputs.model.resolve(), files["train"], files["validation"], directory / "loop.yaml", directory, scratch)
            write_stand_in(str(paths.python), str(scratch / "fork"), _FORKED_SCRIPTS)
            yield paths
        finally:
            self._forget_scratch()

    def _forget_scratch(self) -> None:
        """Remove the scratch directory of this run, or of an earlier attempt that was killed outright."""
        note = self.directory / "scratch"
        with contextlib.suppress(OSError):
            path = note.read_text(encoding="utf-8")
            if Path(path).name.startswith("tir-rl-") and not processes.marked(path):
                shutil.rmtree(path, ignore_errors=True)
            note.unlink()

    # --- while verl runs ----------------------------------------------------------------------------------------------

    def execute(self, files: RunFiles) -> None:
        """Run verl from the last checkpoint to the last step."""
        start = self.saved_step()
        self.records.mkdir(exist_ok=True)
        logged = {step for log in verl_logs(self.directory) for step, _ in read_log(log)}
        validate = start == 0 or start not in logged
        drop_records(self.records, start if start else -1, validate=validate)
        (self.directory / "fault.json").unlink(missing_ok=True)
        arguments = overrides(self.settings, files, validate_first=validate)
        write_text(self.directory / "overrides.txt", "\n".join(arguments) + "\n")
        log = self.directory / "logs" / f"verl_{len(verl_logs(self.directory)):03d}.jsonl"
        # Snakemake says in this variable how many of the machine's cores are this job's.
        threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "VERL_", "TIR_FORK"))}
        variables = inherited | environment(self.settings, files, threads) | {
            "VERL_FILE_LOGGER_PATH": str(log), "TIR_PARENT": str(os.getpid()),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
        log.touch()
        self._event("start", step=start)
        process = processes.start([sys.executable, "-m", "tir.rl.entry", *arguments], variables, ROOT, self.directory / "verl.log")
        try:
            status = self._watch(process, log, start)
        finally:
            processes.end(process, str(files.scratch), grace_s=2.0 if self.saved_step() == self.settings.steps else 15.0)
            self._event("end", step=self.saved_step())
        self._check(status)

    def _watch(self, process, log: Path, start: int) -> int:
        """Report steps as they are logged, until the process ends; returns its status."""
        began = last = time.monotonic()
        told = 0
        while True:
            status = processes.wait(process, _POLL_SECONDS)
            rows = read_log(log)
            for step, metrics in rows[told:]:
                now = time.monotonic()
                own = metrics.get("timing_s/step", 0.0) + metrics.get("timing_s/testing", 0.0)
                if not told and rows[0][0] == step:
                    self._event("ready", seconds=round(now - began - own, 2))
                seconds = own or now - last
                self._event("step" if step > start else "validation", step=step, seconds=round(seconds, 2))
                print(self._progress(step, metrics, seconds), file=sys.stderr, flush=True)
                last = now
            told = len(rows)
            if status is not None:
                return status
            if rows and rows[-1][0] == self.settings.steps == self.saved_step():
                return 0  # the last row is written after everything else; Ray's own farewell takes seconds
            if time.monotonic() - last > self.stall_s:
                raise InfrastructureFault("training hangs", where=str(self.directory / "verl.log"),
                                          why=f"no step finished in {self.stall_s:g} s (since {last - began:.0f} s after the start)",
                                          remedy="run the same command again; it continues from the last checkpoint")

    def _progress(self, step: int, metrics: dict[str, float], seconds: float) -> str:
        parts = [f"step {step}/{self.settings.steps}"]
        if "critic/score/mean" in metrics:
            parts += [f"score {metrics['critic/score/mean']:.3f}", f"length {metrics['response_length/mean']:.0f}"]
        parts += [f"validation {value:.3f}" for name, value in metrics.items() if name.startswith("val/test_score/")]
        return "  ".join([*parts, f"{seconds:.1f} s"])

    def _check(self, status: int) -> None:
        """Raise the named cause if verl failed, or if it ended well without its last step (which it can)."""
        fault = self.directory / "fault.json"
        if fault.exists():
            cause = read_json(fault)
            kind = InfrastructureFault if cause["infrastructure"] else TrainingFailed
            raise kind("a trajectory failed", where=str(fault), why=f"{cause['type']}: {cause['text']}",
                       remedy="run the same command again; it continues from the last checkpoint")
        if status:
            log = self.directory / "verl.log"
            error = _last_error(log)
            if "timed out during startup" in error:
                raise SlowStart("Ray did not start in time", where=str(log), why=error,
                                remedy="run the same command again on a less loaded machine")
            raise TrainingFailed(f"verl ended with status {status}", where=str(log), why=error,
                                 remedy="mend the cause and run the same command again; it continues from the last checkpoint")
        if self.saved_step() != self.settings.steps:
            raise CheckpointError("verl ended without the last step", where=str(self.directory / "checkpoints"),
                                  why=f"step {self.settings.steps} was asked for, step {self.saved_step()} is there",
                                  remedy=f"see {self.directory / 'verl.log'}, then run the same command again")

    def _event(self, event: str, **facts: Any) -> None:
        row = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "unix": round(time.time(), 2), **facts}
        with open(self.directory / "wall_clock.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _tools(settings: RlSettings, inputs: RunInputs) -> dict[str, Any]:
    """The tool settings; without a retrieval server no route leads to a tool that asks it."""
    tools = merged(settings.tools, inputs.operation.get("tools", {}))
    routes = {task: [name for name in names if inputs.endpoint or not kind(name).retrieval]
              for task, names in tools.get("routes", {}).items()}
    return {**tools, "routes": routes}


def _last_error(log: Path) -> str:
    """The last line of verl's output that names an exception, else the last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-400:] if line.strip()]
    named = [line for line in lines if line.split(":")[0].rstrip().endswith(("Error", "Exception", "Fault", "Unavailable"))]
    return (named or lines or ["no output"])[-1][:500]
