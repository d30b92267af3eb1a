"""The reward of a trajectory in both modes; `upstream_f1` must reproduce scores computed with upstream's code."""

import pytest

from tir.common.errors import DataError
from tir.config.rl import RewardRule
from tir.rollout.protocol import Segment, split_output
from tir.scoring.reward import reward

VERIFIED, UPSTREAM = RewardRule(), RewardRule(mode="upstream_f1")
PYTHON = "<think>t</think><python>print(1)</python><result>\n1\n</result>"
SEARCH = "<think>t</think><search>q</search><result>\np\n</result>"


def trace(prediction: str, calls: str = PYTHON, end: str = "<|im_end|>") -> list[Segment]:
    return split_output(f"{calls}<think>so</think><answer>\\[ \\boxed{{{prediction}}} \\]</answer>{end}")


@pytest.mark.parametrize(
    "prediction, gold, score",
    [
        ("12", "12", 1.0),
        ("5", "-5", 1.0),
        ("980", "9.80", 1.0),
        ("(-2,-1)", "(-2,1)", 1.0),
        ("0.5", r"\frac{1}{2}", 0.0),
        (r"\frac{1}{2}", r"\frac{2}{1}", 0.0),
        ("b", "[a, b]", 1.0),
        ("Yes", "yes", 1.0),
        ("+", "+", 0.0),
    ],
)
def test_upstream_reward_reproduces_upstreams_scores(prediction, gold, score):
    assert reward(trace(prediction), gold, "math", UPSTREAM).score == score


def test_upstream_reward_reproduces_upstreams_format_faults_and_bonuses():
    wrong_order = split_output("<think>t</think><python>print(1)</python><answer>\\boxed{12}</answer>")
    two_answers = [*trace("12"), Segment("model", "<answer>\\boxed{12}</answer>")]
    in_result = split_output(PYTHON.replace("\n1\n", "<answer>x</answer>") + "<answer>\\boxed{12}</answer>")
    header = split_output(PYTHON.replace("\n1\n", "<|im_start|>assistant\n") + "<answer>\\boxed{12}</answer>")
    spaced = split_output(PYTHON + "<answer>\\boxed {12}</answer>")
    for broken in (wrong_order, two_answers, in_result, header, spaced):
        assert reward(broken, "12", "math", UPSTREAM).score == -1
    assert reward(trace("12", end=""), "12", "math", UPSTREAM).score == 1.0
    assert reward(trace("12", SEARCH + PYTHON), "12", "qa", UPSTREAM).score == pytest.approx(1.1)
    tags_as_text = trace("12", "<think>literal </search> </python></think>")
    assert reward(tags_as_text, "12", "math", UPSTREAM).score == pytest.approx(1.1)


def test_verified_reward_uses_mathematical_equality_for_math_and_token_f1_for_qa():
    scores = {
        pair: reward(trace(pair[0]), pair[1], "math", VERIFIED).score
        for pair in [("12", "12"), ("5", "-5"), ("980", "9.80"), ("0.5", r"\frac{1}{2}")]
    }
    assert list(scores.values()) == [1.0, 0.0, 0.0, 1.0]
    assert reward(trace("New York City", SEARCH), ["NYC", "New York"], "qa", VERIFIED).score == pytest.approx(0.8)
    assert reward(trace("maybe yes", SEARCH), "yes", "qa", VERIFIED).score == 0.0
    assert reward(trace(r"\text{New York}", SEARCH), ["New York"], "qa", VERIFIED).score == 1.0
    assert reward(trace(r"\text{Paris}", SEARCH), ["Paris"], "qa", UPSTREAM).score == 0.0  # normalised to textparis


def test_verified_reward_counts_only_executed_calls_and_model_text():
    tags_in_result = split_output(
        PYTHON.replace("\n1\n", "\n<answer>\\boxed{9}</answer></search>\n") + "<answer>\\boxed{12}</answer>"
    )
    assert reward(tags_in_result, "12", "math", VERIFIED).score == 1.0
    assert reward(trace("12", SEARCH + PYTHON), "12", "math", VERIFIED).score == pytest.approx(1.1)
    assert reward(trace("0", SEARCH + PYTHON), "12", "math", VERIFIED).score == 0.0  # no bonus for a wrong answer
    assert (
        reward(trace("12", SEARCH + PYTHON), "12", "math", VERIFIED, executed={"python": 1, "search": 0}).score == 1.0
    )
    tags_as_text = reward(trace("12", "<think>literal </search> </python></think>"), "12", "math", VERIFIED)
    assert tags_as_text.score <= 1.0 and not tags_as_text.bonus
    assert reward([Segment("model", "<think>only")], "12", "math", VERIFIED).score == -1


def test_an_unknown_ability_is_an_error():
    with pytest.raises(DataError, match="poetry"):
        reward(trace("12"), "12", "poetry", VERIFIED)
