"""Resources of a run, and the plan before it."""

import csv
from pathlib import Path

import yaml

from tir.config import load
from tir.needs import Job, plan
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


def test_the_plan_counts_gpu_hours_from_the_papers_table():
    root = Path(__file__).resolve().parents[1]
    paper_config = load(yaml.safe_load((root / "config.yaml").read_text()), ["config.yaml"])
    text = plan([Job("sft", {}, "gpu:h100:8"), Job("scores", {})], paper_config, "cuda")
    assert "8 x h100" in text and "12.7" in text and "without a GPU  1" in text  # 1 h 35 min 12 s on eight
