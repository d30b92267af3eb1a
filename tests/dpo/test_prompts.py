"""Prompts of DPO: the head of the RL rows, by task, without blank answers."""

import pytest
from support.fake_teacher import rl_row, write_questions

from tir.common.errors import DataError
from tir.dpo.prompts import dpo_prompts

MATH = [rl_row(f"m{number}", str(number)) for number in range(120)]
QA = rl_row("q", "Paris", "qa")


def test_the_head_of_the_rows_is_taken_by_task(tmp_path):
    path = write_questions(tmp_path / "rl.parquet", [MATH[5], QA, MATH[6], QA])
    assert dpo_prompts(path, 3) == {
        "math": [{"row": 0, "question": "m5", "answer": ["5"]}, {"row": 2, "question": "m6", "answer": ["6"]}],
        "qa": [{"row": 1, "question": "q", "answer": ["Paris"]}],
    }


def test_a_blank_answer_among_few_prompts_is_left_out(tmp_path, capsys):
    """It is one of three here, and of 123 rows in the file, of which one in a hundred may be blank."""
    path = write_questions(tmp_path / "rl.parquet", [rl_row("Draw it.", " "), QA, *MATH])
    found = dpo_prompts(path, 3)
    assert [each["question"] for each in found["math"]] == ["m0"] and len(found["qa"]) == 1
    assert "left out 1 rows with a blank answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "remedy"),
    [([*MATH, QA], "try: dpo: {pairs: {rows: 121}}"), (MATH, "try: arms: {tool_star: null}  # and other arms")],
)
def test_a_task_without_prompts_is_an_error_with_a_remedy_that_helps(tmp_path, rows, remedy):
    path = write_questions(tmp_path / "rl.parquet", rows)
    with pytest.raises(DataError) as caught:
        dpo_prompts(path, 50)
    text = str(caught.value)
    assert f"{path}: dpo.pairs.rows: no prompt of qa: the first 50 of {len(rows)} rows have none" in text
    assert remedy in text and text.count("\n") == 1
