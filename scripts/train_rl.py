"""Train one arm with one seed in verl; write its metrics and one model directory per saved step."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from tir.common.cli import parser, run
from tir.common.model_files import MANIFEST, check_weights, write_manifest
from tir.common.records import digest, file_digest, read_json, write_provenance
from tir.common.schema import Device
from tir.common.tracking import TrackedRun, add_argument, prepare
from tir.config.params import read
from tir.config.rl import Rl
from tir.config.tools import Tools
from tir.retrieval.folder import Folder
from tir.retrieval.sidecar import RETRIEVAL_HELP, retrieval
from tir.rl.collect import delivered
from tir.rl.inputs import RunInputs
from tir.rl.launch import train
from tir.rl.run import RlRun
from tir.tools.registry import modules
from tir.workflow.digests import code_digest


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="directory of the starting policy")
    arguments.add_argument("--train", required=True, help="parquet of training rows")
    arguments.add_argument("--validation", required=True, help="parquet of validation rows")
    arguments.add_argument("--system-prompt", required=True, help="text file")
    arguments.add_argument("--index", required=True, help="index directory, or none")
    arguments.add_argument("--retrieval", type=json.loads, default={}, help=RETRIEVAL_HELP)
    arguments.add_argument("--run-dir", required=True, help="directory of the run")
    arguments.add_argument("--models-dir", required=True, help="directory for the models ARM-stepN-seedS")
    arguments.add_argument("--arm", required=True, help="name of the arm")
    arguments.add_argument("--seed", required=True, type=int, help="seed of the run")
    arguments.add_argument("--run-name", help="name in trackers; default: the id of the run's last model")
    add_argument(arguments)
    options = arguments.parse_args()
    given = read(
        options, rl=Rl, tools=Tools, device=Device, estimator=Literal["grpo", "aspo"], coefficients=dict[str, Any]
    )
    rl_run, routes = RlRun(**dict(given), seed=options.seed), given.tools.routes.values()
    check_weights(options.model)
    code = code_digest("scripts.train_rl", *rl_run.shaping, *modules(name for route in routes for name in route))
    prompt = Path(options.system_prompt).read_text(encoding="utf-8")
    directory = Path(options.run_dir)
    with contextlib.ExitStack() as stack:
        endpoint = None
        if options.index != "none":
            directory.mkdir(parents=True, exist_ok=True)
            endpoint = stack.enter_context(
                retrieval(options.index, log_path=f"{directory}.retrieval.log", **options.retrieval)
            )
            Folder(endpoint).ask()  # so that a server starts beside verl; the first step searches
        inputs = RunInputs(
            Path(options.model),
            Path(options.train),
            Path(options.validation),
            prompt,
            endpoint,
            None if options.index == "none" else Path(options.index),
        )
        policies = train(rl_run, inputs, directory, tracked=_tracked(options, rl_run, code))
    for policy in policies:
        step = int(policy.name.removeprefix("step"))
        name = f"{options.arm}-step{step}-seed{options.seed}"
        target = Path(options.models_dir) / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(policy, target)
        write_manifest(target, model=name, arm=options.arm, step=step, seed=options.seed)
    write_provenance(
        directory / "metrics.jsonl",
        config={"arm": options.arm, **options.params},
        code=code,
        seed=options.seed,
        packages=("verl", "vllm", "torch", "transformers", "ray"),
        model=_model_of(options.model),
    )
    delivered(directory)


def _tracked(options: argparse.Namespace, rl_run: RlRun, code: str) -> TrackedRun:
    """The run in the trackers."""
    name = options.run_name or f"{options.arm}-step{rl_run.rl.steps}-seed{options.seed}"
    config = {"arm": options.arm, "seed": options.seed, **options.params, "config_digest": digest(options.params)}
    config |= {"code": code, "train": file_digest(options.train), "validation": file_digest(options.validation)}
    return prepare(options.tracking, name, config)


def _model_of(directory: str) -> dict | None:
    """The starting policy's manifest, if it has one."""
    manifest = Path(directory) / MANIFEST
    return read_json(manifest) if manifest.exists() else None


if __name__ == "__main__":
    run(main)
