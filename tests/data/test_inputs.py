"""Input files: reading the real upstream files, and errors for missing, corrupt and invalid files."""

import datetime
import decimal
import gzip
import json
import os
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from support.shared_data import BENCHMARK_ROWS, SHARED, needs_shared

from tir.common.errors import ConfigError, DataError, InfrastructureFault
from tir.common.records import read_json, read_jsonl
from tir.config.params import params
from tir.data.alpaca import read_alpaca
from tir.data.archive import extract
from tir.data.benchmarks import load_items
from tir.data.rl_rows import read_rl_rows
from tir.data.sources import fetch_file
from tir.data.validation import fold, load_parquet, select_validation
from tir.rollout.protocol import split_output


@needs_shared
@pytest.mark.parametrize("name", BENCHMARK_ROWS)
def test_real_benchmarks_load(name):
    items = load_items(SHARED / f"benchmarks/{name}.jsonl")
    assert len(items) == BENCHMARK_ROWS[name] == len({item.id for item in items})
    assert all(item.question and item.gold and all(isinstance(gold, str) for gold in item.gold) for item in items)


@needs_shared
def test_row_without_an_answer_in_the_real_training_file_is_named(capsys):
    load_parquet(SHARED / "rl/train.parquet")
    assert "train.parquet: the gold answer is blank, so every reward is 0: row 5274\n" in capsys.readouterr().err


@needs_shared
def test_gold_answers_of_real_benchmarks():
    items = {
        name: load_items(SHARED / f"benchmarks/{name}.jsonl", 30) for name in ("gsm8k", "aime24", "aime25", "2wiki")
    }
    assert items["gsm8k"][0].gold == ["18"] and items["aime25"][0].gold == ["70"]
    assert sum(item.gold[0].startswith("0") for item in items["aime24"]) == 7
    assert sum(len(item.gold) > 1 for item in items["2wiki"]) == 20


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


@needs_shared
def test_checksums_in_config_yaml_match_the_real_files(tmp_path):
    import yaml

    config = yaml.safe_load(open("config.yaml"))
    pinned = {f"benchmarks/{name}.jsonl": item["source"] for name, item in config["benchmarks"].items()}
    for name, source in {**pinned, "rl_train.parquet": config["data"]["rl_train"]}.items():
        path = SHARED / ("rl/train.parquet" if name.startswith("rl") else name)
        fetch_file(name, {**source, "kind": "local", "path": str(path)}, tmp_path / name)
        assert (tmp_path / name).read_bytes() == path.read_bytes()


def local_source(tmp_path, text):
    """A local source with the given content."""
    (tmp_path / "in.jsonl").write_text(text)
    return {"kind": "local", "path": str(tmp_path / "in.jsonl")}


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"sha256": "0" * 16}, ["wrong checksum", "expected sha256 0000", "sha256: "]),
        ({"rows": 3}, ["wrong number of rows", "expected 3, found 1"]),
        ({"path": "/nowhere/x"}, ["no such file", "/nowhere/x"]),
    ],
)
def test_unexpected_file_raises_and_leaves_no_output(tmp_path, changes, messages):
    source = local_source(tmp_path, '{"question": "q", "answer": "a"}\n') | changes
    with pytest.raises(DataError) as caught:
        fetch_file("benchmarks/x.jsonl", source, tmp_path / "out/x.jsonl")
    assert all(message in str(caught.value) for message in messages), str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_error_names_unreadable_source_and_not_the_temporary_output(tmp_path):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bad.json").write_text('[{"instruction": "a"}')
    for path, message in (
        ("directory", "data source of sft.json: path: cannot read file"),
        ("pipe", "pipe: it is a pipe or a device, not a file"),
        ("/proc/self/mem", "/proc/self/mem: Input/output error"),
        ("a\0b", "embedded null byte"),
        ("bad.json", "sft.json:1: not a valid JSON list"),
    ):
        with pytest.raises(DataError) as caught:
            fetch_file("sft.json", {"kind": "local", "path": str(tmp_path / path)}, tmp_path / "out/sft.json")
        assert message in str(caught.value) and ".sft.json" not in str(caught.value), str(caught.value)
        assert not list((tmp_path / "out").iterdir())


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
    with pytest.raises(DataError) as caught:
        fetch_file(name, local_source(tmp_path, content), tmp_path / "out" / name)
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


LAYOUTS = {
    "sft.json": [SFT, SFT | {"output": "\u00e9"}],
    "benchmarks/x.jsonl": [{"question": "q", "answer": "a"}, {"question": "\u00e9", "answer": 7}],
    "corpus.jsonl": [{"id": "0", "contents": "\u00e9"}, {"id": "1", "contents": "b\u2028c"}],
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("layout", ["lines", "list"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_fetch_reads_json_lines_lists_gzip_and_other_encodings(tmp_path, name, layout, encoding, compressed):
    if (name, layout) == ("corpus.jsonl", "list"):
        pytest.skip("passages are read by their offset in the file, so they are lines")
    rows, output = LAYOUTS[name], tmp_path / "out" / name
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "\n".join(lines) if layout == "lines" else f"[{', '.join(lines)}]"
    content = text.encode(encoding)
    (tmp_path / "in").write_bytes(gzip.compress(content) if compressed else content)
    fetch_file(name, {"kind": "local", "path": str(tmp_path / "in"), "rows": 2}, output)
    assert output.read_text(encoding="utf-8") == text
    assert [path for path in output.parent.iterdir() if path.is_file()] == [output]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b'{"question": "q", "answer": "a"}\n' * 99)[:-9], "damaged gzip file"),
        ('{"question": "q", "answer": "a"}\n'.encode("utf-16")[:-1], "damaged utf-16 file"),
        (b"\x28\xb5\x2f\xfd123", "not UTF-8: it looks like zstandard"),
        (b"PK\x03\x04\xff", "not UTF-8: it looks like zip"),
    ],
    ids=["gzip", "utf-16", "zstandard", "zip"],
)
def test_a_damaged_or_unknown_file_is_one_message(tmp_path, content, message):
    (tmp_path / "in").write_bytes(content)
    with pytest.raises(DataError, match=message):
        fetch_file("benchmarks/x.jsonl", {"kind": "local", "path": str(tmp_path / "in")}, tmp_path / "x.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n', encoding="utf-8-sig")
    assert read_jsonl(tmp_path / "x.jsonl") == [{"a": 1}]


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


def test_error_names_output_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match="data/x.jsonl: cannot write file: (File exists|Not a directory)"):
        fetch_file("x.jsonl", local_source(tmp_path, "{}\n"), tmp_path / "data/x.jsonl")


def test_unreachable_url_raises_infrastructure_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("tir.data.sources._download.retry.sleep", lambda seconds: None)
    with pytest.raises(InfrastructureFault, match="kind: local"):
        fetch_file("x.jsonl", {"kind": "url", "url": "http://127.0.0.1:9/x"}, tmp_path / "x.jsonl")
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1")
    with pytest.raises(ConfigError, match="(?s)Unknown scheme for proxy URL.*ALL_PROXY"):
        fetch_file("x.jsonl", {"kind": "url", "url": "http://127.0.0.1:9/x"}, tmp_path / "x.jsonl")
    hub = {"kind": "hub", "repo": "a/b", "file": "x.jsonl", "revision": "main"}
    with pytest.raises(InfrastructureFault, match="(?s)cannot fetch from the hub.*ALL_PROXY"):
        fetch_file("x.jsonl", hub, tmp_path / "x.jsonl")


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"question": "q"}\n{"question": "caf\xe9"}\n'.encode("latin-1"),
            "x.jsonl:2: not UTF-8: byte 0xe9 at position 18 of the line",
        ),
        ('{"question": "q"}\n'.encode("utf-16"), "x.jsonl:1: not UTF-8: it looks like UTF-16"),
        (gzip.compress(b'{"question": "q"}\n', mtime=0), "x.jsonl:1: not UTF-8: it looks like gzip"),
        (b'{"question": "q"}\n["q"]\n', 'x.jsonl:2: not a JSON object: the line is ["q"]'),
        (b"12\n", "x.jsonl:1: not a JSON object: the line is 12"),
        (b"[" * 100_000, "x.jsonl:1: not valid JSON Lines"),
    ],
)
def test_error_names_line_that_is_not_a_json_object(tmp_path, content, message):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_jsonl(tmp_path / "x.jsonl")
    assert message in str(caught.value), str(caught.value)


def test_json_that_is_nested_too_deeply_is_a_data_error(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="x.json: not valid JSON"):
        read_json(tmp_path / "x.json")


def test_records_are_separated_by_line_feeds_only(tmp_path):
    (tmp_path / "x.jsonl").write_bytes('{"a": "\u2028"}\r\n\n{"a": "b"}'.encode())
    assert read_jsonl(tmp_path / "x.jsonl") == [{"a": "\u2028"}, {"a": "b"}]


def test_corrupt_parquet_and_missing_column_are_data_errors(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot read Parquet file"):
        load_parquet(tmp_path / "x.parquet")
    pd.DataFrame({"question": ["q"]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(DataError, match="y.parquet:data_source: column is missing: the file has the columns question"):
        load_parquet(tmp_path / "y.parquet")


def test_writes_are_atomic(tmp_path, monkeypatch):
    from tir.common.records import atomic_path, write_jsonl

    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.jsonl") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}] and len(list(tmp_path.iterdir())) == 1

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", disk_full)
    with pytest.raises(DataError, match="No space left"):
        write_jsonl(tmp_path / "b.jsonl", [{"b": 1}])
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.fixture
def web_server(tmp_path):
    """A web server for one directory; returns (directory, base URL)."""
    (tmp_path / "served").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "served", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_file_is_extracted_from_zip_archive(tmp_path, web_server):
    directory, url = web_server
    with zipfile.ZipFile(directory / "corpus.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wiki.jsonl", '{"id": "0", "contents": "\\"A\\"\\nb"}\n' * 1000)
    source = {"kind": "url", "url": f"{url}/corpus.zip", "member": "wiki.jsonl", "rows": 1000}
    fetch_file("corpus.jsonl", source, tmp_path / "data/corpus.jsonl")
    assert len((tmp_path / "data/corpus.jsonl").read_text().splitlines()) == 1000
    message = "no such file in the archive.*other.jsonl is missing; the archive contains wiki.jsonl"
    with pytest.raises(DataError, match=message):
        fetch_file("corpus.jsonl", {**source, "member": "other.jsonl"}, tmp_path / "data/corpus.jsonl")
    damaged = bytearray((directory / "corpus.zip").read_bytes())
    damaged[45:60] = bytes(15)
    for content, message in ((bytes(damaged), "damaged zip archive"), (b"{}\n", "(?s)not a zip archive.*member: null")):
        (directory / "corpus.zip").write_bytes(content)
        with pytest.raises(DataError, match=message):
            fetch_file("corpus.jsonl", source, tmp_path / "data/corpus.jsonl")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["corpus.jsonl"]


@pytest.mark.parametrize(
    ("method", "edit", "message"),
    [
        (zipfile.ZIP_DEFLATED, {6: 1}, "cannot extract this zip archive: .*encrypted"),
        (zipfile.ZIP_DEFLATED, {8: 9}, "cannot extract this zip archive: .*not supported"),  # deflate64
        (zipfile.ZIP_DEFLATED, {8: 93}, "cannot extract this zip archive: .*not supported"),  # zstandard
        (zipfile.ZIP_BZIP2, {60: 0x55, 61: 0x55, 62: 0x55}, "damaged zip archive"),
        (zipfile.ZIP_LZMA, {place: 0x55 for place in range(60, 100)}, "damaged zip archive"),
    ],
)
def test_a_zip_archive_that_cannot_be_read_is_a_data_error(tmp_path, method, edit, message):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("wiki.jsonl", "hello world " * 5000)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    central = content.index(b"PK\x01\x02") + 2  # where the fields of the header are repeated
    for place, value in edit.items():
        content[place] = value
        if place < 10:
            content[central + place] = value
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match=message):
        extract(tmp_path / "x.zip", "wiki.jsonl", tmp_path / "out", "x.zip")


def test_provenance_records_image_and_its_checksum(tmp_path, monkeypatch):
    from tir.common.records import write_provenance

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APPTAINER_NAME", "analysis.sif")
    (tmp_path / "images").mkdir()
    (tmp_path / "t.csv").write_text("a,b\n")
    for build, sha256 in ((None, None), ('{"sha256": "0f"}', "0f")):
        if build:
            (tmp_path / "images/analysis.build.json").write_text(build)
        write_provenance("t.csv", config={}, code="")
        assert json.loads((tmp_path / "t.csv.provenance.json").read_text())["image"] == {
            "file": "analysis.sif",
            "sha256": sha256,
        }


def test_provenance_records_seed_versions_and_checksum(tmp_path):
    from tir.common.records import write_provenance

    (tmp_path / "t.csv").write_text("a,b\n")
    write_provenance(tmp_path / "t.csv", config={"b": 1, "a": 2}, code="scripts.it 0f3a", seed=3, packages=("pytest",))
    provenance = json.loads((tmp_path / "t.csv.provenance.json").read_text())
    assert provenance["image"] is None and provenance["code_digest"] == "scripts.it 0f3a"
    assert provenance["seed"] == 3 and "pytest" in provenance["versions"] and len(provenance["sha256"]) == 64
