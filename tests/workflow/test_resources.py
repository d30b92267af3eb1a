"""Resources that a run used, and the plan's estimates before it."""

import csv
import re
import subprocess

import pytest
import yaml
from support.configuration import merged
from support.paths import ROOT

from tir.common.errors import ConfigError
from tir.config.experiment import Config, load
from tir.config.profile import require_rules
from tir.workflow.cost import Job, disk_gb, memory_gb, minutes, needs_gpu, paper_minutes, plan
from tir.workflow.resources import collect, write


def test_rows_contain_gpus_and_gpu_hours(tmp_path):
    (tmp_path / "benchmarks/rl").mkdir(parents=True)
    (tmp_path / "benchmarks/rl/aspo-seed1.tsv").write_text(
        "s\th:m:s\tmax_rss\tcpu_time\tresources\n1800.0\t0:30:00\t512.5\t99.0\t{'mem_mb': 4000, 'gres': 'gpu:h100:8'}\n"
    )
    (tmp_path / "benchmarks/world.tsv").write_text("s\th:m:s\tmax_rss\tcpu_time\n3.0\t0:00:03\t10.0\t2.0\n")
    (tmp_path / "benchmarks/empty.tsv").write_text("")
    write(collect(tmp_path / "benchmarks"), tmp_path / "resources.csv")
    rows = {row["stage"]: row for row in csv.DictReader((tmp_path / "resources.csv").open())}
    assert rows["rl"]["job"] == "aspo-seed1" and rows["rl"]["gpu_type"] == "h100"
    assert float(rows["rl"]["gpu_hours"]) == 4.0 and float(rows["world"]["gpu_hours"]) == 0.0
    assert set(rows) == {"rl", "world"}


def test_jobs_on_full_test_sets_belong_to_their_stage(tmp_path):
    path = tmp_path / "benchmarks/n500/traces/sft/gsm8k.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("s\tmax_rss\tcpu_time\tresources\n3600.0\t300.0\t1200.0\t{'gres': 'gpu:a10g:1'}\n")
    report = tmp_path / "efficiency_report_run.csv"
    report.write_text("RuleName,CPU Efficiency (%),Memory Usage (%)\nrule_traces_wildcards_n500/_sft_gsm8k,40,50\n")
    (row,) = collect(tmp_path / "benchmarks", [report])
    assert (row["stage"], row["job"], row["gpu_hours"], row["cpu_percent"]) == ("traces", "n500/sft/gsm8k", 1.0, 40.0)


def test_efficiency_comes_from_the_report_of_the_slurm_plugin(tmp_path):
    """The plugin itself writes the report here, from lines in sacct's format: each job, and its step with the usage."""
    program = """
import logging, sys
from snakemake_executor_plugin_slurm.efficiency_report import parse_sacct_data
lines = []
jobs = ((7, "rule_rl_wildcards_aspo_1", "300M"), (8, "rule_traces_wildcards__sft-epoch1_gsm8k", ""))
for number, comment, memory in jobs:
    lines.append(f"{number}|run|{comment}|00:10:00|00:20:00|1|4||600M")
    lines.append(f"{number}.0|python3||00:10:00|00:20:00|1|4|{memory}|")
parse_sacct_data(lines, 0.0, "run", logging).to_csv(sys.argv[1])
"""
    root, report = ROOT, tmp_path / "efficiency_report_run.csv"
    subprocess.run([root / ".venv/workflow/bin/python", "-c", program, report], check=True, capture_output=True)
    for name in ("rl/aspo-seed1", "traces/sft-epoch1/gsm8k", "traces/sft/gsm8k"):
        path = tmp_path / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("s\th:m:s\tmax_rss\tcpu_time\n600.0\t0:10:00\t300.0\t1200.0\n")
    rows = {row["job"]: row for row in collect(tmp_path / "benchmarks", [report])}
    assert (rows["aspo-seed1"]["cpu_percent"], rows["aspo-seed1"]["memory_percent"]) == (50.0, 50.0)
    assert (rows["sft-epoch1/gsm8k"]["cpu_percent"], rows["sft-epoch1/gsm8k"]["memory_percent"]) == (50.0, 0.0)
    assert rows["sft/gsm8k"]["cpu_percent"] == ""


@pytest.fixture
def paper_config():
    return load(yaml.safe_load((ROOT / "config.yaml").read_text()), ["config.yaml"])


def test_the_plan_shows_the_hours_of_the_model_beside_those_of_the_papers_table(paper_config):
    text = plan([Job("sft", {"run": "full"}, "gpu:h100:8"), Job("scores", {})], paper_config, "cuda")
    row = next(line for line in text.splitlines() if line.startswith("sft"))
    assert "8 x h100" in row and row.endswith("12.7  Table 8") and "without a GPU  1" in text  # 8 x 1 h 35 min 12 s
    assert float(row.split()[5]) == pytest.approx(
        8 * minutes(Job("sft", {"run": "full"}, "gpu:h100:8"), paper_config) / 60, abs=0.05
    )


def test_the_plan_counts_pilots_full_test_sets_and_gpu_types_with_hyphens(paper_config):
    rows = paper_config.data.sft.rows * paper_config.sft.epochs
    medium, smoke = (Job("sft", {"run": run}, "gpu:a100-sxm4-80gb:8") for run in ("medium", "smoke"))
    assert paper_minutes(medium, paper_config) == pytest.approx(95.2 * 5000 / rows, rel=1e-3)
    assert paper_minutes(smoke, paper_config) == pytest.approx(95.2 * 200 / rows, rel=1e-3)
    text = plan([medium], paper_config, "cuda")
    assert "8 x a100-sxm4-80gb" in text and "0.4  Table 8" in text
    few, many = ({"benchmark": "gsm8k", "model": "sft", "size": size} for size in ("", "n500/"))
    assert paper_minutes(Job("traces", few), paper_config) == 4.0
    assert paper_minutes(Job("traces", many), paper_config) == pytest.approx(500 * 4 / 30)
    assert minutes(Job("traces", many), paper_config) > minutes(Job("traces", few), paper_config)
    assert paper_minutes(Job("index", {}), paper_config) is None


def test_the_plan_says_where_a_job_does_not_fit_on_its_gpus(paper_config):
    def text(gres: str) -> str:
        return plan([Job("rl", {"arm": "grpo", "seed": "1"}, gres)], paper_config, "cuda")

    assert "rl needs more than the 24 GB of one a10g" in text("gpu:a10g:1")
    assert "needs more" not in text("gpu:h100:8") and "needs more" not in text("gpu:8")  # of a type that is not known


def test_vllm_takes_its_share_of_the_gpu_beside_the_weights_and_the_optimizer(paper_config):
    """12 bytes per parameter on one GPU, and half of it for vLLM by default: 48 + 40 GB for 4B parameters."""
    job = Job("rl", {"arm": "grpo", "seed": "1"}, "gpu:a100:1")
    base = paper_config.models["base"].model_copy(update={"repo": "someone/Other-4B"})

    def config(**engine: float) -> Config:
        models, rl = paper_config.models | {"base": base}, paper_config.rl.model_copy(update={"engine": engine})
        return paper_config.model_copy(update={"models": models, "rl": rl})

    assert sum(memory_gb(job, config()).values()) == pytest.approx(48 + 40 + 1)
    assert sum(memory_gb(job, config(gpu_memory_utilization=0.35)).values()) < 80
    assert re.search(
        r"rl needs more than the 80 GB of one a100: .*gpu_memory_utilization", plan([job], config(), "cuda")
    )
    assert "needs more" not in plan([job], config(gpu_memory_utilization=0.35), "cuda")


def test_on_a_workstation_with_24_gb_dpo_fits_too():
    files = ["config.yaml", *(f"profiles/workstation/one-gpu{name}.yaml" for name in ("", "-24gb"))]
    reduced = load(merged(*files), files)
    job = Job("dpo", {"trained": "grpo-step15-dpo1-seed1"}, "gpu:a10g:1")
    assert sum(memory_gb(job, reduced).values()) < 24


def test_stages_that_compute_on_a_gpu(paper_config):
    stages = ("index", "sft", "rl", "dpo", "dpo_samples", "rl_after_dpo", "traces", "judge", "scores", "dpo_pairs")
    assert [needs_gpu(name, paper_config) for name in stages] == [True] * 8 + [False] * 2
    assert not needs_gpu("judge", paper_config, "http://127.0.0.1:8000")
    assert not any(needs_gpu(name, paper_config.model_copy(update={"device": "cpu"})) for name in stages)


def test_unknown_rule_names_in_a_profile_are_an_error():
    require_rules({"set-resources": ["traces"], "set-threads": []}, ["rl", "traces"])
    with pytest.raises(ConfigError) as caught:
        require_rules({"set-resources": ["trace", "rl"], "set-threads": ["judgement"]}, ["rl", "traces"])
    assert "profile: unknown rule names\n  set-resources: trace; did you mean `traces`?\n" in str(caught.value)
    assert "set-threads: judgement; delete it" in str(caught.value)


def test_disk_space_includes_the_checkpoints_kept_during_training(paper_config):
    def checkpoints(*rules: str, run: str = "full") -> float:
        return disk_gb([Job(rule, {"run": run}) for rule in rules], paper_config, "cuda")["checkpoints while training"]

    one = 16 * 3  # GB, of 3 B parameters
    assert checkpoints("traces") == 0 and checkpoints("rl") == 2 * one == checkpoints("rl", "scores")
    assert checkpoints("sft") == (paper_config.sft.epochs + 1) * one
    assert checkpoints(*6 * ["rl"]) == 6 * 2 * one
    assert checkpoints("sft", run="medium") == (paper_config.pilot("medium").epochs + 1) * one


def test_the_size_of_a_fetched_model_comes_from_its_name(paper_config):
    fetched = [Job("fetch_model", {"model": name}) for name in ("base", "judge")]
    assert disk_gb(fetched, paper_config, "cuda")["models"] == 2 * (3 + 72)


def test_the_plan_has_hours_and_memory_of_dpo(paper_config):
    """The second part of RL is 15 of 30 steps; adapters need no copy of the weights for the reference."""
    trained = {"trained": "grpo-step15-dpo1-seed1"}
    part, whole = {"arm": "tool_star", "step": "30", "seed": "1"}, {"arm": "grpo", "seed": "1"}
    halves = [minutes(Job(*each, "gpu:h100:8"), paper_config) for each in (("rl_after_dpo", part), ("rl", whole))]
    assert 0.45 < halves[0] / halves[1] < 0.65
    dpo, samples = Job("dpo", trained, "gpu:h100:8"), Job("dpo_samples", trained | {"task": "qa"}, "gpu:h100:1")
    text = plan([dpo, samples, Job("dpo_pairs", trained)], paper_config, "cuda")
    assert "without a GPU  1" in text and "needs more than" not in text
    section = paper_config.dpo.model_copy(update={"method": "full", "deepspeed": "zero2"})
    full = paper_config.model_copy(update={"dpo": section})
    assert memory_gb(dpo, full)["reference"] == pytest.approx(6.2, abs=0.1) and "reference" not in memory_gb(
        dpo, paper_config
    )
    assert (
        memory_gb(dpo, full)["gradients of one pass"]
        == memory_gb(dpo, full)["gradients"]
        == pytest.approx(6.2 / 8, abs=0.1)
    )
    assert minutes(dpo, full) > minutes(dpo, paper_config)
    assert disk_gb([dpo], paper_config, "cuda")["models"] == pytest.approx(6)
