"""DPO's arguments of LLaMA-Factory, its steps, and its settings in the configuration."""

import pytest
from support.configuration import PAPER, fault, merged

from tir.common.errors import ConfigError
from tir.config.dpo import Dpo
from tir.config.experiment import load
from tir.dpo.recipe import DpoRun, plan_steps, render_recipe
from tir.scoring.reward import BROKEN

CONFIG = load(PAPER, ["config.yaml"])


def recipe(device="cuda", **dpo) -> dict:
    run = DpoRun(Dpo(**{"processes": 4} | dpo), device, seed=3)
    return render_recipe(run, plan_steps(100, run), policy="policy", tokenized="tokenized", output="checkpoints")


def test_the_default_recipe_is_upstreams():
    """examples/train_lora/qwen_lora_dpo_2.yaml; 2 rows x 2 passes x 4 GPUs is a step of 16."""
    assert CONFIG.dpo == Dpo()
    found = recipe()
    upstream = {
        "stage": "dpo",
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_target": "all",
        "pref_beta": 0.1,
        "pref_loss": "sigmoid",
        "learning_rate": 5e-6,
        "num_train_epochs": 3,
        "lr_scheduler_type": "cosine",
        "bf16": True,
    }
    assert upstream.items() <= found.items() and CONFIG.dpo.pairs.cutoff_tokens == 8192
    assert found["per_device_train_batch_size"] * found["gradient_accumulation_steps"] * 4 == 16
    assert (found["max_steps"], found["warmup_steps"]) == (21, 3)  # 3 epochs of 7 steps; 0.1 of them, rounded up
    assert "lora_rank" not in recipe(method="full") and recipe(method="full")["finetuning_type"] == "full"
    assert recipe("cpu")["ddp_backend"] == "gloo" and recipe("cpu", processes=1)["use_cpu"]


@pytest.mark.parametrize("processes, most, passes", [(1, 1, 16), (4, 2, 2), (8, 8, 1), (2, 3, 4)])
def test_a_step_has_the_same_pairs_on_any_number_of_gpus(processes, most, passes):
    found = recipe(processes=processes, pass_pairs=most)
    assert found["gradient_accumulation_steps"] == passes
    assert found["per_device_train_batch_size"] * passes * processes == 16


def test_gpus_that_do_not_divide_a_step_are_an_error():
    with pytest.raises(
        ConfigError, match=r"dpo.batch_pairs: .*16 pairs per step, 6 GPUs.*\n  try: .*batch_pairs: 12\}"
    ):
        recipe(processes=6)


def test_the_arm_of_the_published_recipe_shares_the_rl_of_grpo():
    """Half an epoch of 1,000 rows in batches of 32 is 15 steps. RL goes on from the policy after the first DPO."""
    assert CONFIG.trained_as("tool_star") == "grpo" and "tool_star" not in CONFIG.plain_arms
    assert CONFIG.model_ids("tool_star@first") == [f"grpo-step15-dpo1-seed{seed}" for seed in (1, 2, 3)]
    assert CONFIG.model_ids("tool_star@last") == [f"tool_star-step30-dpo2-seed{seed}" for seed in (1, 2, 3)]
    part = CONFIG.part("tool_star", 30)
    assert (CONFIG.part_before("tool_star", 30), part.steps, part.save_every) == (15, 15, 15)


@pytest.mark.parametrize(
    "rl, dpo, steps, kept",
    [
        ({}, {"after": "last"}, [30], [15, 30]),
        ({"steps": 60}, {"every": 0.5}, [15, 30, 45, 60], [15, 30, 45, 60]),
        ({"steps": 50, "save_every": 5}, {"every": 0.75}, [20, 40], [5, 10, 15, 20, 40, 50]),  # 0.75 x 31 = 23
        ({"save_every": 10}, {"every": 0.1}, [10, 20, 30], [10, 20, 30]),  # not more often than checkpoints
        ({"steps": 15}, {"every": 2.0}, [15], [15]),  # at least once
    ],
)
def test_dpo_follows_checkpoints_at_the_interval(rl, dpo, steps, kept):
    value = merged("config.yaml")
    value["rl"] |= rl
    value["arms"]["tool_star"]["dpo"] = dpo
    for name in ("table5", "table6"):
        value["tables"][name]["rows"] = [{"model": "grpo@last"}]
    config = load(value, ["config.yaml"])
    assert (config.dpo_steps("tool_star"), config.kept_steps("tool_star")) == (steps, kept)
    assert (config.interleaved_arms == ["tool_star"]) == (steps[0] < config.rl.steps)


def test_a_row_may_show_the_steps_that_are_kept():
    def change(c):
        c["rl"]["save_every"] = 5
        c["tables"]["tool_star"]["rows"].append({"model": "tool_star@25"})

    assert "shows tool_star@25, but checkpoints are kept every 5 steps up to 30, and those at which DPO ends" in fault(
        change
    )


def test_the_laptop_shows_the_arm_too():
    tiny = load(merged("config.yaml", "profiles/laptop/tiny.yaml"), ["config.yaml"])
    assert tiny.model_ids(tiny.tables["tool_star"].rows[-1].model) == ["grpo-step20-dpo1-seed1"]


def test_samples_are_drawn_as_in_rl():
    found = CONFIG.dpo_sampling(seed=2)
    assert (found.temperature, found.samples, found.seed) == (CONFIG.rl.temperature, 4, 2)
    assert found.max_response_tokens == CONFIG.rl.max_response_tokens
    assert (found.top_p, found.repetition_penalty, found.helpers.debugger) == (1, 1, None)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda c: c["dpo"]["pairs"].update(chosen_from=1.2),
            ["config.yaml: dpo.pairs.chosen_from: 1.2: no trajectory can be chosen", "the highest reward is 1.1"],
        ),
        (
            lambda c: [
                c["dpo"]["pairs"].update(chosen_from=1.05),
                c.update(tools={"routes": {"math": ["python"], "qa": ["search"]}}),
            ],
            ["chosen_from: 1.05: no trajectory can be chosen", "is 1 (no task of RL has both tools in tools.routes)"],
        ),
        (
            lambda c: c["dpo"]["pairs"].update(rejected_below=-1),
            ["dpo.pairs.rejected_below: -1: no trajectory can be rejected", "rejected_below: 1.0"],
        ),
        (
            lambda c: c["dpo"]["pairs"].update(chosen_from=0.5),
            ["dpo.pairs", "rejected_below 1 must not exceed chosen_from 0.5"],
        ),
        (
            lambda c: c["dpo"]["pairs"].update(rows=20_000),
            ["dpo.pairs.rows: 20000 is more than the 10000 rows", "rows: 10000"],
        ),
        (
            lambda c: c["arms"].update(odd={"base": "aspo", "lambda": 0.7, "dpo": {"after": "last"}}),
            [
                "arms.odd.dpo.rl: the RL before DPO would be that of aspo, but odd has another lambda",
                "odd_rl:\n",
                "lambda: 0.7",
            ],
        ),
        (
            lambda c: c["arms"].update(odd={"estimator": "grpo", "dpo": {"after": "last"}}),
            ["arms.odd.base: missing key: DPO starts from the policy of another arm"],
        ),
        (
            lambda c: c["arms"].update(odd={"base": "tool_star", "dpo": {"after": "last"}}),
            ["arms.odd.dpo.rl: tool_star is not an arm without DPO"],
        ),
        (
            lambda c: c["arms"].update(odd={"base": "grpo", "dpo": {"after": "last", "every": 1}}),
            ["arms.odd.dpo", "write either after: last, or every: 0.5"],
        ),
        (
            lambda c: c["arms"].update(odd={"base": "grpo", "dpo": {"after": "first"}}),
            ["arms.odd.dpo.after: 'first'"],
        ),
    ],
)
def test_settings_that_can_give_no_pairs_are_refused_in_the_plan(change, words):
    text = fault(change)
    assert all(word in text for word in words), text


def test_the_lowest_reward_is_that_of_the_reward_rule():
    assert f"lowest reward is {BROKEN:g} " in fault(lambda c: c["dpo"]["pairs"].update(rejected_below=-1))
