"""The smoke run: it goes through the user's profile on few GPUs, and says of each stage whether and why it failed."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from support.configuration import merged
from support.paths import ROOT, SNAKEMAKE

from tir.common.model_server import command
from tir.common.records import write_jsonl
from tir.config.experiment import load
from tir.retrieval.bm25 import BM25Config
from tir.retrieval.build import build_index
from tir.workflow.findings import table
from tir.workflow.smoke import ON_GPUS, SCALE, smoke_profile, verdicts

needs_snakemake = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


def shipped(name: str) -> dict:
    return yaml.safe_load((ROOT / f"profiles/{name}/config.yaml").read_text())


def test_the_profile_keeps_its_machine_and_asks_for_two_gpus_at_most():
    paper = shipped("slurm")
    made = smoke_profile(paper, ["profiles/slurm/site.yaml"], on_gpus=True)
    asked = {rule: resources["gres"] for rule, resources in made["set-resources"].items() if "gres" in resources}
    assert asked == {
        "index": "'gpu:h200:1'",
        "sft": "'gpu:h100:2'",
        "teacher_samples": "'gpu:a10g:1'",
        "rl": "'gpu:h100:2'",
        "dpo_samples": "'gpu:h100:1'",
        "dpo": "'gpu:h100:2'",
        "rl_after_dpo": "'gpu:h100:2'",
        "traces": "'gpu:a10g:1'",
        "judge": "'gpu:h100:2'",
    }
    jobs = [made["default-resources"] | resources for resources in made["set-resources"].values()]
    assert {made["default-resources"]["runtime"], *(job["runtime"] for job in jobs)} == {30}
    assert made["default-resources"] | {"runtime": 60} == paper["default-resources"]
    for key in ("executor", "apptainer-args", "set-threads"):
        assert made[key] == paper[key]
    assert made["configfile"][-2:] == ["profiles/smoke/cuda.yaml", "profiles/slurm/site.yaml"]
    assert smoke_profile(shipped("workstation"), [], on_gpus=True)["resources"] == [
        "gpu=2",
        "mem_mb=500000",
        "downloads=100",
    ]
    listed = {"default-resources": ["mem_mb=4000", "runtime=600"], "set-resources": {"rl": {"gpu": 8, "gres": "gpu:4"}}}
    smaller = smoke_profile({"configfile": []} | listed, [], on_gpus=True)
    assert smaller["default-resources"] == ["mem_mb=4000", "runtime=30"]
    assert smaller["set-resources"] == {"rl": {"gpu": 2, "gres": "gpu:2"}}
    assert "profiles/smoke/cuda.yaml" not in smoke_profile(shipped("laptop"), [], on_gpus=False)["configfile"]


@needs_snakemake
@pytest.mark.parametrize("profile, limit", [("slurm", 1.0), ("profiles/workstation", 1.0), ("profiles/laptop", 0.0)])
def test_a_smoke_run_plans_every_stage_in_less_than_one_gpu_hour(profile, limit, tmp_path):
    for name in "Snakefile config.yaml rules scripts tir aspo profiles envs containers slurm".split():
        (tmp_path / name).symlink_to(ROOT / name)
    python = SNAKEMAKE.with_name("python")
    command = [python, "-m", "scripts.smoke", "--profile", profile, "--snakemake", SNAKEMAKE, "--", "-n"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout.partition("Job stats:")[2], re.M))
    assert {
        "index",
        "sft",
        "rl",
        "dpo_samples",
        "dpo_pairs",
        "dpo",
        "traces",
        "judge",
        "scores",
        "table5",
        "retrieval_smoke",
    } <= set(jobs)
    total = re.search(r"^total +\d+ +([\d.]+)", done.stderr.rpartition("\nPlan\n")[2], re.M)
    assert float(total[1]) <= limit


def test_on_gpus_the_tiny_model_has_the_positions_that_vllm_is_asked_for():
    """vLLM refuses to start with a longer context, so the judge of the smoke run would fail on every machine."""
    config = load(merged("config.yaml", *SCALE, ON_GPUS), ["config.yaml"])
    line = command(config.judge.engine, "models/base", config.judge.name, 8000, config.judge.gpus)
    asked = int(line[line.index("--max-model-len") + 1])
    assert max(asked, config.rl.max_prompt_tokens + config.rl.max_response_tokens) <= config.tiny_model.max_positions


def finished(directory):
    """The files of a run in which every stage succeeded."""
    trace = {"finish": "answer", "n_python": 1, "n_search": 0}
    write_jsonl(directory / "corpus.jsonl", [{"id": str(row), "contents": f"Title\ntext {row}"} for row in range(1500)])
    build_index(directory / "corpus.jsonl", directory / "index", BM25Config())
    write_jsonl(directory / "runs/sft/full/log.jsonl", [{"step": 1, "loss": 5.5}, {"step": 2, "loss": 2.0}])
    write_jsonl(directory / "runs/rl/aspo/seed1/metrics.jsonl", [{"step": 1, "actor/kl_loss": 1e-4}])
    write_jsonl(directory / "runs/dpo/aspo-step2-dpo1-seed1/training/log.jsonl", [{"step": 1, "loss": 0.69}])
    write_jsonl(directory / "traces/sft/gsm8k.jsonl", [trace, trace])
    write_jsonl(directory / "judge/sft/gsm8k.jsonl", [{"verdict": "correct"}])
    write_jsonl(directory / "scores/sft/gsm8k.jsonl", [{"em": 1}, {"em": 0}])
    (directory / "results").mkdir()
    (directory / "results/table5.csv").write_text("model\n")
    (directory / "results/retrieval_smoke.csv").write_text("question,latency_ms\nWho?,210.5\nWhere?,20.0\n")
    (directory / "logs").mkdir()
    (directory / "logs/retrieval_smoke.log").write_text(
        "retrieval: waiting\nretrieval: the run's server, http://h:1, x\n"
    )
    return directory


def lines(directory) -> dict[str, str]:
    """Verdict and text of each stage."""
    return {found.check: f"{'ok' if found.ok else 'FAIL'} {found.found}" for found in verdicts(directory, images=False)}


def test_each_finished_stage_has_a_line_with_what_came_out(tmp_path):
    assert lines(finished(tmp_path)) == {
        "index": "ok 1,500 passages",
        "search": "ok 2 questions answered by the run's server, the slowest in 0.2 s",
        "fine-tuning": "ok 1 run, mean loss 5.50 -> 2.00",
        "reinforcement learning": "ok 1 step, KL divergence 1.0e-04",
        "DPO": "ok 1 run, mean loss 0.69 -> 0.69",
        "trajectories": "ok 2 trajectories, 2 tool calls",
        "judge": "ok 1 verdict",
        "scores": "ok 2 scores",
        "table": "ok results/table5.csv",
    }


def test_judged_samples_are_verdicts_of_the_judge_too(tmp_path):
    finished(tmp_path)
    (tmp_path / "sampled").mkdir()
    (tmp_path / "judge").rename(tmp_path / "sampled/judge")
    assert lines(tmp_path)["judge"] == "ok 1 verdict"


def test_a_failed_stage_has_the_remedy_of_its_log_and_the_stages_behind_it_were_not_reached(tmp_path):
    finished(tmp_path)
    for name in ("runs/rl/aspo/seed1/metrics.jsonl", "results/table5.csv"):
        (tmp_path / name).unlink()
    log = tmp_path / "logs/rl/aspo-seed1.log"
    log.parent.mkdir()
    log.write_text("step 1\n\nTrainingFailed: verl.log: verl ended with status 1: out of memory\n  try: ask for more\n")
    found = table(verdicts(tmp_path, images=False))
    assert "FAIL  reinforcement learning  TrainingFailed: verl.log: verl ended with status 1: out of memory" in found
    assert "try: ask for more" in found and "FAIL  table                   not reached" in found
    assert found.splitlines()[-1].strip() == "try: correct reinforcement learning, then run the same command again"
    log.write_text("Error: an earlier attempt\n  try: again\nsaved step 2\n")  # the job went on after it
    assert "FAIL  reinforcement learning  not reached" in table(verdicts(tmp_path, images=False))


def test_of_a_stage_without_error_behind_no_failed_one_the_remedy_is_in_snakemakes_messages(tmp_path):
    """A job that was not submitted, because its partition does not exist, has no log."""
    (tmp_path / "logs").mkdir()
    first, second = verdicts(tmp_path, images=False)[:2]
    assert "read Snakemake's messages above" in first.remedy and second.remedy.startswith("correct index, ")


@pytest.mark.parametrize("status, words", [(0, "the smoke run has passed"), (1, "Snakemake ended with status 1")])
def test_a_run_in_which_snakemake_fails_does_not_pass_by_the_files_of_an_earlier_one(status, words, tmp_path):
    finished(tmp_path)
    for name in ("profiles", "scripts", "tir"):
        (tmp_path / name).symlink_to(ROOT / name)
    snakemake = tmp_path / "snakemake"
    snakemake.write_text(f"#!/bin/sh\nexit {status}\n")
    snakemake.chmod(0o755)
    command = [sys.executable, "-m", "scripts.smoke", "--profile", "profiles/laptop", "--snakemake", snakemake]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == status and words in done.stdout + done.stderr


@pytest.mark.parametrize(
    "file, rows, expected",
    [
        ("runs/sft/full/log.jsonl", [{"step": 1, "loss": float("nan")}], "the training loss is missing or not finite"),
        ("runs/rl/aspo/seed1/metrics.jsonl", [{"step": 1}], "no KL divergence from the reference model"),
        (
            "traces/sft/gsm8k.jsonl",
            [{"finish": "error", "n_python": 0, "n_search": 0}],
            "1 of 1 trajectories ended with an error",
        ),
    ],
)
def test_an_output_that_is_not_what_it_should_be_is_a_failure(tmp_path, file, rows, expected):
    finished(tmp_path)
    (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert expected in " ".join(text for text in lines(tmp_path).values() if text.startswith("FAIL"))
