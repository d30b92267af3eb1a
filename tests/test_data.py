"""Inputs: real upstream files, and every way a file can be wrong."""

import gzip
import json
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest
from shared_data import SHARED, needs_shared

from tir.data.alpaca import read_alpaca
from tir.data.benchmarks import load_items
from tir.data.sources import fetch_file
from tir.data.validation import fold, load_parquet, select_validation
from tir.errors import DataError, InfrastructureFault
from tir.records import read_jsonl

ROWS = {"gsm8k": 1319, "math500": 500, "aime24": 30, "aime25": 30, "hotpotqa": 200, "2wiki": 200, "bamboogle": 125,
        "musique": 200, "webwalker": 200}


@needs_shared
@pytest.mark.parametrize("name", ROWS)
def test_real_benchmarks_load(name):
    items = load_items(SHARED / f"benchmarks/{name}.jsonl")
    assert len(items) == ROWS[name] == len({item.id for item in items})
    assert all(item.question and item.gold and all(isinstance(gold, str) for gold in item.gold) for item in items)


@needs_shared
def test_golds_are_what_upstream_means():
    gold = {name: load_items(SHARED / f"benchmarks/{name}.jsonl", 30) for name in ("gsm8k", "aime24", "aime25", "2wiki")}
    assert gold["gsm8k"][0].gold == ["18"] and gold["aime25"][0].gold == ["70"]
    assert sum(item.gold[0].startswith("0") for item in gold["aime24"]) == 7
    assert sum(len(item.gold) > 1 for item in gold["2wiki"]) == 20


@needs_shared
def test_upstreams_validation_file_leaks_and_its_head_is_qa():
    rows = load_parquet(SHARED / "rl/test.parquet")
    questions = [item.question for name in ROWS for item in load_items(SHARED / f"benchmarks/{name}.jsonl")]
    settings = {"count": 50, "decontaminate": True, "seed": 0}
    chosen, report = select_validation(rows, questions, select="stratified", **settings)
    assert report["leaked"] >= 81 and len(chosen) == 50 == report["kept"]
    assert not {fold(q) for q in chosen["question"]} & {fold(q) for q in questions}
    assert set(chosen["ability"]) == {"math", "qa"}
    again, _ = select_validation(rows, questions, select="stratified", **settings)
    assert again.equals(chosen)
    head, _ = select_validation(rows, questions, select="head", count=50, decontaminate=False, seed=0)
    assert set(head["ability"]) == {"qa"}


def test_the_index_of_a_file_does_not_double_its_rows(tmp_path):
    rows = pd.DataFrame({"data_source": "x", "question": [f"q {number}" for number in range(40)], "ability": ["math", "qa"] * 20,
                         "reward_model": [{"ground_truth": "a"}] * 40, "extra_info": [{"index": 0}] * 40}, index=[0] * 40)
    rows.to_parquet(tmp_path / "in.parquet")
    chosen, report = select_validation(load_parquet(tmp_path / "in.parquet"), [], count=10, select="stratified", decontaminate=True, seed=0)
    assert len(set(chosen["question"])) == 10 == report["kept"] and report["kept_math"] == 5


@pytest.mark.parametrize(("one", "other", "same"), [
    ("What is 3+4?", "what is 3 + 4", True), ("What is 3+4?", "What is 3-4?", False), ("x^2 = 4", "x*2 = 4", False),
    ("A well-known city?", "a well known city", True), ("Solve $x < 3$.", "Solve $x > 3$.", False), ("a_b", "a b", True),
    ("It's—there", "it s there", True), ("{", "}", True),
])
def test_questions_are_compared_by_words_and_signs(one, other, same):
    assert (fold(one) == fold(other)) == same


@needs_shared
def test_the_paper_config_pins_the_real_files(tmp_path):
    import yaml

    config = yaml.safe_load(open("config.yaml"))
    pinned = {f"benchmarks/{name}.jsonl": item["source"] for name, item in config["benchmarks"].items()}
    for name, source in {**pinned, "rl_train.parquet": config["data"]["rl_train"]}.items():
        path = SHARED / ("rl/train.parquet" if name.startswith("rl") else name)
        fetch_file(name, {**source, "kind": "local", "path": str(path)}, tmp_path / name)
        assert (tmp_path / name).read_bytes() == path.read_bytes()


def source(tmp_path, text, **more):
    (tmp_path / "in.jsonl").write_text(text)
    return {"kind": "local", "path": str(tmp_path / "in.jsonl"), **more}


@pytest.mark.parametrize(("more", "words"), [
    ({"sha256": "0" * 16}, ["wrong checksum", "expected sha256 0000", "sha256: "]),
    ({"rows": 3}, ["wrong number of rows", "expected 3, found 1"]),
    ({"path": "/nowhere/x"}, ["no such file", "/nowhere/x"]),
])
def test_a_wrong_file_is_refused_and_leaves_nothing(tmp_path, more, words):
    with pytest.raises(DataError) as caught:
        fetch_file("benchmarks/x.jsonl", source(tmp_path, '{"question": "q", "answer": "a"}\n') | more, tmp_path / "out/x.jsonl")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_source_that_cannot_be_read_is_named_and_not_the_output(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "bad.json").write_text('[{"instruction": "a"}')
    for path, words in (("directory", "data source of sft.json: path: cannot read file"), ("bad.json", "sft.json: not valid JSON")):
        with pytest.raises(DataError) as caught:
            fetch_file("sft.json", {"kind": "local", "path": str(tmp_path / path)}, tmp_path / "out/sft.json")
        assert words in str(caught.value) and ".sft.json" not in str(caught.value), str(caught.value)
        assert not list((tmp_path / "out").iterdir())


SFT = {"instruction": "Use tools.", "input": "q", "output": "a"}


@pytest.mark.parametrize(("name", "content", "words"), [
    ("benchmarks/x.jsonl", "", "benchmarks/x.jsonl: no items"),
    ("benchmarks/x.jsonl", "<!doctype html>\n<html></html>\n", "benchmarks/x.jsonl:1: not valid JSON Lines"),
    ("benchmarks/x.jsonl", '{"question": "q", "answer": "a"}\n["q", "a"]\n', "benchmarks/x.jsonl:2: not a JSON object"),
    ("benchmarks/x.jsonl", '{"question": "q", "answer": ["a", null]}\n', "benchmarks/x.jsonl:1: an answer is neither a text nor a number"),
    ("corpus.jsonl", "", "corpus.jsonl: no rows"),
    ("corpus.jsonl", "<html>\n", "corpus.jsonl:1: not a corpus row"),
    ("corpus.jsonl", '{"id": 0, "contents": "a"}\n{"id": 1, "text": "b"}\n', "corpus.jsonl:2: not a corpus row: KeyError: 'contents'"),
    ("sft.json", "[]", "sft.json: not a list of rows: the list is empty"),
    ("sft.json", json.dumps([SFT, {"input": "q"}]), "sft.json: row 1: not an Alpaca row"),
    ("rl_train.parquet", "<html>", "rl_train.parquet: cannot read parquet"),
])
def test_what_a_later_stage_would_refuse_is_refused_where_it_enters(tmp_path, name, content, words):
    with pytest.raises(DataError) as caught:
        fetch_file(name, source(tmp_path, content), tmp_path / "out" / name)
    said = str(caught.value)
    assert words in said and f"try: correct {tmp_path}/in.jsonl, or its source in config.yaml" in said, said
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("change", "words"), [
    ({"ability": "chess"}, "row 1: ability: no reward rule for this row: 'chess'"),
    ({"ability": None}, "row 1: ability"), ({"question": None}, "row 1: question: no question"),
    ({"reward_model": {"ground_truth": None}}, "row 1: reward_model.ground_truth: no gold answer"),
    ({"reward_model": None}, "row 1: reward_model.ground_truth"),
])
@pytest.mark.parametrize("name", ["rl_train.parquet", "rl_validation.parquet"])
def test_rl_rows_are_checked_before_a_gpu_waits_for_them(tmp_path, name, change, words):
    row = {"data_source": "x", "question": "q", "ability": "qa", "reward_model": {"ground_truth": "a"}, "extra_info": {"index": 0}}
    pd.DataFrame([row, row | change]).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(DataError, match=rf"^{name}: {words}"):
        fetch_file(name, {"kind": "local", "path": str(tmp_path / "in.parquet")}, tmp_path / "out" / name)
    pd.DataFrame([row]).drop(columns="ability").to_parquet(tmp_path / "in.parquet")
    with pytest.raises(DataError, match=f"^{name}:ability: column is missing"):
        fetch_file(name, {"kind": "local", "path": str(tmp_path / "in.parquet")}, tmp_path / "out" / name)


def test_half_a_character_is_replaced_where_a_text_enters(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"question": "q\\ud83d", "answer": ["a\\ud83d"]}\n')
    item = load_items(tmp_path / "x.jsonl")[0]
    assert (item.question, item.gold) == ("q\ufffd", ["a\ufffd"])
    (tmp_path / "sft.json").write_text(json.dumps([SFT | {"output": "a\ud83d"}]))
    assert read_alpaca(tmp_path / "sft.json") == [SFT | {"output": "a\ufffd"}]


@pytest.mark.parametrize(("rows", "words"), [([], "not a list of rows"), ([{"input": "q", "output": "a"}], "row 0: not an Alpaca row")])
def test_a_system_prompt_needs_rows_with_an_instruction(tmp_path, rows, words):
    (tmp_path / "sft.json").write_text(json.dumps(rows))
    done = subprocess.run([sys.executable, "-m", "scripts.extract_prompt", "--sft", tmp_path / "sft.json", "--output", tmp_path / "p.txt"],
                          text=True, capture_output=True)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match="data/x.jsonl: cannot write file: (File exists|Not a directory)"):
        fetch_file("x.jsonl", source(tmp_path, "{}\n"), tmp_path / "data/x.jsonl")


def test_an_address_that_does_not_answer_is_infrastructure(tmp_path, monkeypatch):
    monkeypatch.setattr("tir.data.sources._download.retry.sleep", lambda seconds: None)
    with pytest.raises(InfrastructureFault, match="kind: local"):
        fetch_file("x.jsonl", {"kind": "url", "url": "http://127.0.0.1:9/x"}, tmp_path / "x.jsonl")


@pytest.mark.parametrize(("name", "content", "words"), [
    ("x.jsonl", '{"question": "q"}\n', "x.jsonl:1"), ("x.jsonl", '{"answer": "a"}\n', "no question"),
    ("x.jsonl", '{"question": "q", "answer": "a"}\n{"quest', "x.jsonl:2"), ("x.jsonl", "", "empty"),
])
def test_corrupt_benchmarks_name_the_line(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        load_items(tmp_path / name)


@pytest.mark.parametrize(("content", "words"), [
    ('{"question": "q"}\n{"question": "caf\xe9"}\n'.encode("latin-1"), "x.jsonl:2: not UTF-8: byte 0xe9 at position 18 of the line"),
    ('{"question": "q"}\n'.encode("utf-16"), "x.jsonl:1: not UTF-8: it looks like UTF-16"),
    (gzip.compress(b'{"question": "q"}\n', mtime=0), "x.jsonl:1: not UTF-8: it looks like gzip"),
    (b'{"question": "q"}\n["q"]\n', "x.jsonl:2: not a JSON object: the line is [\"q\"]"),
    (b"12\n", "x.jsonl:1: not a JSON object: the line is 12"),
    (b"[" * 100_000, "x.jsonl:1: not valid JSON Lines"),
])
def test_lines_that_are_no_records_are_named(tmp_path, content, words):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_jsonl(tmp_path / "x.jsonl")
    assert words in str(caught.value), str(caught.value)


def test_only_a_line_feed_ends_a_record(tmp_path):
    (tmp_path / "x.jsonl").write_bytes('{"a": "\u2028"}\r\n\n{"a": "b"}'.encode())
    assert read_jsonl(tmp_path / "x.jsonl") == [{"a": "\u2028"}, {"a": "b"}]


def test_corrupt_parquet(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot read parquet"):
        load_parquet(tmp_path / "x.parquet")
    pd.DataFrame({"question": ["q"]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(DataError, match="y.parquet:data_source: column is missing: the file has question"):
        load_parquet(tmp_path / "y.parquet")


def test_writes_are_atomic(tmp_path, monkeypatch):
    from tir.records import atomic_path, write_jsonl

    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.jsonl") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}] and len(list(tmp_path.iterdir())) == 1

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DataError, match="No space left"):
        write_jsonl(tmp_path / "b.jsonl", [{"b": 1}])
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.fixture
def served(tmp_path):
    """A web server of one directory: (directory, its address)."""
    (tmp_path / "served").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "served", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_file_is_taken_out_of_its_archive(tmp_path, served):
    directory, address = served
    with zipfile.ZipFile(directory / "corpus.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wiki.jsonl", '{"id": "0", "contents": "\\"A\\"\\nb"}\n' * 1000)
    source = {"kind": "url", "url": f"{address}/corpus.zip", "member": "wiki.jsonl", "rows": 1000}
    fetch_file("corpus.jsonl", source, tmp_path / "data/corpus.jsonl")
    assert len((tmp_path / "data/corpus.jsonl").read_text().splitlines()) == 1000
    with pytest.raises(DataError, match="no such file in the archive.*other.jsonl; it holds wiki.jsonl"):
        fetch_file("corpus.jsonl", {**source, "member": "other.jsonl"}, tmp_path / "data/corpus.jsonl")
    damaged = bytearray((directory / "corpus.zip").read_bytes())
    damaged[45:60] = bytes(15)
    for content, said in ((bytes(damaged), "a damaged zip archive"), (b"{}\n", "(?s)not a zip archive.*member: null")):
        (directory / "corpus.zip").write_bytes(content)
        with pytest.raises(DataError, match=said):
            fetch_file("corpus.jsonl", source, tmp_path / "data/corpus.jsonl")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["corpus.jsonl"]


def test_provenance_names_the_image_and_its_checksum(tmp_path, monkeypatch):
    from tir.records import write_provenance

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APPTAINER_NAME", "analysis.sif")
    (tmp_path / "images").mkdir()
    (tmp_path / "t.csv").write_text("a,b\n")
    for build, sha256 in ((None, None), ('{"sha256": "0f"}', "0f")):
        if build:
            (tmp_path / "images/analysis.build.json").write_text(build)
        write_provenance("t.csv", config={})
        assert json.loads((tmp_path / "t.csv.provenance.json").read_text())["image"] == {"file": "analysis.sif", "sha256": sha256}


def test_provenance_names_what_made_a_result(tmp_path):
    from tir.records import write_provenance

    (tmp_path / "t.csv").write_text("a,b\n")
    write_provenance(tmp_path / "t.csv", config={"b": 1, "a": 2}, code=[__file__], seed=3, packages=("pytest",))
    made = json.loads((tmp_path / "t.csv.provenance.json").read_text())
    assert made["image"] is None
    assert made["seed"] == 3 and "pytest" in made["versions"] and len(made["sha256"]) == 64
