"""Preference pairs of hand-written trajectories: labels, masks, reasons for no pair, and the report."""

import csv
import json
import sys

import pytest
from support.kills import assert_same_after_each_kill
from support.preferences import BROKEN, CALL, RESULT, RIGHT, WRONG, labelled, trace
from support.qwen_like import qwen_like_tokenizer

from scripts import make_pairs as script
from tir.common.errors import DataError
from tir.common.records import read_json, read_jsonl, write_jsonl, write_text
from tir.config.dpo import Pairs
from tir.config.params import params
from tir.config.rl import RewardRule
from tir.dpo.pairs import IGNORE, make_pairs, member
from tir.dpo.report import Tally
from tir.rollout.prompts import render_prompt

RULES = Pairs()
TWICE = Pairs(per_prompt=8)


def learned(row: dict, side: str) -> str:
    """The text of the tokens in the loss of one member."""
    ids = [label for label in row[f"{side}_labels"] if label != IGNORE]
    return qwen_like_tokenizer().decode(ids)


def test_the_loss_covers_what_the_model_wrote_after_the_common_beginning():
    """The tool's result and the call that both trajectories begin with have no loss, and neither has the prompt."""
    (pair,), reason = make_pairs(labelled((CALL, RESULT, WRONG), (CALL, RESULT, RIGHT)), 4, RULES)
    row = pair.row([7, 8, 9, 10])
    common = qwen_like_tokenizer()(CALL, add_special_tokens=False)["input_ids"]
    common += qwen_like_tokenizer()(RESULT, add_special_tokens=False)["input_ids"]
    assert reason == "" and (pair.chosen.sample, pair.rejected.sample) == (1, 0) and pair.shared > len(common)
    assert learned(row, "chosen") == r"five</think><answer>\[ \boxed{5} \]</answer><|im_end|>"
    assert learned(row, "rejected") == r"six, or not</think><answer>\[ \boxed{6} \]</answer><|im_end|>"
    for side in ("chosen", "rejected"):
        assert row[f"{side}_input_ids"][: 4 + len(common)] == [7, 8, 9, 10, *common]
        assert row[f"{side}_labels"][: 4 + pair.shared] == [IGNORE] * (4 + pair.shared)
        assert len(row[f"{side}_input_ids"]) == len(row[f"{side}_labels"]) == sum(row[f"{side}_attention_mask"])


def test_tool_tokens_after_the_common_beginning_have_no_loss():
    other = CALL.replace("2+3", "3+3")
    (pair,), _ = make_pairs(labelled((CALL, RESULT, RIGHT), (other, RESULT.replace("5", "6"), WRONG)), 0, RULES)
    row = pair.row([])
    assert learned(row, "chosen") + learned(row, "rejected") == (
        f"2+3)</python>{RIGHT}3+3)</python>{WRONG}"  # the results, <result>..5..</result> and 6, are not among them
    )
    assert pair.chosen.by_model.count(False) == len(
        qwen_like_tokenizer()(RESULT, add_special_tokens=False)["input_ids"]
    )


def test_pairs_are_made_in_the_order_of_sampling_and_use_no_trajectory_twice():
    members = labelled((BROKEN,), (RIGHT,), (WRONG,), (CALL, RESULT, RIGHT), (CALL, RESULT, WRONG))
    pairs, _ = make_pairs(members[::-1], 0, TWICE)
    assert [(each.chosen.sample, each.rejected.sample) for each in pairs] == [(1, 0), (3, 2)]
    assert [(each.chosen.sample, each.rejected.sample) for each in make_pairs(members, 0, RULES)[0]] == [(1, 0)]
    assert [each.reward for each in members] == [-1, 1, 0, 1, 0]


@pytest.mark.parametrize(
    "trajectories, reason",
    [
        ([(WRONG,), (BROKEN,)], "no_chosen"),
        ([(RIGHT,), (CALL, RESULT, RIGHT)], "no_rejected"),
    ],
)
def test_a_prompt_without_both_labels_gives_no_pair(trajectories, reason):
    assert make_pairs(labelled(*trajectories), 0, RULES) == ([], reason)


def test_trajectories_over_the_cutoff_are_left_out_and_not_cut():
    members = labelled((RIGHT,), (WRONG,), (CALL, RESULT, WRONG))
    longest = len(members[1].ids)
    assert make_pairs(members, 10, Pairs(cutoff_tokens=longest + 9)) == ([], "too_long")
    (pair,), _ = make_pairs(members, 10, Pairs(cutoff_tokens=longest + 10))
    assert pair.rejected.sample == 1


def test_trajectories_that_differ_only_in_tool_output_are_no_pair():
    """A flaky tool gave another result, and the model wrote the same. The reward cannot differ, so it is set here."""
    one, two = labelled((CALL, RESULT, RIGHT), (CALL, RESULT.replace("5", "five"), RIGHT))
    assert one.texts == two.texts and one.ids != two.ids
    worse = type(two)(**vars(two) | {"reward": 0.0})
    assert make_pairs([one, worse], 0, RULES) == ([], "same_text")


def test_a_trajectory_that_is_the_beginning_of_the_other_is_no_pair():
    """A response that was cut at the length limit: its tokens say nothing about what should have come instead."""
    record = trace(1, CALL, RESULT, RIGHT)
    last = record["segments"][-1]
    last["token_ids"] = last["token_ids"][:4]
    last["text"] = qwen_like_tokenizer().decode(last["token_ids"])
    members = [*labelled((CALL, RESULT, RIGHT)), member(record, RewardRule())]
    assert members[1].reward == -1 and members[0].ids[: len(members[1].ids)] == members[1].ids
    assert make_pairs(members, 0, RULES) == ([], "same_text")


def test_thresholds_may_leave_a_gap():
    half = labelled((RIGHT,), (WRONG,))
    rules = Pairs(chosen_from=1.0, rejected_below=0.0)
    tally = Tally()
    tally.add(half, *make_pairs(half, 0, rules), 0, rules)
    found = tally.measures()
    assert (found["no_rejected"], found["good"], found["bad"], found["between"]) == (1, 1, 0, 1)
    with pytest.raises(ValueError, match="a trajectory is both chosen and rejected"):
        Pairs(chosen_from=0.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the script on trace records of math; returns the path of the pairs."""

    def run_script(traces, *, by=lambda main: main(), **pairs):
        qwen_like_tokenizer().save_pretrained(tmp_path / "policy")
        write_text(tmp_path / "prompt.txt", "Use tools.")
        write_jsonl(tmp_path / "math.jsonl", traces)
        given = params(pairs=Pairs(**pairs), reward=RewardRule())
        words = ["--model", "policy", "--samples", "math.jsonl", "--system-prompt", "prompt.txt"]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["make_pairs", *words, "--output", "made/pairs.jsonl", "--params", given])
        by(script.main)
        return tmp_path / "made/pairs.jsonl"

    return run_script


def test_the_script_writes_the_pairs_and_a_report_of_their_lengths_and_calls(run):
    path = run(
        [
            trace(0, RIGHT, item="0"),
            trace(1, CALL, RESULT, WRONG, item="0"),
            trace(0, WRONG, item="1"),
            trace(1, BROKEN, item="1"),
        ]
    )
    (row,) = read_jsonl(path)
    prompt = render_prompt(qwen_like_tokenizer(), "Use tools.", "2+3?")
    assert row["chosen_input_ids"][: len(prompt)] == prompt and row["samples"] == [0, 1] and row["rewards"] == [1, 0]
    report = read_json(path.with_suffix(".report.json"))["all"]
    counted = {"prompts": 2, "with_pairs": 1, "no_chosen": 1, "no_rejected": 0, "pairs": 1, "trajectories": 4}
    assert counted.items() <= report.items()
    assert (report["good"], report["bad"], report["bad_format"]) == (1, 3, 1)
    assert (report["tool_calls_chosen"], report["tool_calls_rejected"], report["chosen_longer"]) == (0, 1, 0)
    tokens = [len(qwen_like_tokenizer()(text, add_special_tokens=False)["input_ids"]) for text in (RIGHT, CALL, WRONG)]
    assert (report["model_tokens_chosen"], report["model_tokens_rejected"]) == (tokens[0], tokens[1] + tokens[2])
    table = list(csv.reader(path.with_suffix(".csv").open()))
    assert table[0] == ["", "math", "all"] and ["prompts with a pair", "1", "1"] in table
    assert "| pairs | 1 | 1 |" in path.with_suffix(".md").read_text()
    assert json.loads(path.with_name("pairs.jsonl.provenance.json").read_text())["report"]["all"] == report


def test_no_pairs_at_all_is_an_error_that_says_why_and_what_to_change(run, tmp_path):
    with pytest.raises(DataError) as caught:
        run([trace(0, WRONG), trace(1, BROKEN)])
    text = str(caught.value)
    assert text.startswith(
        "config.yaml:dpo.pairs: no pairs, so there is nothing to train on: of 2 trajectories, 0 have"
    )
    assert "a reward of at least 1, 2 one below 1 (1 of these in a wrong format)" in text and text.count("\n") == 1
    assert "1 prompts: no trajectory is good enough (math.jsonl)" in text
    assert "try: dpo: {pairs: {samples: 4}}" in text
    assert read_json(tmp_path / "made/pairs.report.json")["all"]["no_chosen"] == 1  # the report is there all the same


def test_a_killed_job_writes_the_same_bytes_when_it_is_repeated(run, tmp_path):
    kills = []
    pair = [trace(0, RIGHT), trace(1, CALL, RESULT, WRONG)]
    run(pair, by=lambda main: kills.append(assert_same_after_each_kill(main, tmp_path / "made")))
    assert kills == [2 * 5]  # the pairs, three forms of the report, the provenance
