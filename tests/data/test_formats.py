"""Rows in other projects' formats become ours, or are named."""

import datetime
import decimal
import gzip
import json

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from tir.common.errors import DataError
from tir.data.alpaca import read_alpaca
from tir.data.benchmarks import load_items
from tir.data.rl_rows import read_rl_rows
from tir.data.sources import fetch_file
from tir.rollout.protocol import split_output

SFT = {"instruction": "Use tools.", "input": "q", "output": "a"}
SEARCH_R1 = {
    "id": "train_0",
    "golden_answers": ["Tim", "Tim Burr"],
    "data_source": "nq",
    "prompt": [{"role": "user", "content": "Answer the given question. For example, ... Question: who is é?\n"}],
    "ability": "fact-reasoning",
    "reward_model": {"style": "rule", "ground_truth": {"target": ["Tim", "Tim Burr"]}},
    "extra_info": {"split": "train", "index": 0},
}


CALL = "<think>t</think><search>é</search>"


SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Use tools."},
        {"from": "human", "value": "who?"},
        {"from": "gpt", "value": CALL},
        {"from": "observation", "value": "a page"},
        {"from": "gpt", "value": "<answer>x</answer>"},
    ]
}


MESSAGES = {
    "messages": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": f"{CALL}<result>\na page\n</result><answer>x</answer>"},
    ]
}


def fetched(tmp_path, name: str, rows: list, form: str | None, stored: str = "lines", compressed: bool = False):
    """Fetch rows that are stored as Parquet, as JSON Lines or as a JSON list in UTF-16."""
    path, output = tmp_path / "in", tmp_path / "out" / name
    if stored == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        text = "\n".join(lines) if stored == "lines" else f"[{', '.join(lines)}]"
        content = text.encode("utf-8-sig" if stored == "lines" else "utf-16")
        path.write_bytes(gzip.compress(content) if compressed else content)
    fetch_file(name, {"kind": "local", "path": str(path), "format": form}, output)
    return output


@pytest.mark.parametrize(("stored", "compressed"), [("parquet", False), ("lines", True), ("list", False)])
@pytest.mark.parametrize("change", [{}, {"question": " who is é? "}, {"prompt": "who is é?"}])
def test_search_r1s_rows_are_rl_rows_and_benchmarks(tmp_path, stored, compressed, change):
    row = SEARCH_R1 | change
    rows = read_rl_rows(fetched(tmp_path, "rl_train.parquet", [row, row], "search_r1", stored, compressed))
    assert rows == 2 * [
        {
            "data_source": "nq",
            "question": "who is é?",
            "ability": "qa",
            "reward_model": {"ground_truth": ["Tim", "Tim Burr"], "style": "rule"},
        }
    ]
    items = load_items(fetched(tmp_path, "benchmarks/x.jsonl", [row], "search_r1", stored, compressed))
    assert [(item.question, item.gold) for item in items] == [("who is é?", ["Tim", "Tim Burr"])]


@pytest.mark.parametrize("stored", ["parquet", "lines", "list"])
@pytest.mark.parametrize("row", [SHAREGPT, MESSAGES], ids=["sharegpt", "messages"])
def test_conversations_are_fine_tuning_rows(tmp_path, row, stored):
    output = f"{CALL}<result>\na page\n</result><answer>x</answer>"
    expected = {"instruction": "Use tools.", "input": "who?", "output": output}
    assert read_alpaca(fetched(tmp_path, "sft.json", [row, row], "sharegpt", stored)) == [expected] * 2
    [_, *turns] = SHAREGPT["conversations"]
    other = {"system": "Another.", "conversations": turns}
    [found] = read_alpaca(fetched(tmp_path, "sft.json", [other], "sharegpt"))
    assert found == expected | {"instruction": "Another."}
    assert [segment.by for segment in split_output(found["output"])] == ["model", "tool", "model"]


def test_tool_stars_own_rows_may_be_json_lines_or_parquet(tmp_path):
    row = {
        "data_source": "x",
        "question": "q",
        "ability": "math",
        "reward_model": {"ground_truth": "1"},
        "extra_info": 3,
    }
    other = row | {"reward_model": {"ground_truth": ["1", "2"]}}
    rows = read_rl_rows(fetched(tmp_path, "rl_validation.parquet", [row, other], None))
    assert [each["reward_model"]["ground_truth"] for each in rows] == [["1"], ["1", "2"]]
    assert read_alpaca(fetched(tmp_path, "sft.json", [SFT], None, "parquet")) == [SFT]
    assert load_items(fetched(tmp_path, "benchmarks/x.jsonl", [{"problem": "q", "answer": 1}], None, "parquet"))


def test_other_values_of_parquet_become_texts_or_are_named(tmp_path):
    row = {"question": "q", "answer": decimal.Decimal("1.50"), "seen": datetime.datetime(2020, 1, 2)}
    [item] = load_items(fetched(tmp_path, "benchmarks/x.jsonl", [row], None, "parquet"))
    assert item.gold == ["1.50"]
    with pytest.raises(DataError, match=r"x.jsonl: row 0: image: a value is no text, number, list or mapping"):
        fetched(tmp_path, "benchmarks/x.jsonl", [row | {"image": b"\xff"}], None, "parquet")
    for seconds, zone in ((10**15, None), (0, "Foo/Bar")):
        times = pyarrow.array([seconds], pyarrow.timestamp("s", zone))
        table = pyarrow.table({"question": ["q"], "answer": ["a"], "seen": times})
        pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
        with pytest.raises(DataError, match="x.jsonl: cannot read Parquet file"):
            fetch_file(
                "benchmarks/x.jsonl", {"kind": "local", "path": str(tmp_path / "in.parquet")}, tmp_path / "x.jsonl"
            )


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("sft.json", SFT, "row 1: no conversation: its keys are instruction, input, output"),
        (
            "sft.json",
            {"conversations": SHAREGPT["conversations"][2:]},
            "row 1: turn 0: a turn out of place: it is of the model",
        ),
        (
            "sft.json",
            {"messages": [*MESSAGES["messages"], {"role": "user", "content": "?"}]},
            "row 1: turn 3: a turn out of",
        ),
        (
            "sft.json",
            {"conversations": [{"from": "function_call", "value": "{}"}]},
            "row 1: turn 0: no such author: 'func",
        ),
        ("sft.json", {"messages": [{"role": "user", "content": None}]}, "row 1: turn 0: a turn has no text"),
        ("sft.json", {"messages": [{"role": ["user"], "content": "q"}]}, "row 1: turn 0: no such author"),
        (
            "sft.json",
            {"messages": [*MESSAGES["messages"][:2], {"role": "assistant", "content": "a", "tool_calls": [{"id": 1}]}]},
            "row 1: turn 2: tool_calls: a call that is no text",
        ),
        ("sft.json", SHAREGPT | {"tools": '[{"name": "f"}]'}, "row 1: tools: a key that no row can have"),
        ("sft.json", SHAREGPT | {"system": "Other."}, "row 1: turn 0: a turn out of place"),
        (
            "rl_train.parquet",
            SEARCH_R1 | {"prompt": "Question: who wrote Question: a play?"},
            "row 1: prompt: it is not clear where the question begins",
        ),
        ("sft.json", {"messages": MESSAGES["messages"][:2]}, "row 1: not an Alpaca row"),  # no answer
        ("rl_train.parquet", SEARCH_R1 | {"ability": "chess"}, "row 1: ability: no reward rule for this ability"),
        ("rl_train.parquet", SEARCH_R1 | {"data_source": None}, "row 1: data_source: column is missing"),
        ("rl_train.parquet", SEARCH_R1 | {"prompt": []}, "row 1: prompt: no question"),
        (
            "rl_train.parquet",
            SEARCH_R1 | {"reward_model": {"ground_truth": {}}},
            "row 1: reward_model.ground_truth: no gold",
        ),
        (
            "benchmarks/x.jsonl",
            SEARCH_R1 | {"reward_model": {"ground_truth": {"target": [3]}}},
            "row 1: reward_model.ground",
        ),
    ],
)
def test_a_row_that_cannot_be_converted_is_named(tmp_path, name, row, message):
    form, good = ("sharegpt", SHAREGPT) if name == "sft.json" else ("search_r1", SEARCH_R1)
    with pytest.raises(DataError) as caught:
        fetched(tmp_path, name, [good, row], form)
    assert f"{name}: {message}" in str(caught.value), caught.value
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
