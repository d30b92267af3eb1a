"""Train a policy on preference pairs with LLaMA-Factory, and resume from the last complete checkpoint.

The run directory contains `tokenized/`, `recipe.yaml`, `checkpoints/`, `llamafactory.log` and, at the end, `log.jsonl`.
When this process is to end (a time limit, a cancelled job), it asks the trainer to save a checkpoint after the current
step, and waits for it. When it is killed, the trainer ends with it. The same command continues an interrupted run, and
does not repeat a finished one.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tir.common.errors import CheckpointError
from tir.common.files import new_directory, only_writer
from tir.common.model_files import MANIFEST, read_model_manifest, write_manifest
from tir.common.records import digest, file_digest, read_json, read_jsonl, write_json, write_jsonl
from tir.common.tracking import NOT_TRACKED, TrackedRun
from tir.config.params import plain
from tir.dpo.merge import merge_adapter
from tir.dpo.recipe import DpoRun, plan_steps, render_recipe
from tir.sft.checkpoints import complete_checkpoints, export_checkpoint, prune
from tir.sft.launcher import run_trainer
from tir.sft.recipe import StepPlan, deepspeed_config

ENTRY = "tir.dpo.entry"
COLUMNS = tuple(
    f"{side}_{name}" for side in ("chosen", "rejected") for name in ("input_ids", "attention_mask", "labels")
)
_UNUSED = ("images", "videos", "audios")  # columns that LLaMA-Factory's collator reads
_LOGGED = {  # name in the Trainer's log -> name in log.jsonl
    "epoch": "epoch",
    "loss": "loss",
    "learning_rate": "lr",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
}


def report(line: str) -> None:
    """Print a progress line to standard error."""
    print(f"dpo: {line}", file=sys.stderr, flush=True)


def train(
    policy: str | Path,
    pairs: str | Path,
    run_directory: str | Path,
    output: str | Path,
    run: DpoRun,
    tracked: TrackedRun = NOT_TRACKED,
) -> None:
    """Train `policy` on `pairs`; write `log.jsonl` and the trained policy.

    Args:
        policy: directory of the policy from which the pairs were sampled; it is also the reference.
        pairs: rows of `scripts.make_pairs` (JSON Lines).
        run_directory: directory of the run's state.
        output: model directory to write; replaced if it exists.
        run: settings of the run.
        tracked: its experiment trackers.

    Raises:
        InfrastructureFault: the trainer process failed or hangs; the error names its log.
        CheckpointError: the trainer ended without its last checkpoint, or the adapter does not fit the policy.
        OutputInUse: another process trains in this directory.
    """
    policy, directory, output = Path(policy).resolve(), Path(run_directory).resolve(), Path(output).resolve()
    with only_writer(directory):
        work = digest(
            {
                "dpo": plain(run.dpo),
                "seed": run.seed,
                "processes": run.processes,  # checkpoints can only be loaded by as many as wrote them
                "pairs": file_digest(pairs),
                "policy": {path.name: file_digest(path) for path in sorted(policy.glob("*.safetensors"))},
            }
        )
        plan = plan_steps(_prepare(directory, work, pairs), run)
        made = output / MANIFEST
        finished = made.exists() and read_json(made).get("work") == work and (directory / "log.jsonl").exists()
        if not finished:
            report(f"{plan.train_rows:,} pairs, {plan.total:,} steps of at most {run.dpo.batch_pairs} pairs")
            if plan.total not in complete_checkpoints(directory / "checkpoints", run.processes):
                _run_trainer(directory, policy, run, plan, tracked)
            _export(directory, policy, output, run, plan, work)
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)  # optimizer states are large


def _prepare(directory: Path, work: str, pairs: str | Path) -> int:
    """Store the pairs as a data set, unless the run directory has it for the same inputs; return their number."""
    import datasets

    state = directory / "work.json"
    if state.exists() and read_json(state).get("work") == work:
        return read_json(state)["pairs"]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    datasets.disable_progress_bars()
    rows = read_jsonl(pairs, COLUMNS)
    columns = {name: [row[name] for row in rows] for name in COLUMNS} | {name: [None] * len(rows) for name in _UNUSED}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)}).save_to_disk(directory / "tokenized")
    write_json(state, {"work": work, "pairs": len(rows)})
    return len(rows)


def _run_trainer(directory: Path, policy: Path, run: DpoRun, plan: StepPlan, tracked: TrackedRun) -> None:
    """Run LLaMA-Factory to the last step, from the last complete checkpoint if there is one."""
    output = directory / "checkpoints"
    found = complete_checkpoints(output, run.processes)
    if found:
        prune(output, (), max(found))
        report(f"resuming from step {max(found)}")
    else:
        shutil.rmtree(output, ignore_errors=True)
    deepspeed_file = directory / "deepspeed.json" if run.deepspeed else None
    if deepspeed_file:
        write_json(deepspeed_file, deepspeed_config(run.deepspeed))
    recipe = render_recipe(
        run,
        plan,
        policy=policy,
        tokenized=directory / "tokenized",
        output=output,
        deepspeed_file=deepspeed_file,
        resume=found[max(found)] if found else None,
        tracked=tracked,
    )
    schedule = {
        "processes": run.processes,
        "launch": run.processes > 1 or deepspeed_file is not None,  # DeepSpeed needs torch's launcher
        # The checkpoints of earlier epochs are not kept: any step may be resumed from, and only the last is exported.
        "boundaries": [plan.total],
        "within": plan.within,
    }

    def show(entries: Sequence[Mapping[str, Any]]) -> None:
        for each in entries:
            if "loss" in each:
                values = f"loss {each['loss']:.4f}, accuracy {each.get('accuracy', 0.0):.2f}"
                report(f"step {each['current_steps']}/{plan.total}, {values}, {each.get('remaining_time', '')} left")

    run_trainer(
        ENTRY,
        directory,
        recipe,
        schedule,
        device=run.device,
        stall_s=run.dpo.stall_s,
        show=show,
        report=report,
        variables=tracked.variables,
    )


def _export(directory: Path, policy: Path, output: Path, run: DpoRun, plan: StepPlan, work: str) -> None:
    """Write `log.jsonl` and the trained policy from the last checkpoint."""
    last = complete_checkpoints(directory / "checkpoints", run.processes).get(plan.total)
    if last is None:
        raise CheckpointError(
            "the last checkpoint is missing after training",
            where=str(directory / "checkpoints"),
            why=f"step {plan.total} is expected",
            remedy=f"rm -r {directory}  # then run again",
        )
    history = read_json(last / "trainer_state.json")["log_history"]
    used = {"pairs": plan.train_rows} | ({"gpus": run.processes} if run.device == "cuda" else {})
    write_jsonl(directory / "log.jsonl", [_record(each) | used for each in history if "loss" in each])
    started = read_model_manifest(policy)
    facts = {key: started[key] for key in ("arm", "step") if key in started}
    facts |= {"model": output.name, "policy": started.get("model", policy.name), "seed": run.seed, "work": work}
    if run.dpo.method == "full":
        export_checkpoint(last, policy, output, facts)
    else:
        with new_directory(output) as scratch:
            kept = merge_adapter(last, policy, scratch)
            report(f"{kept:.0%} of the adapter's update is left after rounding to the data type of the policy")
            write_manifest(scratch, **facts, update_kept=round(kept, 4))


def _record(logged: dict[str, Any]) -> dict[str, Any]:
    return {"step": logged["step"]} | {name: logged[key] for key, name in _LOGGED.items() if key in logged}
