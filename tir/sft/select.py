"""Select an epoch of a fine-tuning run as a model: a given one, or the one with the lowest evaluation loss.

The paper selects epoch 2 of 3.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tir.common.errors import DataError
from tir.common.files import only_writer
from tir.common.model_files import MANIFEST, read_model_manifest
from tir.common.records import read_jsonl, write_json


def eval_losses(records: Sequence[dict]) -> dict[int, float]:
    """Evaluation loss by step."""
    return {record["step"]: record["eval_loss"] for record in records if "eval_loss" in record}


def select_checkpoint(
    models: str | Path, log: str | Path, output: str | Path, epoch: int | None = None
) -> dict[str, Any]:
    """Create the model directory `output` with hard links to the files of one epoch.

    Args:
        models: directory of the run's models `sft-epoch{n}`.
        log: `log.jsonl` of the run.
        output: model directory to create.
        epoch: epoch to select, counted from 1; None: the one with the lowest evaluation loss.

    Returns:
        the manifest of the new model.

    Raises:
        DataError: the run has no model of this epoch, or the log has no evaluation loss for one of its epochs.
        OutputInUse: another process writes `output`.
    """
    models = Path(models)
    manifests = {each["epoch"]: each for each in map(read_model_manifest, models.glob("sft-epoch*"))}
    if epoch is None:
        manifest = _lowest_loss(manifests, log) | {"model": Path(output).name}
    elif epoch in manifests:
        manifest = manifests[epoch]
    else:
        raise DataError(
            f"no model of epoch {epoch}",
            where=str(models),
            why=f"the run has models of epochs {', '.join(map(str, sorted(manifests))) or 'none'}",
            remedy=f"rm -r {models}  # then repeat the command: it repeats the fine-tuning",
        )
    with only_writer(output):
        _link_model(models / f"sft-epoch{manifest['epoch']}", Path(output), manifest)
    return manifest


def _lowest_loss(manifests: Mapping[int, dict[str, Any]], log: str | Path) -> dict[str, Any]:
    """The manifest of the epoch with the lowest evaluation loss, extended by the losses of all epochs.

    If several epochs have the lowest loss, selects the first; if the run has no evaluation losses, the last epoch.
    """
    losses = eval_losses(read_jsonl(log))
    candidates = [manifests[epoch] for epoch in sorted(manifests)]
    unmeasured = [each["model"] for each in candidates if each["step"] not in losses]
    if losses and unmeasured:
        raise DataError(
            "an epoch has no evaluation loss",
            where=str(log),
            why=f"the log has none for {', '.join(unmeasured)}",
            remedy=f"delete the run's directory {Path(log).parent}, then run the fine-tuning again",
        )
    chosen = min(candidates, key=lambda each: losses[each["step"]]) if losses else candidates[-1]
    return chosen | {
        "selected": chosen["model"],
        "eval_loss": losses.get(chosen["step"]),
        "candidates": {each["model"]: losses.get(each["step"]) for each in candidates},
    }


def _link_model(source: Path, output: Path, manifest: dict) -> None:
    scratch = output.with_name(f".{output.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != MANIFEST:
            try:
                os.link(path, scratch / path.name)
            except OSError:
                shutil.copyfile(path, scratch / path.name)
    write_json(scratch / MANIFEST, manifest)
    shutil.rmtree(output, ignore_errors=True)
    scratch.rename(output)
