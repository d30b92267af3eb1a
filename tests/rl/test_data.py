"""Rows of training and validation as verl reads them."""

import pyarrow
import pyarrow.parquet
import pytest
from support.chat_tokenizers import FAMILIES
from support.qwen_like import qwen_like_tokenizer
from support.rl_inputs import rows_file

from tir.common.errors import DataError
from tir.rl.data import prepare_rows
from tir.rollout.prompts import render_prompt

FITS = qwen_like_tokenizer(), 1000  # tokenizer and token limit; every prompt here is shorter


def test_rows_get_messages_row_numbers_and_lists_of_golds(tmp_path):
    output = tmp_path / "out.parquet"
    assert prepare_rows(rows_file(tmp_path / "in.parquet", "1", "[a,b]", "3"), output, "system text", *FITS, 2) == 2
    first, second = pyarrow.parquet.read_table(output).to_pylist()
    assert [message["content"] for message in first["prompt"]] == ["system text", "q0"]
    assert second["reward_model"]["ground_truth"] == ["[a,b]"] and second["extra_info"]["index"] == 1
    prepare_rows(rows_file(tmp_path / "many.parquet", ["a", "b"]), output, "s", *FITS)
    assert pyarrow.parquet.read_table(output).to_pylist()[0]["reward_model"]["ground_truth"] == ["a", "b"]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_with_a_long_prompt_are_dropped_and_counted(tmp_path, family, capsys):
    """Also with a chat template without a system role, for which verl's filter would drop every row."""
    tokenizer, path, output = FAMILIES[family](), tmp_path / "in.parquet", tmp_path / "out.parquet"
    rows_file(path, "1", "2", questions=["short", "long " * 50])
    limit = len(render_prompt(tokenizer, "system", "short"))
    with pytest.raises(DataError, match=rf"1 of 2 prompts have more than {limit} tokens"):
        prepare_rows(path, output, "system", tokenizer, limit, max_overlong=0.4)
    assert prepare_rows(path, output, "system", tokenizer, limit, max_overlong=0.5) == 1
    assert [row["extra_info"]["index"] for row in pyarrow.parquet.read_table(output).to_pylist()] == [0]
    assert f"{path}: dropped 1 of 2 rows: their prompts have more than {limit} tokens" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"in\.parquet: every prompt is too long"):
        prepare_rows(path, output, "system", tokenizer, limit - 1, max_overlong=0.9)


def test_a_row_without_gold_or_column_is_reported_with_its_place(tmp_path):
    path = rows_file(tmp_path / "in.parquet", "1", None)
    with pytest.raises(DataError, match=r"in\.parquet: row 1.*ground_truth"):
        prepare_rows(path, tmp_path / "out.parquet", "s", *FITS)
    pyarrow.parquet.write_table(pyarrow.table({"question": ["q"]}), path)
    with pytest.raises(DataError, match="data_source"):
        prepare_rows(path, tmp_path / "out.parquet", "s", *FITS)
