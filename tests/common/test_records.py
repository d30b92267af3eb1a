"""Records: errors that name the line, complete files or none, and the provenance of outputs."""

import gzip
import json

import pytest

from tir.common.errors import DataError
from tir.common.records import read_json, read_jsonl


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n', encoding="utf-8-sig")
    assert read_jsonl(tmp_path / "x.jsonl") == [{"a": 1}]


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


def test_writes_are_atomic(tmp_path, monkeypatch):
    from tir.common.files import atomic_path
    from tir.common.records import write_jsonl

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
