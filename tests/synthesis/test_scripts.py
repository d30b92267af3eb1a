"""The scripts of step 1 as processes: a fake teacher with real tools, killed and resumed; the file of questions."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.fake_services import FakeService
from support.fake_teacher import SUMS, rl_row, teacher, write_questions
from support.paths import ROOT

from tir.common.errors import DataError
from tir.common.records import read_json, read_jsonl
from tir.config.synthesis import SynthesisSampling, Teacher
from tir.config.world import WorldSettings
from tir.data.rl_rows import read_rl_rows
from tir.synthesis.pool import fetch_questions, world_rows
from tir.world.entities import build_world, passages


def command(service, folder, questions):
    given = {"model": "fake", "concurrency": 1}
    plan = SynthesisSampling(direct=1, tools=1, routes={"math": ["python"]}).model_dump(mode="json")
    params = {"teacher": Teacher(**given).model_dump(mode="json", context={"operational": False}), "sampling": plan}
    params |= {"max_questions": None, "tools": {"python": {"minimum_level": 0}}, "engine": {}, "device": "cpu"}
    operational = {"teacher": {"endpoint": f"{service.url}/v1", "retry_s": 1.0}, "tools": {"python": {"workers": 1}}}
    paths = {"questions": questions, "model": "none", "system-prompt": "none", "index": "none"}
    paths |= {"cache": folder / "cache", "output": folder / "sampled.jsonl", "teacher": folder / "teacher.json"}
    options = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    options += ["--params", json.dumps(params), "--operational", json.dumps(operational)]
    return [sys.executable, "-m", "scripts.sample_teacher", *options]


def test_a_killed_job_continues_and_writes_the_same_bytes(tmp_path):
    questions = write_questions(tmp_path / "questions.parquet", [rl_row(*each) for each in SUMS.items()])
    with FakeService(teacher()).running() as service:
        for name in ("whole", "killed"):
            (tmp_path / name).mkdir()
        done = subprocess.run(command(service, tmp_path / "whole", questions), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "questions: 6 answered" in done.stderr, done.stderr
        service.seen.clear()
        job = subprocess.Popen(command(service, tmp_path / "killed", questions), cwd=ROOT, stderr=subprocess.DEVNULL)
        while len(service.seen) < 13 and job.poll() is None:  # five requests for each question
            time.sleep(0.005)
        os.kill(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL and not (tmp_path / "killed/sampled.jsonl").exists()
        asked = len(service.seen)
        done = subprocess.run(
            command(service, tmp_path / "killed", questions), cwd=ROOT, capture_output=True, text=True
        )
    assert re.search(r"resuming: [2-5] of 6 questions are done", done.stderr), done.stderr
    assert len(service.seen) - asked <= 5 * 4
    for file in ("sampled.jsonl", "teacher.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    rows, made_by = read_jsonl(tmp_path / "whole/sampled.jsonl"), read_json(tmp_path / "whole/teacher.json")
    assert [each["answer"] for each in rows[1]["samples"]] == ["0", "42", "42"]
    assert made_by["teacher"] == {"model": "fake", "revision": None} and made_by["outcomes"] == {"answered": 6}


def test_an_endpoint_that_is_gone_ends_in_one_paragraph(tmp_path):
    questions = write_questions(tmp_path / "questions.parquet", [rl_row(*each) for each in SUMS.items()])
    with FakeService(teacher()).running() as service:
        pass  # its port is closed now
    done = subprocess.run(command(service, tmp_path, questions), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = done.stderr.partition("\nTeacherUnavailable: ")[2]
    assert message.startswith(f"{service.url}/v1: the teacher does not answer: ConnectError")
    assert message.endswith("the questions answered so far are kept\n") and message.count("\n") == 2


SETTINGS = WorldSettings(seed=3, sft_clusters=60, rl_train_rows=80, rl_validation_rows=24, benchmark_rows=12)


def test_generated_questions_are_about_the_worlds_passages(tmp_path):
    fetch_questions({"kind": "world"}, tmp_path / "q.parquet", SETTINGS, 60)
    rows, world = read_rl_rows(tmp_path / "q.parquet"), build_world(SETTINGS)
    asked = [row for row in rows if row["ability"] == "qa"]
    texts = [passage["contents"] for passage in passages(world)]
    assert len(rows) == 60 and len(asked) == 30 and len({row["question"] for row in rows}) == 60
    assert all(any(row["reward_model"]["ground_truth"] in text for text in texts) for row in asked)
    assert [row["question"] for row in world_rows(world, 60)] == [row["question"] for row in rows]


def test_a_file_of_questions_is_fetched_and_checked(tmp_path):
    rows = [rl_row(*each) for each in SUMS.items()]
    lines = tmp_path / "mine.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fetch_questions({"kind": "local", "path": str(lines)}, tmp_path / "q.parquet", None, None)
    assert [row["question"] for row in read_rl_rows(tmp_path / "q.parquet")] == [*SUMS]
    lines.write_text(json.dumps(rl_row("What?", None)) + "\n")
    with pytest.raises(DataError) as error:
        fetch_questions({"kind": "local", "path": str(lines)}, tmp_path / "bad.parquet", None, None)
    assert str(error.value).startswith("config.yaml:synthesis.questions: ") and "row 0" in str(error.value)
    assert "rl_train" not in str(error.value) and "\n  try: " in str(error.value)
