"""Selection: the epoch with the lowest evaluation loss becomes the model `sft` (the paper takes epoch 2 of 3)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tir.errors import DataError
from tir.model_files import read_model_manifest
from tir.records import read_jsonl, write_json


def eval_losses(records: Sequence[dict]) -> dict[int, float]:
    """Evaluation loss by step."""
    return {record["step"]: record["eval_loss"] for record in records if "eval_loss" in record}


def select_checkpoint(log: str | Path, models: Sequence[str | Path], output: str | Path) -> dict:
    """Make `output` a model directory of hard links to the best epoch's files.

    With equal losses the earlier epoch wins; without any evaluation loss the last epoch is taken.

    Args:
        log: `log.jsonl` of the run.
        models: model directories or their manifests, one per epoch.
        output: directory of the selected model.

    Returns:
        the manifest written.
    """
    losses = eval_losses(read_jsonl(log))
    candidates = []
    for path in map(Path, models):
        directory = path.parent if path.name == "manifest.json" else path
        candidates.append((read_model_manifest(directory), directory))
    candidates.sort(key=lambda candidate: candidate[0]["step"])
    unmeasured = [manifest["model"] for manifest, _ in candidates if manifest["step"] not in losses]
    if losses and unmeasured:
        raise DataError("no evaluation loss for an epoch", where=str(log), why=", ".join(unmeasured),
                        remedy="run the fine-tuning again")
    if losses:
        chosen, source = min(candidates, key=lambda candidate: losses[candidate[0]["step"]])
    else:
        chosen, source = candidates[-1]
    manifest = chosen | {"model": Path(output).name, "selected": chosen["model"], "eval_loss": losses.get(chosen["step"]),
                         "candidates": {item["model"]: losses.get(item["step"]) for item, _ in candidates}}
    _link_model(source, Path(output), manifest)
    return manifest


def _link_model(source: Path, output: Path, manifest: dict) -> None:
    scratch = output.with_name(f".{output.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != "manifest.json":
            try:
                os.link(path, scratch / path.name)
            except OSError:
                shutil.copyfile(path, scratch / path.name)
    write_json(scratch / "manifest.json", manifest)
    shutil.rmtree(output, ignore_errors=True)
    scratch.rename(output)
