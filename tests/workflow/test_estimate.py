"""The model of the work against the paper's own times, each within a stated factor, and against known sizes."""

import pytest
import yaml
from support.paths import ROOT

from tir.config.experiment import load
from tir.config.sources import ModelSource
from tir.workflow.cost import Job, minutes, paper_minutes
from tir.workflow.estimate import (
    GPUS,
    Assumptions,
    decode_s,
    rl_minutes,
    rollout_rounds,
    sft_minutes,
    shape,
    token_flops,
    training_mfu,
)
from tir.workflow.gpu_memory import serving_gb, training_gb

H100, THREE_B = GPUS["h100"], shape(ModelSource(kind="hub", repo="Qwen/Qwen2.5-3B-Instruct"))
PAPER = load(yaml.safe_load((ROOT / "config.yaml").read_text()), ["config.yaml"])


def test_one_utilisation_explains_both_of_the_papers_fine_tuning_runs():
    """Table 13: 27.8 rows per second is 6.5 % of the peak. Table 10 is then 1.25 times as fast as reported."""
    papers = Assumptions(sft_mfu=0.065)
    full = sft_minutes(52_891, 3, 8, H100, THREE_B, recompute=False, given=papers)
    medium = sft_minutes(4_900, 1, 8, H100, THREE_B, recompute=False, given=papers)
    assert full == pytest.approx(95.2, rel=0.03)
    assert 1 < 218 / 60 / medium < 1.3


@pytest.mark.parametrize(
    "job, lowest, highest",
    [
        # Ours is expected to be faster: larger micro-batches and ZeRO-2; CUDA graphs, and searches that overlap.
        (Job("sft", {"run": "full"}, "gpu:h100:8"), 4, 7),
        (Job("rl", {"arm": "grpo", "seed": "1"}, "gpu:h100:8"), 4, 8),
        # The same work with the same engine.
        (Job("traces", {"model": "sft", "benchmark": "gsm8k"}, "gpu:a10g:1"), 0.6, 1.5),
        # The paper's time is that of 50 traces, and includes the weights' loading.
        (Job("judge", {"model": "published", "benchmark": "webwalker"}, "gpu:h100:4"), 1, 3),
    ],
    ids=lambda value: value.rule if isinstance(value, Job) else str(value),
)
def test_the_papers_time_is_a_stated_multiple_of_the_estimate(job, lowest, highest):
    assert lowest < paper_minutes(job, PAPER) / minutes(job, PAPER) < highest


def test_work_scales_with_gpus_rows_and_the_cap():
    half = Assumptions(sft_mfu=0.5)
    assert sft_minutes(1000, 2, 8, H100, THREE_B, given=half) == pytest.approx(
        sft_minutes(2000, 1, 4, H100, THREE_B, given=half) / 2
    )
    assert decode_s(4096, H100, THREE_B) == pytest.approx(2 * decode_s(2048, H100, THREE_B))


def test_replacing_groups_of_equal_rewards_generates_in_several_rounds():
    """Of 32 prompts: half equal, 16 missing, 32 more suffice; 70 % equal, 22, 9, 4, 1.4 and 0.6 missing."""
    resampled = PAPER.model_copy(update={"rl": PAPER.rl.model_copy(update={"zero_variance_groups": "resample"})})
    assert resampled.rl.batch_prompts == 32
    rounds = [rollout_rounds(resampled.rl, Assumptions(equal_share=share)) for share in (0.01, 0.5, 0.7)]
    assert rounds == [1, 2, 5] and rollout_rounds(PAPER.rl) == 1
    twice, once = (rl_minutes(each, 8, H100, THREE_B) for each in (resampled, PAPER))
    rollout = decode_s(0.8 * PAPER.rl.max_response_tokens, H100, THREE_B) + 3 * 3.0
    assert twice - once == pytest.approx(PAPER.rl.steps * rollout / 60)


def test_fine_tuning_reaches_35_percent_of_the_peak_as_computed():
    """128 rows of 1,000 tokens in passes of 16,000 reach half of the peak. Recomputation and short passes cost some."""
    given = dict(rows=128, recompute=False)
    ours = training_mfu(THREE_B, 8, H100, tokens=16_000, **given)
    assert 0.35 < ours < 0.6
    assert training_mfu(THREE_B, 8, H100, tokens=4_000, **given) < ours
    assert training_mfu(THREE_B, 8, H100, tokens=16_000, rows=128, recompute=True) < 0.85 * ours
    assert token_flops(THREE_B) == pytest.approx(6 * 3.09e9, rel=0.03)


def test_the_feed_forward_width_follows_from_the_number_of_parameters():
    """Qwen2.5-3B: 11,008; Qwen2.5-7B: 18,944."""
    seven = shape(ModelSource(kind="hub", repo="Qwen/Qwen2.5-7B-Instruct"))
    assert THREE_B.detailed.intermediate == pytest.approx(11_008, rel=0.01)
    assert seven.detailed.intermediate == pytest.approx(18_944, rel=0.01)


def test_training_states_take_sixteen_bytes_per_parameter_and_zero_divides_them():
    def states(number: int, stage: int, fp32: bool) -> float:
        parts = training_gb(THREE_B, number, 4096, stage=stage, fp32_weights=fp32)
        return sum(parts[name] for name in ("weights", "gradients", "optimizer"))

    everything = 16 * 3.09
    assert states(1, 1, False) == states(1, 3, True) == pytest.approx(everything)
    assert states(8, 3, False) == states(8, 3, True) == pytest.approx(everything / 8)
    assert states(8, 2, False) == pytest.approx((2 + 14 / 8) * 3.09) and states(8, 1, False) > states(8, 2, False)


def test_the_cache_of_a_token_and_the_logits_have_the_sizes_of_the_model():
    """Qwen2.5-3B: 36 layers with two key-value heads of 128, so 36,864 bytes per token; 151,936 logits per token."""
    assert THREE_B.kv_bytes == 36_864
    assert serving_gb(THREE_B, 1, 1, 1_000_000)["KV cache"] == pytest.approx(36.864)
    assert training_gb(THREE_B, 1, 1000, stage=1, fp32_weights=False)["logits"] == pytest.approx(1.52, abs=0.01)
    chunked = [training_gb(THREE_B, 1, n, stage=3, fp32_weights=True, chunk_tokens=512)["logits"] for n in (1000, 9000)]
    assert chunked == [pytest.approx(2.18, abs=0.01)] * 2  # in RL they do not grow with the micro-batch


def test_a_model_has_the_shape_of_the_next_larger_one_with_its_own_size():
    other = shape(ModelSource(kind="hub", repo="someone/Other-4B"))
    assert (other.parameters, other.layers) == (4e9, 28)
    assert shape(ModelSource(kind="world")) == THREE_B
