"""Resources of a run, and the plan before it."""

import csv
import subprocess
from pathlib import Path

import pytest
import yaml

from tir.config import load
from tir.errors import ConfigError
from tir.needs import Job, disk_gb, minutes, plan, wants_gpu
from tir.profile import require_rules
from tir.resources import collect, write


def test_rows_hold_gpus_and_hours(tmp_path):
    (tmp_path / "benchmarks/rl").mkdir(parents=True)
    (tmp_path / "benchmarks/rl/aspo-seed1.tsv").write_text("s\th:m:s\tmax_rss\tcpu_time\n1800.0\t0:30:00\t512.5\t99.0\n")
    (tmp_path / "benchmarks/world.tsv").write_text("s\th:m:s\tmax_rss\tcpu_time\n3.0\t0:00:03\t10.0\t2.0\n")
    (tmp_path / "benchmarks/torn.tsv").write_text("")
    write(collect(tmp_path / "benchmarks", {"rl": "gpu:h100:8"}), tmp_path / "resources.csv")
    rows = {row["stage"]: row for row in csv.DictReader((tmp_path / "resources.csv").open())}
    assert rows["rl"]["job"] == "aspo-seed1" and rows["rl"]["gpu_type"] == "h100"
    assert float(rows["rl"]["gpu_hours"]) == 4.0 and float(rows["world"]["gpu_hours"]) == 0.0
    assert set(rows) == {"rl", "world"}


def test_a_larger_samples_jobs_count_for_their_stage(tmp_path):
    path = tmp_path / "benchmarks/n500/traces/sft/gsm8k.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("s\th:m:s\tmax_rss\tcpu_time\n3600.0\t1:00:00\t300.0\t1200.0\n")
    report = tmp_path / "efficiency_report_run.csv"
    report.write_text("RuleName,CPU Efficiency (%),Memory Usage (%)\nrule_traces_wildcards_n500/_sft_gsm8k,40,50\n")
    (row,) = collect(tmp_path / "benchmarks", {"traces": "gpu:a10g:1"}, [report])
    assert (row["stage"], row["job"], row["gpu_hours"], row["cpu_percent"]) == ("traces", "n500/sft/gsm8k", 1.0, 40.0)


def test_efficiency_comes_from_the_slurm_plugins_own_report(tmp_path):
    """The report as the plugin writes it, from lines as sacct prints them: a job, and a step that did its work."""
    program = """
import logging, sys
from snakemake_executor_plugin_slurm.efficiency_report import parse_sacct_data
lines = []
for number, comment, memory in ((7, "rule_rl_wildcards_aspo_1", "300M"), (8, "rule_traces_wildcards__sft-epoch1_gsm8k", "")):
    lines.append(f"{number}|run|{comment}|00:10:00|00:20:00|1|4||600M")
    lines.append(f"{number}.0|python3||00:10:00|00:20:00|1|4|{memory}|")
parse_sacct_data(lines, 0.0, "run", logging).to_csv(sys.argv[1])
"""
    root, report = Path(__file__).resolve().parents[1], tmp_path / "efficiency_report_run.csv"
    subprocess.run([root / ".venv/workflow/bin/python", "-c", program, report], check=True, capture_output=True)
    for name in ("rl/aspo-seed1", "traces/sft-epoch1/gsm8k", "traces/sft/gsm8k"):
        path = tmp_path / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("s\th:m:s\tmax_rss\tcpu_time\n600.0\t0:10:00\t300.0\t1200.0\n")
    rows = {row["job"]: row for row in collect(tmp_path / "benchmarks", {}, [report])}
    assert (rows["aspo-seed1"]["cpu_percent"], rows["aspo-seed1"]["memory_percent"]) == (50.0, 50.0)
    assert (rows["sft-epoch1/gsm8k"]["cpu_percent"], rows["sft-epoch1/gsm8k"]["memory_percent"]) == (50.0, 0.0)
    assert rows["sft/gsm8k"]["cpu_percent"] == ""


@pytest.fixture
def paper_config():
    return load(yaml.safe_load((Path(__file__).resolve().parents[1] / "config.yaml").read_text()), ["config.yaml"])


def test_the_plan_counts_gpu_hours_from_the_papers_table(paper_config):
    text = plan([Job("sft", {}, "gpu:h100:8"), Job("scores", {})], paper_config, "cuda")
    assert "8 x h100" in text and "12.7" in text and "without a GPU  1" in text  # 1 h 35 min 12 s on eight


def test_the_plan_counts_pilots_full_test_sets_and_every_spelling_of_a_gpu(paper_config):
    rows = paper_config.data.sft.rows * paper_config.sft.epochs
    assert minutes(Job("sft_medium", {}), paper_config) == pytest.approx(95.2 * 5000 / rows, rel=1e-3)
    assert minutes(Job("sft_smoke", {}), paper_config) == pytest.approx(95.2 * 200 / rows, rel=1e-3)
    text = plan([Job("sft_medium", {}, "gpu:a100-sxm4-80gb:8")], paper_config, "cuda")
    assert "8 x a100-sxm4-80gb" in text and "0.4        Table 8" in text
    few, many = ({"benchmark": "gsm8k", "model": "sft", "size": size} for size in ("", "n500/"))
    assert minutes(Job("traces", few), paper_config) == 4.0 and minutes(Job("traces", many), paper_config) == pytest.approx(500 * 4 / 30)


def test_stages_that_compute_on_a_gpu(paper_config):
    stages = ("index", "sft", "sft_smoke", "rl", "traces", "judge", "scores", "fetch")
    assert [wants_gpu(name, paper_config) for name in stages] == [True] * 6 + [False] * 2
    assert not wants_gpu("judge", paper_config, "http://127.0.0.1:8000")
    assert not any(wants_gpu(name, paper_config.model_copy(update={"device": "cpu"})) for name in stages)


def test_a_profile_speaks_of_rules_there_are():
    require_rules({"set-resources": ["traces"], "set-threads": []}, ["rl", "traces"])
    with pytest.raises(ConfigError) as caught:
        require_rules({"set-resources": ["trace", "rl"], "set-threads": ["judgement"]}, ["rl", "traces"])
    assert "profile: names that no rule has\n  set-resources: trace; did you mean `traces`?\n" in str(caught.value)
    assert "set-threads: judgement; delete it" in str(caught.value)


def test_checkpoints_are_counted_while_they_are_kept(paper_config):
    def checkpoints(*rules: str) -> float:
        return disk_gb([Job(rule, {}) for rule in rules], paper_config, "cuda")["checkpoints while training"]

    one = 16 * 3  # GB, of 3 B parameters
    assert checkpoints("traces") == 0 and checkpoints("rl") == 2 * one == checkpoints("rl", "scores")
    assert checkpoints("sft") == paper_config.sft.epochs * one
    assert checkpoints(*6 * ["rl"]) == 4 * 2 * one
    assert checkpoints("sft_smoke") == paper_config.pilot("smoke").epochs * one


def test_a_fetched_model_weighs_what_its_own_name_says(paper_config):
    fetched = [Job("fetch_model", {"model": name}) for name in ("base", "judge")]
    assert disk_gb(fetched, paper_config, "cuda")["models"] == 2 * (3 + 72)
