"""The selection of validation rows, and the file of RL rows that it reads."""

import pandas as pd
import pytest
from support.shared_data import BENCHMARK_ROWS, SHARED, needs_shared

from tir.common.errors import DataError
from tir.data.benchmarks import load_items
from tir.data.validation import fold, load_parquet, select_validation


@needs_shared
def test_row_without_an_answer_in_the_real_training_file_is_named(capsys):
    load_parquet(SHARED / "rl/train.parquet")
    assert "train.parquet: the gold answer is blank, so every reward is 0: row 5274\n" in capsys.readouterr().err


@needs_shared
def test_upstreams_validation_file_has_benchmark_questions_and_begins_with_qa():
    rows = load_parquet(SHARED / "rl/test.parquet")
    questions = [item.question for name in BENCHMARK_ROWS for item in load_items(SHARED / f"benchmarks/{name}.jsonl")]
    settings = {"count": 50, "decontaminate": True, "seed": 0}
    chosen, report = select_validation(rows, questions, select="stratified", **settings)
    assert report["leaked"] >= 81 and len(chosen) == 50 == report["kept"]
    assert not {fold(q) for q in chosen["question"]} & {fold(q) for q in questions}
    assert set(chosen["ability"]) == {"math", "qa"}
    again, _ = select_validation(rows, questions, select="stratified", **settings)
    assert again.equals(chosen)
    head, _ = select_validation(rows, questions, select="head", count=50, decontaminate=False, seed=0)
    assert set(head["ability"]) == {"qa"}


def test_stored_pandas_index_does_not_duplicate_rows(tmp_path):
    rows = pd.DataFrame(
        {
            "data_source": "x",
            "question": [f"q {number}" for number in range(40)],
            "ability": ["math", "qa"] * 20,
            "reward_model": [{"ground_truth": "a"}] * 40,
            "extra_info": [{"index": 0}] * 40,
        },
        index=[0] * 40,
    )
    rows.to_parquet(tmp_path / "in.parquet")
    chosen, report = select_validation(
        load_parquet(tmp_path / "in.parquet"), [], count=10, select="stratified", decontaminate=True, seed=0
    )
    assert len(set(chosen["question"])) == 10 == report["kept"] and report["kept_math"] == 5


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What is 3+4?", "what is 3 + 4", True),
        ("What is 3+4?", "What is 3-4?", False),
        ("x^2 = 4", "x*2 = 4", False),
        ("A well-known city?", "a well known city", True),
        ("Solve $x < 3$.", "Solve $x > 3$.", False),
        ("a_b", "a b", True),
        ("It's—there", "it s there", True),
        ("{", "}", True),
    ],
)
def test_questions_are_compared_by_words_and_signs(one, other, same):
    assert (fold(one) == fold(other)) == same


def test_corrupt_parquet_and_missing_column_are_data_errors(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot read Parquet file"):
        load_parquet(tmp_path / "x.parquet")
    pd.DataFrame({"question": ["q"]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(DataError, match="y.parquet:data_source: column is missing: the file has the columns question"):
        load_parquet(tmp_path / "y.parquet")
