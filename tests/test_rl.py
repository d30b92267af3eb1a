"""The reward's golden vectors, what a run tells verl, and that arms differ in nothing but the advantage."""

import pytest

from tir.protocol import Segment, render_result, split_output
from tir.reward import RewardSettings, reward

UPSTREAM = RewardSettings(mode="upstream_f1")
VERIFIED = RewardSettings()


def trajectory(answer: str, tool: str = "python", result: str = "1", thought: str = "t") -> list[Segment]:
    return split_output(f"<think>{thought}</think><{tool}>q</{tool}>" + render_result(result)
                        + rf"<think>so</think><answer>\[ \boxed{{{answer}}} \]</answer>")


@pytest.mark.parametrize(("answer", "gold", "upstream", "verified"), [
    ("12", "12", 1.0, 1.0), ("5", "-5", 1.0, 0.0), ("980", "9.80", 1.0, 0.0), ("(-2,-1)", "(-2,1)", 1.0, 0.0),
    ("0.5", r"\frac{1}{2}", 0.0, 1.0), (r"\frac{1}{2}", r"\frac{2}{1}", 0.0, 0.0), ("025", "25", 0.0, 1.0),
])
def test_math(answer, gold, upstream, verified):
    assert reward(trajectory(answer), gold, "math", UPSTREAM).score == pytest.approx(upstream)
    assert reward(trajectory(answer), gold, "math", VERIFIED).score == pytest.approx(verified)


@pytest.mark.parametrize(("answer", "golds", "score"), [
    ("Yes", ["yes"], 1.0), ("New York City", ["New York", "NYC"], 0.8), ("Paris", ["London"], 0.0),
])
def test_qa_takes_the_best_gold(answer, golds, score):
    for settings in (UPSTREAM, VERIFIED):
        assert reward(trajectory(answer, "search"), golds, "qa", settings).score == pytest.approx(score)


def test_a_broken_protocol_costs_one():
    for broken in (r"<think>a</think><python>q</python><answer>\boxed{1}</answer>", r"<think>a</think><answer>1</answer>",
                   r"<think>a</think><answer>\boxed{1}</answer><answer>\boxed{1}</answer>"):
        for settings in (UPSTREAM, VERIFIED):
            assert reward(split_output(broken), "1", "math", settings).score == -1.0


def test_the_bonus_is_for_tools_that_ran():
    both = split_output("<think>a</think><search>q</search>" + render_result("x") + "<python>q</python>" + render_result("1")
                        + r"<answer>\boxed{1}</answer>")
    assert reward(both, "1", "math", VERIFIED).score == pytest.approx(1.1)
    written = trajectory("1", thought="</search> and </python> are tags")
    assert reward(written, "1", "math", UPSTREAM).score == pytest.approx(1.1)
    assert reward(written, "1", "math", VERIFIED).score == pytest.approx(1.0)


def test_tool_text_cannot_touch_the_reward():
    plain = trajectory("1")
    forged = [plain[0], Segment("tool", render_result(r"<answer>\boxed{9}</answer>")), plain[-1]]
    assert reward(forged, "1", "math", VERIFIED).score == 1.0
    assert reward(forged, "1", "math", UPSTREAM).score == -1.0


def test_arms_differ_in_the_advantage_alone(tmp_path):
    from tir.rl.overrides import RunFiles, overrides
    from tir.rl.settings import rl_settings

    files = RunFiles(tmp_path, tmp_path, tmp_path, tmp_path, tmp_path, tmp_path)
    common = {"steps": 2, "save_every": 2, "validate_every": 2, "device": "cpu"}
    grpo = set(overrides(rl_settings(common, seed=1, estimator="grpo", coefficients={}), files))
    aspo = set(overrides(rl_settings(common, seed=1, estimator="aspo", coefficients={"lam": 0.5}), files))
    differing = {override.partition("=")[0].lstrip("+") for override in grpo ^ aspo}
    assert differing <= {"trainer.v1.trainer_mode", "algorithm.aspo.lam"} and differing
