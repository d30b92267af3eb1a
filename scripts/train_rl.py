"""Train one arm with one seed in verl; write its metrics, and a model directory per saved step."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from tir.cli import parser, run
from tir.model_files import check_weights, write_manifest
from tir.records import read_json, write_provenance
from tir.retrieval.sidecar import retrieval_server
from tir.rl.collect import delivered
from tir.rl.launch import RunInputs, train
from tir.rl.settings import rl_settings


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="directory of the starting policy")
    arguments.add_argument("--train", required=True, help="parquet of training rows")
    arguments.add_argument("--validation", required=True, help="parquet of validation rows")
    arguments.add_argument("--system-prompt", required=True, help="text file")
    arguments.add_argument("--index", required=True, help="index directory, or none")
    arguments.add_argument("--endpoint", default="none", help="a standing retrieval server, or none")
    arguments.add_argument("--run-dir", required=True, help="directory of the run")
    arguments.add_argument("--models-dir", required=True, help="where ARM-stepN-seedS directories go")
    arguments.add_argument("--arm", required=True)
    arguments.add_argument("--seed", required=True, type=int)
    arguments.add_argument("--coefficients", type=json.loads, default={"estimator": "grpo"},
                           help="the arm: estimator and its coefficients, JSON")
    options = arguments.parse_args()
    settings = rl_settings(options.params, seed=options.seed, **options.coefficients)
    check_weights(options.model)
    prompt = Path(options.system_prompt).read_text(encoding="utf-8")
    directory = Path(options.run_dir)
    with contextlib.ExitStack() as stack:
        endpoint = None
        if options.index != "none" or options.endpoint != "none":
            directory.mkdir(parents=True, exist_ok=True)
            endpoint = stack.enter_context(retrieval_server(
                options.index, endpoint=None if options.endpoint == "none" else options.endpoint,
                log_path=f"{directory}.retrieval.log"))
        inputs = RunInputs(Path(options.model), Path(options.train), Path(options.validation), prompt, endpoint,
                           None if options.index == "none" else Path(options.index), options.operation)
        policies = train(settings, inputs, directory)
    for policy in policies:
        step = int(policy.name.removeprefix("step"))
        name = f"{options.arm}-step{step}-seed{options.seed}"
        target = Path(options.models_dir) / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(policy, target)
        write_manifest(target, model=name, arm=options.arm, step=step, seed=options.seed)
    write_provenance(directory / "metrics.jsonl", config={"arm": options.arm, **options.coefficients, **options.params},
                     seed=options.seed, packages=("verl", "vllm", "torch", "transformers", "ray"),
                     model=_model_of(options.model))
    delivered(directory)


def _model_of(directory: str) -> dict | None:
    """The starting policy's manifest, if it has one."""
    manifest = Path(directory) / "manifest.json"
    return read_json(manifest) if manifest.exists() else None


if __name__ == "__main__":
    run(main)
