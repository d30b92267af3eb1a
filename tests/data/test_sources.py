"""Fetching of files: checksums, encodings, archives, and sources that cannot be read."""

import gzip
import json
import os
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.shared_data import SHARED, needs_shared

from tir.common.errors import ConfigError, DataError, InfrastructureFault
from tir.data.archive import extract
from tir.data.sources import fetch_file


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


LAYOUTS = {
    "sft.json": [{"instruction": "Use tools.", "input": "q", "output": output} for output in ("a", "\u00e9")],
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
