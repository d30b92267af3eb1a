"""Run verl for one arm and seed: prepare inputs, start or resume training, monitor it, collect metrics and policies.

    run directory                              after a complete run
    ├── metrics.jsonl                          one object per step (see `tir.rl.metrics`)
    ├── policies/step{N}/                      Hugging Face directory of every saved step
    ├── rollouts/{train,val}_{N}.jsonl         every trajectory with its reward
    ├── wall_clock.jsonl                       times of start, steps and end
    ├── verl.log, overrides.txt                output of verl; its Hydra overrides
    └── checkpoints/, records/                 state to resume from; deleted by `tir.rl.collect.delivered`

If a run is killed, the same command continues from its last complete checkpoint. If settings, inputs or code have
changed, it starts from step 0.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tenacity

from tir.common.environment import job_threads
from tir.common.errors import CheckpointError
from tir.common.files import Scratch, only_writer
from tir.common.keys import HELPER, HUB, JUDGE
from tir.common.records import digest, read_json, write_json, write_text
from tir.common.subprocesses import ROOT, StallLimit
from tir.common.tracking import NOT_TRACKED, TrackedRun
from tir.common.trainable import check_trainable
from tir.rl import processes
from tir.rl.collect import collect, verl_logs
from tir.rl.cpu.forkserver import write_stand_in
from tir.rl.data import prepare_rows
from tir.rl.environment import environment
from tir.rl.export import export_policy
from tir.rl.failures import StartFailed, check_ended
from tir.rl.inputs import RunInputs, loop_tools, work_of
from tir.rl.metrics import check_finite, drop_records, read_log
from tir.rl.overrides import overrides, rollout_dtype
from tir.rl.run import RlRun, RunFiles

_POLL_SECONDS = 0.5
RETRY_WAIT_S = 10.0  # between attempts to start Ray
_FORKED_SCRIPTS = ("setup_worker.py", "default_worker.py")  # Ray runs both, in this order, to start a worker
_LONGEST_SCRATCH = 36  # characters: Ray appends about 70, and the path of a socket may have 107


def train(
    run: RlRun,
    inputs: RunInputs,
    directory: str | os.PathLike,
    *,
    stall_s: float = 7200.0,
    tracked: TrackedRun = NOT_TRACKED,
) -> list[Path]:
    """Train one arm with one seed; return the directories of the policies, one per saved step.

    Checkpoints and records remain until the caller calls `tir.rl.collect.delivered`.

    Args:
        run: settings of the run.
        inputs: its inputs.
        directory: the run directory.
        stall_s: raise if no step finishes within this many seconds.
        tracked: experiment trackers of the run.

    Raises:
        InfrastructureFault: a tool, the rollout engine or the machine failed; the same command resumes.
        TrainingFailed: verl failed for another reason, which the error contains.
        ConfigError: the model cannot be trained (`tir.common.trainable`).
        CheckpointError: verl ended without error, but the last step's policy is missing.
        OutputInUse: another process trains in this directory.
    """
    check_trainable(inputs.model, str(inputs.model), run.max_tokens)
    launcher = _Launcher(run, inputs, Path(directory).resolve(), stall_s, tracked)
    with only_writer(launcher.directory):
        launcher.open()
        launcher.export_missing_policy()
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StartFailed),
            reraise=True,
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_fixed(RETRY_WAIT_S),
        ):
            with attempt:
                if launcher.saved_step() < run.rl.steps:
                    with launcher.scratch() as files:
                        launcher.execute(files)
        return collect(launcher.directory, run.rl)


class _Launcher:
    """Manages the run directory and the process that trains."""

    def __init__(self, run: RlRun, inputs: RunInputs, directory: Path, stall_s: float, tracked=NOT_TRACKED):
        self.tracked = tracked
        self.run, self.inputs, self.directory, self.stall_s = run, inputs, directory, stall_s
        self.records, self.policies = directory / "records", directory / "policies"

    # --- before -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Create the run directory; first delete an existing one of other settings, inputs or code."""
        found, work = self.directory / "work.json", work_of(self.run, self.inputs)
        if found.exists() and read_json(found)["digest"] != digest(work):
            print("settings, inputs or code have changed: the run starts from step 0", file=sys.stderr)
            shutil.rmtree(self.directory)
        elif self._last_policy().is_dir() and not (self._complete() or self.records.is_dir()):
            # The run was delivered, and its metrics were deleted since: the rule is to be run again.
            shutil.rmtree(self.directory)
        for path in (self.directory, self.policies, self.directory / "logs"):
            path.mkdir(parents=True, exist_ok=True)
        write_json(found, {"digest": digest(work), **work})

    def export_missing_policy(self) -> None:
        """Export the policy of verl's last checkpoint if the run was killed between saving and exporting.

        verl resumes from that checkpoint, and `saved_step` must return the same step.
        """
        step = self._checkpoint()
        if not step or (self.policies / f"step{step}").is_dir():
            return
        checkpoints = self.directory / "checkpoints"
        try:
            export_policy(
                checkpoints / f"global_step_{step}" / "actor" / "huggingface",
                self.inputs.model,
                self.policies / f"step{step}",
                rollout_dtype(self.run),
            )
        except CheckpointError as error:
            print(f"the checkpoint of step {step} is unusable, the run starts from step 0: {error}", file=sys.stderr)
            shutil.rmtree(checkpoints)

    def _checkpoint(self) -> int:
        """Step of verl's last complete checkpoint, or 0."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.directory / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
        return 0

    def _last_policy(self) -> Path:
        return self.policies / f"step{self.run.rl.steps}"

    def _complete(self) -> bool:
        return (self.directory / "metrics.jsonl").exists() and self._last_policy().is_dir()

    def saved_step(self) -> int:
        """Step of the last complete checkpoint whose policy has been exported, or 0; all steps of a complete run."""
        if self._complete():
            return self.run.rl.steps
        step = self._checkpoint()
        return step if (self.policies / f"step{step}").is_dir() else 0

    @contextlib.contextmanager
    def scratch(self) -> Iterator[RunFiles]:
        """Prepare verl's input files and a scratch directory; yield their paths; delete the scratch directory.

        This also deletes those of runs that were killed.
        """
        from transformers import AutoTokenizer

        run, inputs, directory = self.run, self.inputs, self.directory
        files = {name: directory / f"{name}.parquet" for name in ("train", "validation")}
        prompts = inputs.system_prompt, AutoTokenizer.from_pretrained(str(inputs.model)), run.rl.max_prompt_tokens
        prepare_rows(inputs.train, files["train"], *prompts, run.rl.rows, run.rl.max_overlong)
        prepare_rows(inputs.validation, files["validation"], *prompts, None, run.rl.max_overlong)
        loop = directory / "loop.json"
        write_json(
            loop,
            {
                "tools": loop_tools(run, inputs, job_threads()).model_dump(mode="json"),
                "endpoint": inputs.endpoint,
                "reward": run.rl.reward.model_dump(mode="json"),
                "max_response_tokens": run.rl.max_response_tokens,
                "seed": run.seed,
                "records": str(self.records),
            },
        )
        write_json(
            directory / "loop.yaml",
            [{"name": "tir", "_target_": "tir.rl.agent_loop.TirAgentLoop", "settings": str(loop)}],
        )  # JSON is YAML
        base = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST_SCRATCH - 15 else "/tmp"
        with Scratch("tir-rl-", base) as scratch:
            token = scratch / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            paths = RunFiles(
                inputs.model.resolve(), files["train"], files["validation"], directory / "loop.yaml", directory, scratch
            )
            write_stand_in(str(paths.python), str(scratch / "fork"), _FORKED_SCRIPTS)
            yield paths

    # --- running verl -------------------------------------------------------------------------------------------------

    def execute(self, files: RunFiles) -> None:
        """Run verl from the last checkpoint to the last step."""
        start = self.saved_step()
        self.records.mkdir(exist_ok=True)
        logged = {step for log in verl_logs(self.directory) for step, _ in read_log(log)}
        validate = start == 0 or start not in logged
        drop_records(self.records, start if start else -1, validate=validate)
        (self.directory / "fault.json").unlink(missing_ok=True)
        self._delete_other_checkpoints()
        arguments = overrides(self.run, files, validate_first=validate)
        if self.tracked.trackers:
            arguments.append(f"trainer.logger=[{','.join(('file', *self.tracked.trackers))}]")
        write_text(self.directory / "overrides.txt", "\n".join(arguments) + "\n")
        log = self.directory / "logs" / f"verl_{len(verl_logs(self.directory)):03d}.jsonl"
        unused = {JUDGE, HELPER, HUB}  # keys
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("RAY_", "VERL_", "TIR_FORK")) and key not in unused
        }
        variables = (
            inherited
            | environment(self.run, files, job_threads())
            | dict(self.tracked.variables)
            | {
                "VERL_FILE_LOGGER_PATH": str(log),
                "TIR_PARENT": str(os.getpid()),
                "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            }
        )
        log.touch()
        self._event("start", step=start)
        process = processes.start(
            [sys.executable, "-m", "tir.rl.entry", *arguments], variables, ROOT, self.directory / "verl.log"
        )
        try:
            status = self._watch(process, log, start)
        finally:
            processes.end(process, str(files.scratch), grace_s=2.0 if self.saved_step() == self.run.rl.steps else 15.0)
            self._event("end", step=self.saved_step())
        check_ended(self.directory, status)
        if self.saved_step() != self.run.rl.steps:
            raise CheckpointError(
                "verl ended without the last step",
                where=str(self.directory / "checkpoints"),
                why=f"the last step is {self.run.rl.steps}, the last saved step is {self.saved_step()}",
                remedy=f"fix the cause in {self.directory / 'verl.log'}, then run the same command again",
            )

    def _delete_other_checkpoints(self) -> None:
        """Delete all checkpoints but the last complete one; verl deletes only those that the same process has saved."""
        last = f"global_step_{self._checkpoint()}"
        for path in (self.directory / "checkpoints").glob("global_step_*"):
            if path.name != last:
                shutil.rmtree(path)

    def _watch(self, process, log: Path, start: int) -> int:
        """Print each step that verl logs until the process ends; return its exit status."""
        began = last = time.monotonic()
        limit, printed = StallLimit(self.stall_s, self.directory / "verl.log"), 0
        while True:
            status = processes.wait(process, _POLL_SECONDS)
            rows = read_log(log)
            for step, metrics in rows[printed:]:
                now = time.monotonic()
                measured = metrics.get("timing_s/step", 0.0) + metrics.get("timing_s/testing", 0.0)
                if not printed and rows[0][0] == step:
                    self._event("ready", seconds=round(now - began - measured, 2))
                seconds = measured or now - last
                self._event("step" if step > start else "validation", step=step, seconds=round(seconds, 2))
                print(self._progress(step, metrics, seconds), file=sys.stderr, flush=True)
                check_finite(step, metrics, self.directory)
                last = now
                limit.progress()
            printed = len(rows)
            if status is not None:
                return status
            if rows and rows[-1][0] == self.run.rl.steps == self.saved_step():
                return 0  # the last row is written after everything else; do not wait seconds for Ray to shut down
            limit.check()

    def _progress(self, step: int, metrics: dict[str, float], seconds: float) -> str:
        parts = [f"step {step}/{self.run.rl.steps}"]
        if "critic/score/mean" in metrics:
            parts += [f"score {metrics['critic/score/mean']:.3f}", f"length {metrics['response_length/mean']:.0f}"]
        parts += [f"validation {value:.3f}" for name, value in metrics.items() if name.startswith("val/test_score/")]
        return "  ".join([*parts, f"{seconds:.1f} s"])

    def _event(self, event: str, **facts: Any) -> None:
        row = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "unix": round(time.time(), 2), **facts}
        with open(self.directory / "wall_clock.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
