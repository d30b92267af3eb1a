"""Two real runs of verl give the same bytes, although in the second requests and tool results come at other times."""

import hashlib
import os

import pytest
from support.repeatable import need_independent_rows
from support.rl_inputs import rl_run, rows_file, untrained_model

from tir.common.records import read_jsonl
from tir.config.tools import Tools
from tir.rl import launch
from tir.rl.inputs import RunInputs

SETTINGS = {
    "device": "cpu",
    "precision": "fp32",
    "rows": 8,
    "steps": 2,
    "save_every": 2,
    "validate_every": 2,
    "batch_prompts": 4,
    "mini_batch_prompts": 4,
    "group_size": 4,
    "learning_rate": 1e-3,
    "entropy_coef": 0.5,  # an untrained model gets the same reward for everything; this term changes its weights
    "max_prompt_tokens": 96,
    "max_response_tokens": 48,
    "tools": Tools(routes={"math": ["python"], "qa": ["python"]}, result_tokens=96, python={"output_chars": 100}),
}
# Python imports a module of this name when it starts. The workers of the run are forks of `tir.rl.entry`.
DELAYS = """
import sys
if "tir.rl.entry" in sys.orig_argv:
    import asyncio, os, random
    from tir.rl import server_engine
    from tir.tools import python_tool
    chance = random.SystemRandom()
    def late(function):
        async def delayed(*arguments, **keywords):
            await asyncio.sleep(chance.random() * 0.4)
            with open(os.environ["DELAYED"], "a") as file:
                file.write(function.__qualname__ + "\\n")
            return await function(*arguments, **keywords)
        return delayed
    server_engine.ServerEngine.generate = late(server_engine.ServerEngine.generate)
    python_tool.PythonTool.call = late(python_tool.PythonTool.call)
"""


def results(directory, policies) -> dict:
    """What the run made, without times: digests of the weights, every trajectory, every metric of training."""
    rollouts = {path.name: read_jsonl(path) for path in sorted((directory / "rollouts").iterdir())}
    measured = ("training/rollout_", "actor/", "critic/", "train/", "val/")
    return {
        "weights": [hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() for path in policies],
        "rollouts": {
            name: [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
            for name, rows in rollouts.items()
        },
        "metrics": [
            {key: value for key, value in row.items() if key.startswith(measured) and "/perf/" not in key}
            for row in read_jsonl(directory / "metrics.jsonl")
        ],
    }


@pytest.mark.slow
def test_a_run_repeats_to_the_last_bit_when_everything_arrives_at_other_times(tmp_path, monkeypatch):
    need_independent_rows()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    data = rows_file(tmp_path / "rows.parquet", *"12345678", questions=[f"What is {'1 + ' * n}1?" for n in range(8)])
    inputs = RunInputs(untrained_model(tmp_path / "model"), data, data, "Use tools.")
    found, delayed = [], tmp_path / "delayed"
    for name in ("undisturbed", "disturbed"):
        if name == "disturbed":
            monkeypatch.setenv("DELAYED", str(delayed))
            (tmp_path / "sitecustomize.py").write_text(DELAYS)
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        policies = launch.train(rl_run(**SETTINGS), inputs, tmp_path / name)
        found.append(results(tmp_path / name, policies))
    first, second = found
    assert first["rollouts"] == second["rollouts"]
    assert first["metrics"] == second["metrics"] and first["weights"] == second["weights"]
    assert any("training/rollout_probs_diff_max" in row for row in first["metrics"])  # it depends on every bit of both
    assert "ServerEngine.generate" in delayed.read_text().splitlines()
