"""Rows of benchmarks, of fine-tuning, of RL and of the corpus: the real files, and errors that name the invalid row."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from support.shared_data import BENCHMARK_ROWS, SHARED, needs_shared

from tir.common.errors import DataError
from tir.config.params import params
from tir.data.alpaca import read_alpaca
from tir.data.benchmarks import load_items
from tir.data.sources import fetch_file


@needs_shared
@pytest.mark.parametrize("name", BENCHMARK_ROWS)
def test_real_benchmarks_load(name):
    items = load_items(SHARED / f"benchmarks/{name}.jsonl")
    assert len(items) == BENCHMARK_ROWS[name] == len({item.id for item in items})
    assert all(item.question and item.gold and all(isinstance(gold, str) for gold in item.gold) for item in items)


@needs_shared
def test_gold_answers_of_real_benchmarks():
    items = {
        name: load_items(SHARED / f"benchmarks/{name}.jsonl", 30) for name in ("gsm8k", "aime24", "aime25", "2wiki")
    }
    assert items["gsm8k"][0].gold == ["18"] and items["aime25"][0].gold == ["70"]
    assert sum(item.gold[0].startswith("0") for item in items["aime24"]) == 7
    assert sum(len(item.gold) > 1 for item in items["2wiki"]) == 20


SFT = {"instruction": "Use tools.", "input": "q", "output": "a"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("benchmarks/x.jsonl", "", "benchmarks/x.jsonl: no items"),
        ("benchmarks/x.jsonl", "<!doctype html>\n<html></html>\n", "benchmarks/x.jsonl:1: not valid JSON Lines"),
        (
            "benchmarks/x.jsonl",
            '{"question": "q", "answer": "a"}\n["q", "a"]\n',
            "benchmarks/x.jsonl:2: not a JSON object",
        ),
        (
            "benchmarks/x.jsonl",
            '{"question": "q", "answer": ["a", null]}\n',
            "benchmarks/x.jsonl: row 0: an answer is neither a text nor a number",
        ),
        ("corpus.jsonl", "", "corpus.jsonl: no rows"),
        ("corpus.jsonl", "<html>\n", "corpus.jsonl:1: not a corpus row"),
        (
            "corpus.jsonl",
            '{"id": 0, "contents": "a"}\n{"id": 1, "text": "b"}\n',
            "corpus.jsonl:2: not a corpus row: a row lacks a key: it has no contents",
        ),
        ("corpus.jsonl", '{"id": null, "contents": "a"}', "corpus.jsonl:1: the id is neither a text nor a number"),
        ("corpus.jsonl", '{"id": {"a": 1}, "contents": "a"}', "corpus.jsonl:1: the id is neither a text nor a number"),
        ("rl_train.parquet", "", "rl_train.parquet: no rows: the file is empty"),
        ("sft.json", "[]", "sft.json: not a list of rows: the list is empty"),
        ("sft.json", json.dumps([SFT, {"input": "q"}]), "sft.json: row 1: not an Alpaca row"),
        ("sft.json", json.dumps([SFT, SFT | {"output": " \n"}]), "sft.json: row 1: not an Alpaca row"),
        ("sft.json", json.dumps(SFT) + '\n{"input": "q"}\n', "sft.json: row 1: not an Alpaca row"),
        ("sft.json", json.dumps([SFT]) + "\n[", "sft.json:2: not a valid JSON list: Extra data"),
        *(
            (
                "benchmarks/x.jsonl",
                f'{{"question": "q", "answer": "a"}}\n\n{{"question": "q", "answer": {answer}}}\n',
                "benchmarks/x.jsonl: row 1: no answer can equal this one: the gold answer is ",
            )
            for answer in ('""', '" \\n"', "NaN", "Infinity", '["a", ""]', '"so #### "')
        ),
        ("benchmarks/x.jsonl", '[{"question": "q", "answer": ""}]', "benchmarks/x.jsonl: row 0: no answer can equal"),
        ("benchmarks/x.jsonl", '[{"question": "q", "answer": "a"}, 3]', "benchmarks/x.jsonl: row 1: not a JSON object"),
        (
            "benchmarks/x.jsonl",
            '{"question": " ", "answer": "a"}',
            "benchmarks/x.jsonl: row 0: an item has no question",
        ),
        ("sft.json", json.dumps(SFT | {"instruction": "", "input": " "}), "sft.json: row 0: not an Alpaca row"),
        ("rl_train.parquet", "<html>", "rl_train.parquet:1: not valid JSON Lines"),
        ("rl_train.parquet", "PAR1<html>", "rl_train.parquet: cannot read Parquet file"),
    ],
)
def test_invalid_rows_fail_the_fetch(tmp_path, name, content, message):
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(DataError) as caught:
        fetch_file(name, {"kind": "local", "path": str(tmp_path / "in.jsonl")}, tmp_path / "out" / name)
    text = str(caught.value)
    assert message in text and f"try: correct {tmp_path}/in.jsonl, or name another source in config.yaml" in text, text
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ability": "chess"}, "row 1: ability: no reward rule for this ability: the value is 'chess'"),
        ({"ability": None}, "row 1: ability"),
        ({"data_source": None}, "row 1: data_source: no data source: the value is None"),
        ({"question": None}, "row 1: question: no question"),
        ({"reward_model": {"ground_truth": None}}, "row 1: reward_model.ground_truth: no gold answer"),
        ({"reward_model": None}, "row 1: reward_model.ground_truth"),
        ({"reward_model": {"ground_truth": " "}}, "row 1: reward_model.ground_truth: no answer can equal a blank one"),
    ],
)
@pytest.mark.parametrize("name", ["rl_train.parquet", "rl_validation.parquet"])
def test_invalid_rl_rows_fail_the_fetch(tmp_path, name, change, message):
    row = {
        "data_source": "x",
        "question": "q",
        "ability": "qa",
        "reward_model": {"ground_truth": "a"},
        "extra_info": {"index": 0},
    }
    pd.DataFrame([row, row | change]).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(DataError, match=rf"^{name}: {message}"):
        fetch_file(name, {"kind": "local", "path": str(tmp_path / "in.parquet")}, tmp_path / "out" / name)
    pd.DataFrame([row]).drop(columns="ability").to_parquet(tmp_path / "in.parquet")
    with pytest.raises(DataError, match=f"^{name}:ability: column is missing"):
        fetch_file(name, {"kind": "local", "path": str(tmp_path / "in.parquet")}, tmp_path / "out" / name)


def test_lone_surrogates_are_replaced_when_read(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"question": "q\\ud83d", "answer": ["a\\ud83d"]}\n')
    item = load_items(tmp_path / "x.jsonl")[0]
    assert (item.question, item.gold) == ("q\ufffd", ["a\ufffd"])
    (tmp_path / "sft.json").write_text(json.dumps([SFT | {"output": "a\ud83d"}]))
    assert read_alpaca(tmp_path / "sft.json") == [SFT | {"output": "a\ufffd"}]
    deep = json.dumps(SFT | {"output": "a\ud83d"})[:-1] + ', "x": ' + "[" * 700 + '"\\ud83d"' + "]" * 700 + "}"
    (tmp_path / "sft.json").write_text(deep)
    [row] = read_alpaca(tmp_path / "sft.json")
    value = row.pop("x")
    while isinstance(value, list):
        [value] = value
    assert row == SFT | {"output": "a\ufffd"} and value == "\ufffd"


@pytest.mark.parametrize(
    ("rows", "message"), [([], "not a list of rows"), ([{"input": "q", "output": "a"}], "row 0: not an Alpaca row")]
)
def test_system_prompt_needs_rows_with_an_instruction(tmp_path, rows, message):
    (tmp_path / "sft.json").write_text(json.dumps(rows))
    command = [sys.executable, "-m", "scripts.extract_prompt"]
    command += [
        "--sft",
        tmp_path / "sft.json",
        "--output",
        tmp_path / "p.txt",
        "--params",
        '{"prompt": null, "sha256": null}',
    ]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_configured_system_prompt_needs_no_training_data(tmp_path):
    output, prompt = tmp_path / "p.txt", "Use tools.\n\nAnswer in \\boxed{42}.\n"
    command = [sys.executable, "-m", "scripts.extract_prompt", "--sft", "--output", output]
    command += ["--params", params(prompt=prompt, sha256=None)]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0 and output.read_text() == prompt.strip(), done.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"question": "q"}\n', "x.jsonl: row 0"),
        ("x.jsonl", '{"answer": "a"}\n', "no question"),
        ("x.jsonl", '{"question": "q", "answer": "a"}\n{"quest', "x.jsonl:2"),
        ("x.jsonl", "", "empty"),
    ],
)
def test_error_names_invalid_line_of_benchmark(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_items(tmp_path / name)
