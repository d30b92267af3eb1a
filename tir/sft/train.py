"""Run LLaMA-Factory in child processes, and resume it from its last complete checkpoint.

The run directory contains `tokenized/`, `recipe.yaml`, `checkpoints/`, `llamafactory.log` and, at the end, `log.jsonl`.
When this process is to end (a time limit, a cancelled job), it asks the trainer to save a checkpoint after the current
step, and waits for it (see `tir.sft.callback`). When this process is killed, the trainer ends with it. Each epoch is
exported as a model directory `sft-epoch{n}`. The same command continues an interrupted run, and does not repeat a
finished one.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tir.common.errors import CheckpointError
from tir.common.files import only_writer
from tir.common.gpus import memory_of_gpus
from tir.common.model_files import MANIFEST
from tir.common.records import digest, file_digest, read_json, write_json, write_jsonl, write_text
from tir.common.tracking import NOT_TRACKED, TrackedRun
from tir.config.params import plain
from tir.sft import memory
from tir.sft.batches import passes, row_lengths, step_rows
from tir.sft.checkpoints import complete_checkpoints, export_checkpoint, prune
from tir.sft.launcher import run_trainer
from tir.sft.log import keep_until, log_records, read_trainer_log, seconds
from tir.sft.recipe import StepPlan, deepspeed_config, plan_steps, render_recipe
from tir.sft.render import write_tokenized
from tir.sft.run import SftRun

ENTRY = "tir.sft.entry"


def report(line: str) -> None:
    """Print a progress line to standard error."""
    print(f"sft: {line}", file=sys.stderr, flush=True)


def train(
    base: str | Path,
    data: str | Path,
    run_directory: str | Path,
    models_directory: str | Path,
    run: SftRun,
    tracked: TrackedRun = NOT_TRACKED,
) -> None:
    """Fine-tune `base` on `data`; write `log.jsonl` and the models `sft-epoch1..n`.

    Args:
        base: directory of a model with its tokenizer.
        data: Alpaca JSON.
        run_directory: directory of the run's state.
        models_directory: directory for the models.
        run: settings of the run.
        tracked: its experiment trackers.

    Raises:
        InfrastructureFault: the trainer process failed; the error names its log.
        CheckpointError: the trainer ended without error, but a checkpoint is missing.
        OutputInUse: another process trains in this directory.
    """
    with only_writer(Path(run_directory).resolve()):
        _train(base, data, run_directory, models_directory, run, tracked)


def _train(
    base: str | Path,
    data: str | Path,
    run_directory: str | Path,
    models_directory: str | Path,
    run: SftRun,
    tracked: TrackedRun,
) -> None:
    base, directory, models = Path(base).resolve(), Path(run_directory).resolve(), Path(models_directory).resolve()
    work = digest(
        {
            **vars(run) | {"sft": plain(run.sft)},
            "data": file_digest(data),
            "base": {path.name: file_digest(path) for path in sorted(base.glob("*.safetensors"))},
        }
    )
    counts = _prepare(directory, work, base, data, run)
    plan = plan_steps(
        counts["rows"],
        run.sft.holdout,
        run.sft.batch_rows,
        run.sft.epochs,
    )
    report(
        f"{counts['train']:,} rows, {counts['validation']:,} held out, longest {counts['longest']} tokens, "
        f"{counts['cut']} at the cutoff; {plan.total:,} steps, checkpoints at {', '.join(map(str, plan.boundaries))}"
    )
    if not _all_exported(models, run.sft.epochs, work):
        if plan.boundaries[-1] not in complete_checkpoints(directory / "checkpoints", run.processes):
            _run_trainer(directory, base, run, plan, tracked)
        _export(directory, base, models, plan, work, run.processes)
    records = log_records(read_trainer_log(directory / "checkpoints" / "trainer_log.jsonl"))
    used = {"train_rows": counts["train"], "held_out_rows": counts["validation"]}
    used |= {"gpus": run.processes} if run.device == "cuda" else {}
    write_jsonl(directory / "log.jsonl", [record | used for record in records])
    # Optimiser states have three times the model's size.
    for checkpoint in complete_checkpoints(directory / "checkpoints", run.processes).values():
        shutil.rmtree(checkpoint)


def _prepare(directory: Path, work: str, base: Path, data: str | Path, run: SftRun) -> dict[str, int]:
    """Tokenise the data, unless the run directory has it already for the same inputs; return the row counts."""
    state = directory / "work.json"
    if state.exists() and read_json(state).get("work") == work and (directory / "tokenized").is_dir():
        return read_json(state)["counts"]
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    counts = write_tokenized(data, base, directory / "tokenized", run)
    write_json(state, {"work": work, "counts": counts})
    return counts


def _run_trainer(directory: Path, base: Path, run: SftRun, plan: StepPlan, tracked: TrackedRun) -> None:
    """Run LLaMA-Factory to the last step, from the last complete checkpoint if there is one."""
    output, processes = directory / "checkpoints", directory / "processes"
    if output.exists() and processes.exists() and processes.read_text() != str(run.processes):
        report("starting again, because checkpoints can only be loaded by as many GPUs as wrote them")
        shutil.rmtree(output)
    write_text(processes, str(run.processes))
    found = complete_checkpoints(output, run.processes) if output.exists() else {}
    trainer_log = output / "trainer_log.jsonl"
    if found:
        prune(output, plan.boundaries, max(found))
        keep_until(trainer_log, max(found))
        report(f"resuming from step {max(found)}")
    else:
        shutil.rmtree(output, ignore_errors=True)
    deepspeed_file = None
    if run.deepspeed is not None:
        deepspeed_file = directory / "deepspeed.json"
        write_json(deepspeed_file, deepspeed_config(run.deepspeed))
    number, recompute = _divide_steps(directory, base, run)
    recipe = render_recipe(
        run,
        plan,
        base=base,
        tokenized=directory / "tokenized",
        output=output,
        passes=number,
        recompute=recompute,
        deepspeed_file=deepspeed_file,
        resume=found[max(found)] if found else None,
        tracked=tracked,
    )
    schedule = {
        "processes": run.processes,
        "launch": run.processes > 1 or deepspeed_file is not None,  # DeepSpeed needs torch's launcher
        "boundaries": plan.boundaries,
        "within": plan.within,
        "batch_rows": run.sft.batch_rows,
        "seed": run.sft.seed,
        "passes": number,
        "packed": run.packed,
        "liger": recipe["enable_liger_kernel"],
    }
    run_trainer(
        ENTRY,
        directory,
        recipe,
        schedule,
        device=run.device,
        stall_s=run.sft.stall_s,
        show=_Progress(plan.total),
        report=report,
        variables=tracked.variables,
    )


def _divide_steps(directory: Path, base: Path, run: SftRun) -> tuple[int, bool]:
    """Forward passes per step and process, and whether activations are recomputed, from the memory of the GPUs."""
    from datasets import load_from_disk

    sft, lengths = run.sft, row_lengths(load_from_disk(directory / "tokenized")["train"])
    tokens, recompute = 8192, False
    if run.device == "cuda" and not (sft.micro_batch_tokens and sft.gradient_checkpointing is not None):
        stage = int(run.deepspeed[-1]) if run.deepspeed else 0
        model = memory.shape_of(read_json(base / "config.json"))
        tokens, recompute = memory.plan_passes(
            model, min(memory_of_gpus()), run.processes, stage, sft.cutoff_tokens, sft.gradient_checkpointing
        )
    tokens = sft.micro_batch_tokens or tokens
    recompute = recompute if sft.gradient_checkpointing is None else sft.gradient_checkpointing
    steps = [step for epoch in range(sft.epochs) for step in step_rows(len(lengths), sft.seed, epoch, sft.batch_rows)]
    number = passes(lengths, steps, run.processes, tokens)
    report(
        f"{sft.batch_rows} rows per step; {run.processes} {'GPUs' if run.device == 'cuda' else 'processes'} with "
        f"{number} forward passes each, of at most {tokens:,} tokens; activations are "
        f"{'recomputed' if recompute else 'kept'}"
    )
    return number, recompute


class _Progress:
    """Prints each logged step, with the time that has passed and the time that is left."""

    def __init__(self, total: int):
        self.total, self.started, self.first = total, time.monotonic(), None

    def __call__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for logged in entries:
            step, now = logged["current_steps"], time.monotonic()
            if self.first is None:
                self.first = (step, now)
                self.started = now - seconds(logged.get("elapsed_time", "0:00:00"))
            done, since = self.first
            rate = (step - done) / max(1e-9, now - since) if step > done else 0.0
            left = f"{(self.total - step) / rate:.0f} s left" if rate else logged.get("remaining_time", "")
            losses = ", ".join(f"{name} {logged[name]:.4f}" for name in ("loss", "eval_loss") if name in logged)
            report(f"step {step}/{self.total}, {losses or 'done'}, {now - self.started:.0f} s, {left}")


def _manifest(models: Path, epoch: int) -> dict[str, Any]:
    path = models / f"sft-epoch{epoch}" / MANIFEST
    return read_json(path) if path.exists() else {}


def _all_exported(models: Path, epochs: int, work: str) -> bool:
    return all(_manifest(models, epoch).get("work") == work for epoch in range(1, epochs + 1))


def _export(directory: Path, base: Path, models: Path, plan: StepPlan, work: str, processes: int) -> None:
    """Export the checkpoint of each epoch as a model directory."""
    found = complete_checkpoints(directory / "checkpoints", processes)
    missing = [step for step in plan.boundaries if step not in found]
    if missing:
        raise CheckpointError(
            "checkpoints are missing after training",
            where=str(directory / "checkpoints"),
            why=f"expected steps {list(plan.boundaries)}, found {sorted(found)}",
            remedy=f"rm -r {directory}  # then run again",
        )
    for epoch, step in enumerate(plan.boundaries, 1):
        export_checkpoint(
            found[step],
            base,
            models / f"sft-epoch{epoch}",
            {"model": f"sft-epoch{epoch}", "step": step, "epoch": epoch, "base": base.name, "work": work},
        )
        report(f"epoch {epoch} is {models.name}/sft-epoch{epoch} (step {step})")
