"""The example of docs/aspo.md, run as a verl user would: outside this workflow, with `aspo/` alone on the path."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")
ROOT = Path(__file__).resolve().parent.parent
CODE = """
import json, sys
import verl                                      # imports what VERL_USE_EXTERNAL_MODULES names
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
def elsewhere(tmp_path):
    shutil.copytree(ROOT / "aspo", tmp_path / "aspo")
    return tmp_path


def example() -> tuple[dict[str, str], list[str]]:
    """Environment and overrides of the document's example."""
    block = re.search(r"```bash\n(.*?)```", (ROOT / "docs/aspo.md").read_text(encoding="utf-8"), re.S).group(1)
    assert len(block.strip().splitlines()) <= 10
    name, value = re.search(r"export (\w+)=(\S+)", block).groups()
    command = re.search(r"main_ppo(.*)", block.replace("\\\n", " "), re.S).group(1)
    return {name: value}, command.split()


def run(directory: Path, variables: dict[str, str], overrides: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | variables | {"PYTHONPATH": str(directory)}
    return subprocess.run([sys.executable, "-c", CODE, *overrides], cwd=directory, env=environment, text=True,
                          capture_output=True, timeout=300)


def test_the_documented_example_selects_the_shaped_trainer(elsewhere):
    import json

    done = run(elsewhere, *example())
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "trainer": "aspo.integration.ASPOTrainer", "base": "PPOTrainerSync", "lam": 0.5, "gamma": 0.5,
        "norm_by_std": True, "estimator": "grpo", "tir": False}


def test_a_bad_coefficient_is_named(elsewhere):
    variables, overrides = example()
    done = run(elsewhere, variables, [o.replace("lam=0.5", "lam=-3") for o in overrides])
    assert done.returncode != 0 and "ASPOConfig.lam = -3" in done.stderr


def test_a_misspelt_coefficient_is_named(elsewhere):
    variables, overrides = example()
    done = run(elsewhere, variables, [*overrides, "+algorithm.aspo.lambda=0.5"])
    assert done.returncode != 0 and "algorithm.aspo.lambda" in done.stderr and "lam" in done.stderr
