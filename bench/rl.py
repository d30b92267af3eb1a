"""Where the time of an RL step at laptop scale goes: verl's stages, beside the model's matrix products alone.

make bench-rl            trains a few real steps from models/sft of the laptop run, which it makes if it does not exist
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from support.configuration import merged

from bench.table import Figure, seconds, show
from tir.common.records import read_jsonl
from tir.config.experiment import load
from tir.config.tools import Tools
from tir.retrieval.sidecar import retrieval
from tir.rl import launch
from tir.rl.inputs import RunInputs
from tir.rl.run import RlRun
from tir.workflow import routes

GOAL = "<= 2.5"
STAGES = {
    "gen": "generation with tools",
    "reward": "reward",
    "old_log_prob": "old log-probabilities",
    "ref": "reference log-probabilities",
    "adv": "advantage",
    "update_actor": "update",
    "update_weights": "weights to the engine",
}


def steps(number: int, model: Path) -> list[dict]:
    """Train with the laptop's settings; return the metrics of all steps but the first, which warms up."""
    config = load(merged("config.yaml", "profiles/laptop/tiny.yaml"), [])
    settings = {"steps": number, "save_every": number, "validate_every": number}
    tools = Tools(**routes.settings(config.tools, "math", "qa"))
    run = RlRun(config.rl.model_copy(update=settings), tools, config.device, "grpo", {}, 1)
    with tempfile.TemporaryDirectory() as directory:
        with retrieval("index", log_path=f"{directory}/retrieval.log") as endpoint:
            prompt = Path("data/system_prompt.txt").read_text(encoding="utf-8")
            data = Path("data/rl_train.parquet"), Path("data/validation.parquet")
            launch.train(run, RunInputs(model, *data, prompt, endpoint, Path("index")), f"{directory}/run")
        return read_jsonl(f"{directory}/run/metrics.jsonl")[2:]


def products(model: Path, tokens: int) -> float:
    """Shortest seconds of the matrix products of a forward pass over `tokens` tokens."""
    weights = load_file(next(model.glob("*.safetensors"))).values()
    layers = [(weight, torch.rand(tokens, weight.shape[1])) for weight in weights if weight.dim() == 2]
    return seconds(lambda: [states @ weight.T for weight, states in layers], 20)[0]


def budget(rows: list[dict], model: Path) -> Iterator[Figure]:
    """The step and its stages; the floor of generation is a pass for each token of the longest trajectory."""

    def typical(name: str) -> float:
        return median(row[name] for row in rows)

    trajectories = round(
        rows[0]["perf/total_num_tokens"] / (rows[0]["prompt_length/mean"] + rows[0]["response_length/mean"])
    )
    floor = {
        "gen": typical("response_length/max") * products(model, trajectories),
        "update_actor": 3 * products(model, round(typical("perf/total_num_tokens"))),
    }
    what = f"{trajectories} trajectories, {typical('response_length/mean'):.0f} tokens each and their prompts"
    yield Figure(what, "s a step", typical("timing_s/step"), GOAL)
    for stage, name in STAGES.items():
        if f"timing_s/{stage}" in rows[0]:
            yield Figure(
                f"  {name}",
                "s",
                typical(f"timing_s/{stage}"),
                f"matrix products {floor[stage]:.2f}" if stage in floor else "",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an RL step at laptop scale.")
    parser.add_argument("--steps", type=int, default=6, help="steps to train; the first is not measured")
    parser.add_argument("--model", type=Path, default=Path("models/sft"), help="starting policy")
    options = parser.parse_args()
    show([("RL step", budget(steps(options.steps, options.model), options.model))])


if __name__ == "__main__":
    main()
