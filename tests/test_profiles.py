"""GPU types stand in one file: the shipped profile states the paper's, another cluster is another file."""

import re
import subprocess
from pathlib import Path

import pytest
from test_incremental import SNAKEMAKE

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


def gpus(profile: str) -> dict[str, str]:
    """GPUs each per stage, from the plan at the end of a dry run."""
    done = subprocess.run([SNAKEMAKE, "--profile", profile, "-n", "results/table5.csv", "judge/published/gsm8k.jsonl"],
                          cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = done.stderr.rpartition("\nPlan\n")[2]
    return {row[1]: row[2] for row in re.finditer(r"^(\w+) +\d+ +(\d+ x \w+)", plan, re.M)}


@pytest.mark.parametrize("profile, one, four, eight", [
    ("slurm", {"index": "1 x h200", "traces": "1 x a10g"}, "4 x h100", "8 x h100"),
    ("tests/profiles/a100", {"index": "1 x a100", "traces": "1 x a100"}, "4 x a100", "8 x a100"),
])
def test_stages_ask_for_the_gpus_their_profile_states(profile, one, four, eight, tmp_path):
    assert gpus(profile) == {**one, "judge": four, "sft": eight, "rl": eight}


def test_a_plan_shows_what_a_profiles_expressions_give_each_job(tmp_path):
    """Values that a plan computes once per rule, and those that it must compute for each job."""
    asked = ["traces:runtime=60 * attempt", "traces:slurm_extra='--nice=5'", "traces:slurm_partition=gpu-a100",
             "traces:mem_mb=9000 if wildcards.benchmark == 'gsm8k' else 7000", "traces:weight=threads * 2"]
    done = subprocess.run([SNAKEMAKE, "--profile", "profiles/laptop", "-n", "--forceall", "results/table5.csv", "--quiet", "host",
                           "--set-resources", *asked, "--default-resources", "mem_mb=1000", "slurm_partition=cpu"],
                          cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = re.findall(r"^(?:local)?rule (\w+):.*?wildcards: ([^\n]*).*?resources: ([^\n]*)", done.stdout, re.M | re.S)
    given = {(name, "gsm8k" in wildcards): dict(part.split("=", 1) for part in resources.split(", "))
             for name, wildcards, resources in jobs}
    assert {"runtime": "60", "slurm_extra": "--nice=5", "slurm_partition": "gpu-a100", "weight": "2"}.items() <= given["traces", True].items()
    assert given["traces", True]["mem_mb"] == "9000" and given["traces", False]["mem_mb"] == "7000"
    assert given["scores", True]["mem_mb"] == "1000" and given["scores", True]["slurm_partition"] == "cpu"
    assert Path(given["scores", True]["tmpdir"]).is_dir()


def test_a_profile_that_speaks_of_no_rule_is_stopped():
    done = subprocess.run([SNAKEMAKE, "--profile", "profiles/laptop", "-n", "results/table5.csv", "--set-resources", "trace:mem_mb=1"],
                          cwd=ROOT, text=True, capture_output=True)
    assert done.returncode != 0
    assert "set-resources: trace; did you mean `traces`?" in done.stdout + done.stderr


def test_the_command_line_states_numbers_inside_a_value_too():
    done = subprocess.run([SNAKEMAKE, "--profile", "profiles/laptop", "-n", "runs/sft/medium/log.jsonl", "--quiet", "host", "--config",
                           "sft_pilots={medium: {max_rows: 800, epochs: 4}}"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sft-epoch4/manifest.json" in done.stdout and "sft-epoch5" not in done.stdout


def test_a_standing_judges_weights_are_not_fetched():
    def models(*more: str) -> set[str]:
        done = subprocess.run([SNAKEMAKE, "--profile", "slurm", "-n", "judge/published/gsm8k.jsonl", "--quiet", "host", *more],
                              cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return set(re.findall(r"output: models/(\w+)/manifest.json", done.stdout))

    assert models() == {"published", "judge"}
    assert models("--config", "site={judge_endpoint: 'http://127.0.0.1:1'}") == {"published"}
