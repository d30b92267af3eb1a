"""Output files: atomic, one writer at a time, no litter; records that survive a kill at any system call."""

import json
import os
import subprocess
import sys

import pytest
from support.kills import killed_at_each_call
from support.paths import ROOT

from tir.common.errors import DataError, OutputInUse
from tir.common.files import Scratch, atomic_path, new_directory, only_writer, remove_tree
from tir.common.records import read_jsonl, write_json
from tir.common.resumable import ResumableWriter

ROWS = [{"id": number, "text": "é\u2028" * 3000} for number in range(6)]


def writer(directory):
    return ResumableWriter(directory / "x.jsonl", work={"a": 1}, key=("id",))


def interrupted(directory, damage=b'{"id": 4, "te'):
    """The partial file of a run that was killed after four records, in the middle of the fifth."""
    with writer(directory) as unfinished:
        for row in ROWS[:4]:
            unfinished.add(row)
    with open(unfinished.partial, "ab") as file:
        file.write(damage)
    return unfinished.partial


def complete(directory):
    with writer(directory) as resumed:
        for row in ROWS:
            if (row["id"],) not in resumed.done:
                resumed.add(row)
        resumed.finish((row["id"],) for row in ROWS)


def files_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_resume_that_is_killed_loses_no_record(tmp_path):
    path, partial = tmp_path / "x.jsonl", tmp_path / "x.jsonl.partial"
    before = interrupted(tmp_path).read_bytes()

    def prepare():
        path.unlink(missing_ok=True)
        partial.write_bytes(before)

    stops = 0
    for stops in killed_at_each_call(prepare, lambda: complete(tmp_path)):
        kept = read_jsonl(path) if path.exists() else []
        if not kept:
            with writer(tmp_path) as resumed:
                kept = list(resumed.done.values())
        assert kept[:4] == ROWS[:4], f"killed at stop {stops}"
        complete(tmp_path)
        assert read_jsonl(path) == ROWS and files_in(tmp_path) == ["x.jsonl"], f"killed at stop {stops}"
    assert stops > 60  # two stops for each of: open, lock, read, write, synchronise, rename, remove, ...


def test_a_first_run_that_is_killed_can_be_continued(tmp_path):
    for stop in killed_at_each_call(lambda: [file.unlink() for file in tmp_path.iterdir()], lambda: complete(tmp_path)):
        complete(tmp_path)
        assert read_jsonl(tmp_path / "x.jsonl") == ROWS and files_in(tmp_path) == ["x.jsonl"], f"killed at stop {stop}"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (b"[1]\n", "not a JSON object: the line is [1]"),
        (b'{"id": 4, "te\n', "not valid JSON"),
        (b'{"id": "\xff"}\n', "not UTF-8: byte 0xff at position 9"),
        (b'{"text": "x"}\n', "it has no id"),
        (b'{"id": [4]}\n', "unhashable"),
        (b"\0" * 30 + b"\n", "not valid JSON"),
        (b"[" * 100_000 + b"\n", "not valid JSON"),
        (b"\n", "not valid JSON"),
    ],
)
def test_damaged_records_are_named_by_line_and_removed_by_the_remedy(tmp_path, damage, why):
    partial = interrupted(tmp_path, damage * 2)
    before = partial.read_bytes()
    with pytest.raises(DataError) as error:
        writer(tmp_path)
    assert error.value.where == f"{partial}:6" and why in error.value.why and "2 damaged records" in error.value.what
    assert partial.read_bytes() == before
    subprocess.run(error.value.remedy, shell=True, check=True)
    complete(tmp_path)
    assert read_jsonl(tmp_path / "x.jsonl") == ROWS


@pytest.mark.parametrize("content", [b"", b'{"wo'])
def test_a_partial_file_killed_in_its_first_line_is_begun_again(tmp_path, content):
    (tmp_path / "x.jsonl.partial").write_bytes(content)
    complete(tmp_path)
    assert files_in(tmp_path) == ["x.jsonl"]


def test_each_work_continues_its_own_partial_file(tmp_path):
    for work, added in [("a", ROWS[:4]), ("b", ROWS[:1]), ("a", ROWS[4:]), ("b", []), ("c", [])]:
        with ResumableWriter(tmp_path / "x.jsonl", work=work, key=("id",)) as unfinished:
            for row in added:
                unfinished.add(row)
    for work, rows in [("a", ROWS), ("b", ROWS[:1]), ("c", [])]:
        with ResumableWriter(tmp_path / "x.jsonl", work=work, key=("id",)) as resumed:
            assert list(resumed.done.values()) == rows
            resumed.finish(resumed.done)
    assert files_in(tmp_path) == ["x.jsonl"]


def test_a_new_directory_replaces_the_old_one_when_it_is_complete(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").touch()
    with pytest.raises(ValueError), new_directory(tmp_path / "model") as scratch:
        (scratch / "half").touch()
        raise ValueError
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]
    with new_directory(tmp_path / "model") as scratch:
        assert list(scratch.iterdir()) == []
        (scratch / "new").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["model", "model/new"]


def test_a_partial_file_or_lock_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "x.jsonl.partial").mkdir()
    with pytest.raises(DataError, match=r"x\.jsonl\.partial: cannot write file: Is a directory"):
        writer(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write file: Not a directory"):
        writer(tmp_path / "file/below")
    with (
        pytest.raises(DataError, match="cannot write file: Not a directory"),
        only_writer(tmp_path / "file/below/made"),
    ):
        pass
    (tmp_path / "y.jsonl.partial").symlink_to("x")
    with pytest.raises(DataError, match=r"y\.jsonl\.partial: cannot write file"):
        ResumableWriter(tmp_path / "y.jsonl", work=1, key=("id",))
    full = ResumableWriter(tmp_path / "z.jsonl", work=1, key=("id",))
    full._file = open("/dev/full", "r+b", buffering=0)
    with pytest.raises(DataError, match=r"z\.jsonl\.partial: cannot write file: No space left"), full:
        full.add(ROWS[0])


def test_the_second_writer_of_one_output_gets_an_error(tmp_path):
    with writer(tmp_path) as first:
        first.add(ROWS[0])
        with pytest.raises(OutputInUse, match=r"x.jsonl.partial: another process writes this output"):
            writer(tmp_path)
        first.add(ROWS[1])
    with writer(tmp_path) as second:
        assert list(second.done.values()) == ROWS[:2]
    with atomic_path(tmp_path / "y") as temporary, pytest.raises(OutputInUse, match="y.tmp"):
        temporary.write_text("first")
        write_json(tmp_path / "y", "second")
    with pytest.raises(OutputInUse), atomic_path(tmp_path / "y"), atomic_path(tmp_path / "y"):
        pass
    write_json(tmp_path / "y", 1)
    assert (tmp_path / "y").read_text() == "1\n"


def test_an_output_directory_has_one_writer_and_the_lock_of_a_killed_one_is_taken_over(tmp_path):
    program = f"""
import os, signal
from tir.common.files import only_writer
with only_writer({str(tmp_path / "made" / "model")!r}):
    print("locked", flush=True)
    signal.pause()
"""
    first = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert first.stdout.readline() == "locked\n"
    with pytest.raises(OutputInUse, match="another process writes this output"), only_writer(tmp_path / "made/model"):
        pass
    assert files_in(tmp_path / "made") == [".model.lock"]  # the second one has left it
    first.kill()
    first.communicate()
    with only_writer(tmp_path / "made" / "model"), only_writer(tmp_path / "made" / "other"):
        pass
    assert files_in(tmp_path / "made") == []


def test_an_output_that_is_killed_at_any_call_is_old_or_new_and_leaves_nothing_to_the_next_run(tmp_path):
    path = tmp_path / "x.json"

    def prepare():
        write_json(path, "old")

    for _ in killed_at_each_call(prepare, lambda: write_json(path, "new" * 10_000)):
        assert json.loads(path.read_text()) in ("old", "new" * 10_000)
        write_json(path, "next")
        assert files_in(tmp_path) == ["x.json"] and json.loads(path.read_text()) == "next"


def test_a_file_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    write_json(tmp_path / "x.json", 1)
    assert calls == ["fsync", "replace"]


def test_scratch_directories_of_killed_processes_are_removed_and_others_kept(tmp_path):
    program = f"""
import os, signal
from tir.common.files import Scratch
scratch = Scratch("tir-x-", {str(tmp_path)!r})
(scratch.path / "litter").mkdir()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert len(files_in(tmp_path)) == 1
    (tmp_path / "tir-x-file").write_text("no directory")
    one, other = Scratch("tir-x-", tmp_path), Scratch("tir-x-", tmp_path)
    assert files_in(tmp_path) == sorted([one.path.name, other.path.name, "tir-x-file"])
    one.remove(), one.remove(), other.remove()
    assert files_in(tmp_path) == ["tir-x-file"]


def test_removal_does_not_follow_links(tmp_path):
    kept, removed = tmp_path / "kept", tmp_path / "removed"
    for directory in (kept, removed, removed / "unreadable", removed / "unreadable" / "d", removed / "0"):
        directory.mkdir()
    (kept / "file").write_text("x"), (removed / "0" / "file").write_text("x")
    (removed / "unreadable" / "link").symlink_to(kept), (removed / "dangling").symlink_to("dangling")
    os.mkfifo(removed / "pipe")
    (removed / "unreadable").chmod(0)
    remove_tree(removed)
    assert not removed.exists() and (kept / "file").read_text() == "x"
    remove_tree(removed)
