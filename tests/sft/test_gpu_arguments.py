"""LLaMA-Factory accepts the recipes of fine-tuning and of DPO for GPUs, with bfloat16 and each stage of DeepSpeed."""

import pytest
from support.gpu_arguments import gpu_arguments
from support.sft_runs import sft_run
from support.training_runs import SFT_PYTHON

from tir.common.records import write_json
from tir.config.dpo import Dpo
from tir.dpo import recipe as dpo
from tir.sft import recipe as sft

STAGES = (None, "zero1", "zero2", "zero3")
GPUS = 4
CONVERTED = {"deepspeed", "dataset", "eval_dataset", "lora_target", "report_to"}  # into lists, or read from a file


@pytest.mark.slow
@pytest.mark.skipif(not SFT_PYTHON.exists(), reason="no .venv/sft")
def test_each_recipe_for_gpus_is_accepted_and_every_argument_is_read(tmp_path):
    recipes = []
    for stage in STAGES:
        paths = {"tokenized": tmp_path / "rows", "output": tmp_path / "out"}
        if stage:
            paths["deepspeed_file"] = tmp_path / f"{stage}.json"
            write_json(paths["deepspeed_file"], sft.deepspeed_config(stage))
        run = sft_run(processes=GPUS, deepspeed=stage)
        recipes.append(sft.render_recipe(run, sft.plan_steps(53971, 0.02, 128, 3), base="base", passes=8, **paths))
        for method in ("lora", "full"):
            tuned = dpo.DpoRun(Dpo(processes=GPUS, method=method, deepspeed=stage), "cuda", seed=3)
            recipes.append(dpo.render_recipe(tuned, dpo.plan_steps(1000, tuned), policy="policy", **paths))
    for recipe, read in zip(recipes, gpu_arguments(recipes, tmp_path / "packages"), strict=True):
        same = recipe.keys() - CONVERTED
        assert {key: read[key] for key in same} == {key: recipe[key] for key in same}
        assert read["bf16"] and read["mixed_precision"] == "bf16" and not read["use_cpu"]
        if "deepspeed" in recipe:
            zero = read["deepspeed"]
            assert recipe["deepspeed"].endswith(f"zero{zero['zero_optimization']['stage']}.json")
            assert "auto" not in str(zero) and zero["bf16"]["enabled"]
            assert zero["gradient_clipping"] == recipe["max_grad_norm"]
            assert zero["gradient_accumulation_steps"] == recipe["gradient_accumulation_steps"]
