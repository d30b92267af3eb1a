"""The results for looking at single trajectories: which records they read."""

import json
import re

import pytest
from support import made_up
from support.configuration import merged
from support.paths import ROOT

from tir.common.errors import ConfigError
from tir.config.experiment import load
from tir.workflow import looking
from tir.workflow.targets import Targets

FILES = {"paper": ["config.yaml"], "laptop": ["config.yaml", "profiles/laptop/tiny.yaml"]}


@pytest.fixture(params=FILES)
def targets(request):
    return Targets(load(merged(*FILES[request.param]), FILES[request.param]))


def test_the_table_of_items_reads_the_records_of_all_tables(targets):
    target = looking.items(targets)
    shown = [name for name in [*targets.tables, "table3"] if name in targets.cfg.tables or name == "table3"]
    read = {path for name in shown for kind, paths in targets.target(name).inputs.items() for path in paths}
    assert {path for path in read if "scores/" in path} == {path for path in target.files if "scores/" in path}
    selection = json.loads(target.params)["records"]
    listed = {
        f"{folder}/{kind}/{model}/{benchmark}.jsonl".lstrip("/")
        for folder, models in selection.items()
        for model, benchmarks in models.items()
        for benchmark in benchmarks
        for kind in ("scores", "traces")
    }
    assert listed == {path for path in target.files if "scores/" in path or "traces/" in path}
    assert ("origin" in json.loads(target.params)) is bool(targets.cfg.generated)
    assert not set(target.files) & {f"results/{name}.csv" for name in targets.tables}


def test_the_table_of_items_has_full_test_sets_where_they_are_made_by_default():
    config = merged("config.yaml")
    config["full_size"]["in_all"] = True
    found = looking.items(Targets(load(config, ["config.yaml"])))
    assert set(json.loads(found.params)["records"]) == {"", "n500", "sampled"}
    assert "n500/scores/aspo-step30-seed1/gsm8k.jsonl" in found.files


def test_logs_are_made_of_the_compared_models_and_of_the_rollouts(targets):
    last = "aspo-step20-seed1" if targets.cfg.generated else "aspo-step30-seed1"
    assert looking.default(targets) == ["results/items.parquet", f"results/compare/sft_vs_{last}.html"]
    models = [
        f"results/inspect/{model}_{benchmark}.eval" for model in ("sft", last) for benchmark in ("gsm8k", "hotpotqa")
    ]
    assert sorted(looking.logs(targets)) == sorted([*models, f"results/inspect/rl/{last}_train.eval"])


def test_a_comparison_reads_both_models_on_the_standard_benchmarks(targets):
    arm = next(iter(targets.cfg.arms))
    target = looking.compared(targets, "sft", f"{arm}@last")
    given = json.loads(target.params)
    seeds, steps = targets.cfg.rl.seeds, targets.cfg.rl.steps
    models = [f"{arm}-step{steps}-seed{seed}" for seed in seeds]
    assert given["models"] == [["sft"], models] and given["names"] == ["sft", f"{arm}@last"]
    standard = [name for name, each in targets.cfg.benchmarks.items() if each.standard]
    records = [path for path in target.files if path.endswith(".jsonl")]
    assert sorted(records) == sorted(
        f"{kind}/{model}/{name}.jsonl"
        for kind in ("scores", "traces")
        for model in ["sft", *models]
        for name in standard
    )
    assert "--scores scores --traces traces" in target.options
    assert all((ROOT / "tir/analysis/compare" / name).is_file() for name in looking.PAGE)


@pytest.mark.parametrize("name, known", [
    ("sft", True), ("sft-epoch1", True), ("aspo@last", True), ("aspo@20", True), ("aspo-step20-seed1", True),
    ("grpo-step15-dpo1-seed1", True),
    ("nothing@last", False), ("aspo@", False), ("../aspo@20", False),
])  # fmt: skip
def test_a_comparison_is_of_models_and_arms_that_exist(targets, name, known):
    assert bool(re.fullmatch(looking.expressions(targets.cfg), name)) is known


def test_a_log_of_inspect_says_how_it_was_made(targets):
    given = json.loads(looking.exported(targets, "gsm8k"))
    assert given["task"] == "math" and given["metric"] and "tools" not in given["evaluation"]
    assert given["evaluation"]["temperature"] == targets.cfg.evaluation.temperature
    assert ("generated" in given) is bool(targets.cfg.generated)


def test_by_default_the_first_shaped_arm_is_compared_with_the_fine_tuned_model(targets):
    items, comparison = looking.default(targets)
    last = targets.cfg.rl.steps
    assert items == "results/items.parquet" and comparison == f"results/compare/sft_vs_aspo-step{last}-seed1.html"
    needed = {path for path in looking.compared(targets, "sft", f"aspo-step{last}-seed1").files if "scores/" in path}
    tables = {path for name in targets.tables for path in targets.target(name).files}
    assert needed and needed <= tables


@pytest.mark.parametrize("change, made", [
    ({"arms": {"aspo": {"estimator": "grpo"}}}, "grpo"),  # no arm has shaping: the first one
    ({"tables": {f"table{number}": {"benchmarks": ["gsm8k"]} for number in (1, 5, 6)}}, None),
])  # fmt: skip
def test_the_default_comparison_needs_no_trajectories_of_its_own(change, made):
    """It is left out where the tables do not have its records."""
    config = merged(*FILES["laptop"])
    for section, entries in change.items():
        for name, keys in entries.items():
            config[section].setdefault(name, {}).update(keys)
    found = looking.default(Targets(load(config, FILES["laptop"])))
    compared = [path for path in found if "compare" in path]
    assert compared == ([f"results/compare/sft_vs_{made}-step20-seed1.html"] if made else [])


def test_the_report_has_the_comparisons_that_can_be_made_from_what_is_there(targets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/compare"
    folder.mkdir(parents=True)
    last = targets.cfg.rl.steps
    for name in (f"sft_vs_aspo-step{last}-seed1", "sft_vs_sft-epoch1", "sft_vs_nothing@last", "notes"):
        (folder / f"{name}.html").touch()
    assert looking.existing(targets, "results/compare") == []
    for path in looking.compared(targets, "sft", f"aspo-step{last}-seed1").files:
        made_up.write_lines(tmp_path / path, [])
    assert looking.existing(targets, "results/compare") == [f"results/compare/sft_vs_aspo-step{last}-seed1.html"]


def test_rollouts_of_an_arm_with_dpo_are_in_the_part_of_its_run():
    config = merged(*FILES["laptop"])
    config["rl"] |= {"steps": 40, "save_every": 10}
    config["arms"]["tool_star"]["dpo"] = {"every": 0.1}
    cfg = load(config, FILES["laptop"])
    first, second, *_ = cfg.dpo_steps("tool_star")
    assert looking.rollouts(cfg, "aspo", 7, "1") == ("runs/rl/aspo/seed1", 7)
    assert looking.rollouts(cfg, "tool_star", second, "1") == (f"runs/rl/tool_star/seed1/to{second}", second - first)
    with pytest.raises(ConfigError, match="its first .* steps are those of grpo"):
        looking.rollouts(cfg, "tool_star", first, "1")


def test_a_log_of_rollouts_has_the_decoding_of_training_or_of_validation(targets):
    given = {kind: json.loads(looking.exported_rollouts(targets, kind))["evaluation"] for kind in ("train", "val")}
    rl = targets.cfg.rl
    assert given["train"] == {"temperature": rl.temperature, "samples": rl.group_size}
    assert given["val"] == {"temperature": 0, "samples": 1}
