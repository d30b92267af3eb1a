"""Results that do not fit the configuration are made again, also where Snakemake's own metadata is missing or wrong."""

import json
import os
import re
import shutil
from types import SimpleNamespace

import pytest
from support.paths import SNAKEMAKE
from support.workflow_copy import planned, rules_of, snakemake

from tir.workflow import identity
from tir.workflow.engine import record_identities

pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


def test_a_file_from_elsewhere_is_made_again(workflow):
    (workflow / "traces/sft/gsm8k.jsonl").write_text("{}\n")
    jobs = planned(workflow)
    assert "traces:sft,gsm8k" in jobs and not rules_of(jobs) & {"rl", "sft", "index"}


def test_results_without_records_are_made_again(workflow):
    shutil.rmtree(workflow / "identity/traces/sft")
    traces = {job for job in planned(workflow) if job.startswith("traces:")}
    assert traces and all(job.startswith("traces:sft,") for job in traces)


def test_only_jobs_of_the_targets_are_made_again(workflow):
    shutil.rmtree(workflow / "identity")
    jobs = set(re.findall(r"^(?:local)?rule (\w+):", snakemake(workflow, "-n", "data/validation.parquet"), re.M))
    assert "validation_set" in jobs and not jobs & {"rl", "traces", "sft", "all"}


def test_what_a_record_compares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("input", "output"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/part").write_text("1")

    def different(rate=1, inputs=("input",)):
        job = {"command": "train", "config": json.dumps({"rl": {"rate": rate}})}
        comparison = identity.Comparison()
        return [comparison.difference(path, lambda: job, inputs) for path in ("output", "folder")]

    assert different() == ["no record of how it was made"] * 2
    read = identity.entries(["input"])
    identity.write({"command": "train", "config": '{"rl": {"rate": 1}}'}, read, ["output", "folder", "missing"])
    (tmp_path / "folder/.snakemake_timestamp").touch()
    (tmp_path / "output").touch()
    assert different() == [None, None]
    assert different(rate=2) == ["config.rl.rate: 1, now 2"] * 2
    assert different(inputs=["input", "more"]) == ["other input files"] * 2
    (tmp_path / "folder/part").write_text("2")
    assert different() == [None, "not the file that its job wrote"]
    (tmp_path / "input").write_text("INPUT")
    assert different()[0] == "input has changed"
    (tmp_path / "identity/output.json").write_text('{"torn')
    assert different()[0] == "no record of how it was made"


def test_the_record_of_a_deleted_file_stands_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "middle").write_text("1")
    (tmp_path / "end").write_text("2")
    identity.write({"command": "first"}, {}, ["middle"])
    identity.write({"command": "second"}, identity.entries(["middle"]), ["end"])
    (tmp_path / "middle").unlink()

    def different(path, command, inputs):
        comparison = identity.Comparison()
        return comparison.known(path) and comparison.difference(path, lambda: {"command": command}, inputs)

    assert different("middle", "first", []) is None and different("end", "second", ["middle"]) is None
    assert different("middle", "other", []) == "command: first, now other"
    identity.Comparison().accept("middle", {"command": "other"}, [])
    assert different("middle", "other", []) is None and different("end", "second", ["middle"]) is None
    (tmp_path / "identity/middle.json").unlink()
    assert different("middle", "first", []) is False
    assert different("end", "second", ["middle"]) == "middle is missing and has no record"
    identity.Comparison().accept("end", {"command": "third"}, ["middle"])
    assert different("end", "second", ["middle"])  # nobody knows what it was


def test_an_input_that_changes_while_its_job_runs_counts_as_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").write_text("1")

    def run(inputs, outputs, params):
        (tmp_path / "output").write_text((tmp_path / "input").read_text())
        (tmp_path / "input").write_text("12")

    rule = SimpleNamespace(shellcmd="copy", run_func=run)
    record_identities(SimpleNamespace(rules=[rule]))
    rule.run_func(["input"], ["output"], {})
    assert identity.Comparison().difference("output", lambda: {"command": "copy"}, ["input"]) == "input has changed"


def test_a_copied_file_is_digested_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").write_text("1")
    identity.write({}, {}, ["output"])
    os.utime(tmp_path / "output", (1, 1))

    def compare():
        comparison = identity.Comparison()
        assert comparison.difference("output", dict, []) is None
        comparison.save()

    compare()
    monkeypatch.setattr(identity, "_content", None)
    compare()
    (tmp_path / "output").write_text("2")
    with pytest.raises(TypeError):
        compare()


@pytest.mark.parametrize(
    "damaged", ['{"job": 1, "output": 2, "inputs": 3}', '{"job": {}, "output": {}, "inputs": {}}', "[]"]
)
def test_a_damaged_record_is_no_record(tmp_path, monkeypatch, damaged):
    """It is valid JSON, but not what is written here; so is the file of digests."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").write_text("1")
    identity.write({"command": "train"}, {}, ["output"])
    (tmp_path / "identity/digests.json").write_text('{"output": 3, "input": {}}')
    comparison = identity.Comparison()
    assert comparison.difference("output", lambda: {"command": "train"}, []) is None
    (tmp_path / "identity/output.json").write_text(damaged)
    comparison = identity.Comparison()
    assert comparison.difference("output", lambda: {"command": "train"}, []) == "no record of how it was made"
    comparison.accept("output", {"command": "train"}, [])
    comparison.save()
    assert identity.Comparison().difference("output", lambda: {"command": "train"}, []) is None
