"""The example of docs/aspo.md, run as a verl user would: outside this workflow, with only `aspo/` on the path."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from support.paths import ROOT
from support.qwen_like import qwen_like_tokenizer

from aspo import ASPOConfig, features_from_segments, shaping_term
from aspo.advantage import placebo_order

pytest.importorskip("verl")
CODE = """
import json, sys
import verl                                      # also imports the module named by VERL_USE_EXTERNAL_MODULES
from hydra import compose, initialize_config_module
from verl.trainer.ppo.v1 import get_trainer_cls
with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", overrides=sys.argv[1:])
trainer = get_trainer_cls(config.trainer.v1.trainer_mode)
integration = sys.modules[trainer.__module__]
coefficients = integration.aspo_config(config.algorithm)
print(json.dumps({"trainer": f"{trainer.__module__}.{trainer.__name__}", "base": trainer.__mro__[1].__name__,
                  "lam": coefficients.lam, "gamma": coefficients.gamma, "norm_by_std": coefficients.norm_by_std,
                  "estimator": str(config.algorithm.adv_estimator), "tir": "tir" in sys.modules}))
"""


@pytest.fixture
def copy_of_aspo(tmp_path):
    """A directory that holds a copy of `aspo/` and nothing else."""
    shutil.copytree(ROOT / "aspo", tmp_path / "aspo")
    return tmp_path


def documented_example() -> tuple[dict[str, str], list[str]]:
    """Environment and overrides of the example in docs/aspo.md."""
    block = re.search(r"```bash\n(.*?)```", (ROOT / "docs/aspo.md").read_text(encoding="utf-8"), re.S).group(1)
    assert len(block.strip().splitlines()) <= 10
    name, value = re.search(r"export (\w+)=(\S+)", block).groups()
    command = re.search(r"main_ppo(.*)", block.replace("\\\n", " "), re.S).group(1)
    return {name: value}, command.split()


def run(directory: Path, variables: dict[str, str], overrides: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | variables | {"PYTHONPATH": str(directory)}
    return subprocess.run(
        [sys.executable, "-c", CODE, *overrides],
        cwd=directory,
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )


def test_documented_example_selects_aspo_trainer(copy_of_aspo):
    done = run(copy_of_aspo, *documented_example())
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "trainer": "aspo.integration.ASPOTrainer",
        "base": "PPOTrainerSync",
        "lam": 0.5,
        "gamma": 0.5,
        "norm_by_std": True,
        "estimator": "grpo",
        "tir": False,
    }


def test_error_names_coefficient_out_of_range(copy_of_aspo):
    variables, overrides = documented_example()
    done = run(copy_of_aspo, variables, [o.replace("lam=0.5", "lam=-3") for o in overrides])
    assert done.returncode != 0 and "ASPOConfig.lam = -3" in done.stderr


def test_error_names_unknown_coefficient(copy_of_aspo):
    variables, overrides = documented_example()
    done = run(copy_of_aspo, variables, [*overrides, "+algorithm.aspo.lambda=0.5"])
    assert done.returncode != 0 and "algorithm.aspo.lambda: unknown coefficient" in done.stderr


class Column(list):
    def tolist(self) -> list:
        return list(self)


def test_a_placebo_exchanges_phi_between_the_trajectories_of_a_step_and_not_with_padding(monkeypatch):
    """The trainer's step without its transfer queue: six trajectories, of which verl added the third as padding."""
    from aspo import integration

    closed = "<think>a</think><python>1</python><answer>1</answer>"
    texts = [closed, "<answer>1</answer>", closed, "<think>b</think>" + closed, "<answer>2</answer>", closed + "."]
    tokenizer = qwen_like_tokenizer()
    tokens = [torch.tensor(tokenizer.encode(text, add_special_tokens=False)) for text in texts]

    def nested(rows):
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    data = {
        "responses": nested(tokens),
        "response_mask": nested([torch.ones(len(row), dtype=torch.long) for row in tokens]),
        "rm_scores": nested([torch.zeros(len(row)) for row in tokens]),
        "uid": Column("aaabbb"),
        "ability": Column(["math"] * 6),
    }
    written = {}
    monkeypatch.setattr(integration.PPOTrainerSync, "_compute_advantage", lambda self, batch, metrics: batch)
    monkeypatch.setattr(integration.transfer_queue, "kv_batch_get", lambda **keywords: data)
    monkeypatch.setattr(integration.transfer_queue, "kv_batch_put", lambda **keywords: written.update(keywords))
    trainer = object.__new__(integration.ASPOTrainer)
    trainer.config = OmegaConf.create({"algorithm": {"aspo": {"permuted": True}}, "data": {"seed": 7}})
    trainer.tokenizer, trainer.global_steps, metrics = tokenizer, 3, {}
    tags = [{"is_padding": row == 2} for row in range(6)]
    batch = type("Batch", (), {"keys": list(range(6)), "partition_id": "train", "tags": tags})
    trainer._compute_advantage(batch, metrics)

    config = ASPOConfig(permuted=True)
    features = features_from_segments([[{"by": "model", "text": text}] for text in texts])
    phi, real = shaping_term(features, torch.ones(6, dtype=torch.bool), config), [0, 1, 3, 4, 5]
    exchanged = [real[row] for row in placebo_order(5, 7, 3).tolist()]
    given = torch.stack([row[0] for row in written["fields"]["advantages"].unbind()])  # rewards are equal: A is 0
    assert torch.allclose(given[real], config.lam * phi[exchanged]) and given[2] == config.lam * phi[2]
    assert exchanged != real and metrics["aspo/shift_share"] == 1.0
