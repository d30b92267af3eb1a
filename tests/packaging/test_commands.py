"""The console entries `tir-sandbox`, `tir-retrieval` and `tir-score`, each as the module behind it."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from support.paths import ROOT

CORPUS = [
    {"id": "0", "contents": '"Eiffel Tower"\nThe tower was completed in 1889.'},
    {"id": "1", "contents": '"Brooklyn Bridge"\nThe bridge opened in 1883.'},
]
# Landlock is left out, as on a kernel that has none.
WITHOUT_LANDLOCK = """
import functools
from tir.tools.sandbox import call
call.Settings = functools.partial(call.Settings, without=("landlock",))
from tir.tools.command import main
main()
"""


def command(module: str, *arguments, stdin: str = "") -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", f"tir.{module}.command", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, input=stdin, text=True, capture_output=True, timeout=300)


@pytest.mark.parametrize(
    "program, status, stdout, stderr",
    [
        ("print(6 * 7)", 0, "42\n", ""),
        ("pass", 0, "", ""),
        ("print(1); exit()", 0, "1\n", ""),
        ("print('step'); 1/0", 1, "", "step\nZeroDivisionError: division by zero\n"),
        ("while True: pass", 124, "", "timed out after 1 s\n"),
    ],
)
def test_a_program_ends_the_command_as_it_ended_itself(program, status, stdout, stderr):
    done = command("tools", "run", "-", "--timeout-s", 1, "--minimum-level", 0, stdin=program)
    assert (done.returncode, done.stdout) == (status, stdout)
    assert done.stderr.endswith(stderr) and "Traceback" not in done.stderr


def test_a_program_that_cannot_be_read_is_named(tmp_path):
    done = command("tools", "run", tmp_path / "absent.py")
    assert done.returncode == 1 and "absent.py: cannot read the program" in done.stderr


@pytest.mark.parametrize("minimum, status", [(3, 1), (0, 0)])
def test_a_sandbox_below_the_minimum_is_refused_with_the_reason(minimum, status):
    line = [sys.executable, "-c", WITHOUT_LANDLOCK, "check", "--minimum-level", str(minimum)]
    done = subprocess.run(line, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == status
    assert re.match(r"Python sandbox: level [0-2] of 3 .*no landlock: left out on request", done.stdout)
    assert ("--minimum-level is 3" in done.stderr and "a kernel from 5.13" in done.stderr) == bool(status)


def test_an_index_is_built_served_and_queried(tmp_path):
    corpus, index = tmp_path / "corpus.jsonl", tmp_path / "index"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in CORPUS))
    built = command("retrieval", "build", corpus, index)
    assert built.returncode == 0 and "2 passages" in built.stderr
    found = command("retrieval", "query", index, "When was the tower completed?", "--top-k", 1)
    assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == ["0"]

    line = [sys.executable, "-m", "tir.retrieval.command", "serve", str(index), "--port", "0"]
    with subprocess.Popen(line, cwd=ROOT, text=True, stderr=subprocess.PIPE) as server:
        try:
            address = next(match[0] for line in server.stderr if (match := re.search(r"http://[\d.]+:\d+", line)))
            found = command("retrieval", "query", address, "When was the bridge opened?", "--top-k", 1)
            assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == ["1"]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_a_command_computes_in_the_arithmetic_of_the_workflow():
    """Even if the shell has another one: an index that is served by hand gives the scores of a job's own server."""
    program = (
        "import os; from tir.common.cli import command; from tir.common.environment import ARITHMETIC\n"
        "command(lambda: print({name: os.environ.get(name) for name in ARITHMETIC} == ARITHMETIC), '')\n"
        "print(os.environ.get('HF_HUB_OFFLINE'))"
    )
    environment = {**os.environ, "MKL_CBWR": "COMPATIBLE", "HF_HUB_OFFLINE": "0"}
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, cwd=ROOT, text=True, capture_output=True, timeout=300, env=environment)
    assert done.stdout.split() == ["True", "0"], done.stderr  # a command may download an encoder


def test_the_arithmetic_is_that_of_the_processor_or_of_tir_mkl_cbwr():
    """Not that of the shell's MKL_CBWR, which may have been set for another program."""
    line = [sys.executable, "-c", "from tir.common.environment import ARITHMETIC; print(ARITHMETIC['MKL_CBWR'])"]
    given = {}, {"MKL_CBWR": "COMPATIBLE"}, {"TIR_MKL_CBWR": "AVX2,STRICT"}
    plain, shell, chosen = (
        subprocess.run(line, cwd=ROOT, text=True, capture_output=True, env={**os.environ, **each}).stdout.strip()
        for each in given
    )
    assert plain == shell and plain in ("AVX2,STRICT", "AVX512,STRICT") and chosen == "AVX2,STRICT"


def test_an_encoder_needs_its_prefixes(tmp_path):
    done = command(
        "retrieval", "build", tmp_path / "corpus.jsonl", tmp_path / "index", "--model", "e5", "--query-prefix", "q"
    )
    assert done.returncode == 1 and "--passage-prefix" in done.stderr and "Traceback" not in done.stderr


def test_answers_are_scored_from_a_file_and_from_standard_input(tmp_path):
    rows = [{"id": "a", "answer": "Paris", "gold": ["London", "Paris"]}, {"answer": None, "gold": "Rome"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "answers.jsonl").write_text(text)
    for done in (
        command("scoring", tmp_path / "answers.jsonl", "--task", "qa"),
        command("scoring", "--task", "qa", stdin=text),
    ):
        records = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(record["id"], record["f1"], record["correct"]) for record in records] == [
            ("a", 1.0, True),
            (2, 0.0, False),
        ]
        assert done.stderr == "1 of 2 correct\n"


def test_a_row_without_a_gold_answer_is_named_by_its_line():
    done = command("scoring", "--task", "qa", stdin='{"answer": "1", "gold": "2"}\n\n{"answer": "1"}\n')
    assert done.returncode == 1 and "/dev/stdin:3: a row lacks a key: it has no gold" in done.stderr
