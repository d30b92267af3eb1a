"""A fine-tuning run: LLaMA-Factory as a supervised child process, resumed from its last whole checkpoint.

The run directory holds `tokenized/`, `recipe.yaml`, `checkpoints/`, `llamafactory.log` and, at the end, `log.jsonl`.
Each epoch becomes a model directory `sft-epoch{n}`. Running again continues; running again when all is there does nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tir import subprocesses
from tir.errors import CheckpointError, InfrastructureFault
from tir.records import digest, file_digest, read_json, write_json, write_jsonl, write_text
from tir.sft.checkpoints import export_checkpoint, whole_checkpoints
from tir.sft.log import keep_until, log_records, read_trainer_log, seconds
from tir.sft.recipe import SftSettings, StepPlan, deepspeed_config, plan_steps, render_recipe
from tir.sft.render import RenderSettings, write_tokenized

_POLL_SECONDS = 0.5
_GRACE_SECONDS = {"cpu": 30.0, "cuda": 300.0}  # to save a checkpoint after SIGTERM


def say(line: str) -> None:
    """A progress line for people."""
    print(line, file=sys.stderr, flush=True)


def train(base: str | Path, data: str | Path, run_directory: str | Path, models_directory: str | Path,
          settings: SftSettings) -> None:
    """Fine-tune `base` on `data`; write `log.jsonl` and the models `sft-epoch1..n`.

    Args:
        base: directory of a model with its tokenizer.
        data: Alpaca JSON.
        run_directory: where the run keeps its state.
        models_directory: where the models go.

    Raises:
        InfrastructureFault: the trainer process failed; names its log.
        CheckpointError: it ended without the checkpoints it should have written.
    """
    base, run, models = Path(base).resolve(), Path(run_directory).resolve(), Path(models_directory).resolve()
    work = digest({"settings": vars(settings), "data": file_digest(data),
                   "base": {path.name: file_digest(path) for path in sorted(base.glob("*.safetensors"))}})
    counts = _prepare(run, work, base, data, settings)
    plan = plan_steps(counts["rows"], settings.holdout, settings.per_device_batch, settings.processes,
                      settings.accumulation, settings.epochs)
    say(f"sft: {counts['train']:,} rows, {counts['validation']:,} held out, longest {counts['longest']} tokens, "
        f"{counts['cut']} at the cutoff; {plan.total:,} steps, checkpoints at {', '.join(map(str, plan.boundaries))}")
    if not _all_exported(models, settings.epochs, work):
        if plan.boundaries[-1] not in whole_checkpoints(run / "checkpoints"):
            _run_trainer(run, base, settings, plan)
        _export(run, base, models, settings, plan, work)
    write_jsonl(run / "log.jsonl", log_records(read_trainer_log(run / "checkpoints" / "trainer_log.jsonl")))
    for checkpoint in whole_checkpoints(run / "checkpoints").values():  # optimizer states: three times the model's size
        shutil.rmtree(checkpoint)


def _prepare(run: Path, work: str, base: Path, data: str | Path, settings: SftSettings) -> dict[str, int]:
    """Bring the run directory into the state of this work; returns the row counts."""
    state = run / "work.json"
    if state.exists() and read_json(state).get("work") == work and (run / "tokenized").is_dir():
        return read_json(state)["counts"]
    if run.exists():
        shutil.rmtree(run)
    run.mkdir(parents=True)
    counts = write_tokenized(
        data, base, run / "tokenized", RenderSettings(settings.layout, settings.mask_results, settings.leading_space,
                                                      settings.cutoff_tokens),
        holdout=settings.holdout, seed=settings.seed, max_rows=settings.max_rows)
    write_json(state, {"work": work, "counts": counts})
    return counts


def _run_trainer(run: Path, base: Path, settings: SftSettings, plan: StepPlan) -> None:
    """Run LLaMA-Factory to its end, from the last whole checkpoint if there is one."""
    output = run / "checkpoints"
    whole = whole_checkpoints(output) if output.exists() else {}
    trainer_log = output / "trainer_log.jsonl"
    if whole:
        keep_until(trainer_log, max(whole))
        say(f"sft: resuming from step {max(whole)}")
    else:
        shutil.rmtree(output, ignore_errors=True)
    deepspeed_file = None
    if settings.deepspeed is not None and settings.device == "cuda":
        deepspeed_file = run / "deepspeed.json"
        write_json(deepspeed_file, deepspeed_config(settings.deepspeed))
    recipe = render_recipe(settings, plan, base=base, tokenized=run / "tokenized", output=output,
                           deepspeed_file=deepspeed_file, resume=whole[max(whole)] if whole else None)
    write_text(run / "recipe.yaml", _yaml(recipe))
    with open(run / "llamafactory.log", "ab") as log:
        child = subprocess.Popen([sys.executable, "-m", "llamafactory.cli", "train", str(run / "recipe.yaml")],
                                 stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                 cwd=run, env=_environment(settings))
        try:
            _follow(child, trainer_log, plan)
        finally:
            subprocesses.end(child, _GRACE_SECONDS[settings.device])
    if child.returncode != 0:
        raise InfrastructureFault("LLaMA-Factory failed", where=str(run / "llamafactory.log"),
                                  why=f"exit status {child.returncode}: {_last_line(run / 'llamafactory.log')}",
                                  remedy="run the same command again; it goes on from the last whole checkpoint")


def _yaml(recipe: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(recipe, sort_keys=False)


def _environment(settings: SftSettings) -> dict[str, str]:
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_DATASETS_OFFLINE="1",
                       OMP_WAIT_POLICY="PASSIVE",  # threads that spin at a barrier starve it on a busy machine
                       PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if settings.device == "cuda":
        environment |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(settings.gpus)}
    else:
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
    return environment


def _follow(child: subprocess.Popen, trainer_log: Path, plan: StepPlan) -> None:
    """Report progress until the child ends."""
    shown, started, first = len(read_trainer_log(trainer_log)), time.monotonic(), None
    while child.poll() is None:
        time.sleep(_POLL_SECONDS)
        entries = read_trainer_log(trainer_log)
        for entry in entries[shown:]:
            step = entry["current_steps"]
            if first is None:
                first = (step, time.monotonic())
                started = time.monotonic() - seconds(entry.get("elapsed_time", "0:00:00"))
            elapsed = time.monotonic() - started
            rate = (step - first[0]) / max(1e-9, time.monotonic() - first[1]) if step > first[0] else 0.0
            left = f"{(plan.total - step) / rate:.0f} s left" if rate else entry.get("remaining_time", "")
            losses = ", ".join(f"{name} {entry[name]:.4f}" for name in ("loss", "eval_loss") if name in entry)
            say(f"sft: step {step}/{plan.total}, {losses or 'done'}, {elapsed:.0f} s, {left}")
        shown = len(entries)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"


def _manifest(models: Path, epoch: int) -> dict[str, Any]:
    path = models / f"sft-epoch{epoch}" / "manifest.json"
    return read_json(path) if path.exists() else {}


def _all_exported(models: Path, epochs: int, work: str) -> bool:
    return all(_manifest(models, epoch).get("work") == work for epoch in range(1, epochs + 1))


def _export(run: Path, base: Path, models: Path, settings: SftSettings, plan: StepPlan, work: str) -> None:
    """Turn the checkpoint that ends each epoch into a model directory."""
    whole = whole_checkpoints(run / "checkpoints")
    missing = [step for step in plan.boundaries if step not in whole]
    if missing:
        raise CheckpointError("checkpoints missing after training", where=str(run / "checkpoints"),
                              why=f"expected {list(plan.boundaries)}, found {sorted(whole)}",
                              remedy=f"rm -r {run}  # then run again")
    for epoch, step in enumerate(plan.boundaries, 1):
        export_checkpoint(whole[step], base, models / f"sft-epoch{epoch}",
                          {"model": f"sft-epoch{epoch}", "step": step, "epoch": epoch, "base": base.name, "work": work})
        say(f"sft: epoch {epoch} is models/sft-epoch{epoch} (step {step})")
