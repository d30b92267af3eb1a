"""Targets: every table and figure of the paper at both scales, from the records its name promises, each captioned."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tir.claims.report import claims
from tir.config import load
from tir.errors import ConfigError
from tir.tables.reference import published_cell
from tir.targets import FIGURES, Targets

ROOT = Path(__file__).resolve().parents[1]
SCALES = {"paper": [], "laptop": ["profiles/laptop/tiny.yaml"],
          "ci": ["profiles/laptop/tiny.yaml", "profiles/ci/quick.yaml"]}


def merged(scale: str) -> dict:
    def lay(under: dict, over: dict) -> dict:
        both = {key: lay(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
                for key, value in over.items()}
        return {**under, **both}

    found: dict = {}
    for name in ["config.yaml", *SCALES[scale]]:
        found = lay(found, yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
    return found


def targets(scale: str, **more) -> Targets:
    return Targets(load({**merged(scale), **more}, ["config.yaml"]))


@pytest.fixture(scope="module", params=SCALES)
def scale(request):
    return targets(request.param)


def test_all_thirteen_tables_and_eight_figures_are_made(scale):
    assert {f"table{number}" for number in range(1, 14)} <= set(scale.tables)
    assert tuple(scale.figures) == FIGURES and len(FIGURES) == 8
    assert {"leakage", "arithmetic"} <= set(scale.tables)


def test_the_papers_next_steps_are_targets_but_not_made_by_default(scale):
    assert {"terms", "lambda_sweep", "steps", "qa_bigrams"} <= set(scale.extra)
    assert not set(scale.extra) & set(scale.tables)


def test_every_target_has_a_caption_of_its_own(scale):
    for name in [*scale.tables, *scale.extra, *scale.figures, "claims"]:
        assert (ROOT / "docs/captions" / f"{name}.rst").read_text(encoding="utf-8").strip(), name


def test_every_target_reads_something_and_its_parameters_are_json(scale):
    for name in [*scale.tables, *scale.extra, *scale.figures]:
        target = scale.target(name)
        assert target.files, name
        assert isinstance(json.loads(target.params), dict)
        for kind in target.inputs:
            assert kind == "after" or f"--{kind} " in f"{target.options} "


def test_arms_are_evaluated_at_every_seed():
    paper = targets("paper")
    files = paper.target("table5").files
    for seed in (1, 2, 3):
        assert f"scores/aspo-step30-seed{seed}/musique.jsonl" in files
    assert len(files) == 8 * (1 + 1 + 3 + 3)
    steps = paper.target("steps").files
    assert "scores/beta_only-step15-seed2/gsm8k.jsonl" in steps and "scores/beta_only-step30-seed2/gsm8k.jsonl" in steps


def test_full_size_tables_read_records_of_that_size():
    paper = targets("paper")
    assert paper.cfg.full_size.n == 500
    for name in paper.cfg.full_size.tables:
        target = paper.target(name, "n500/")
        assert target.files and all(path.startswith("n500/") for path in target.files)
        assert "--scores n500/scores" in target.options


def test_webwalker_is_a_column_only_where_it_is_named():
    paper = targets("paper")
    assert "webwalker" not in [each["name"] for each in paper.columns("table5")]
    assert [each["metric"] for each in paper.columns("webwalker")] == ["char_f1"]


def test_pilots_are_the_papers_runs():
    cfg = targets("paper").cfg
    smoke, medium = cfg.pilot("smoke"), cfg.pilot("medium")
    assert (smoke.max_rows, smoke.per_device_batch * smoke.accumulation * smoke.gpus, smoke.holdout) == (200, 8, 0)
    assert (medium.max_rows, medium.per_device_batch * medium.accumulation * medium.gpus, medium.epochs) == (5000, 128, 1)
    assert cfg.pilot("full") == cfg.sft


def test_timed_stages_point_at_files_their_rules_write():
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    written = re.findall(r'f?"benchmarks/([^"]+)\.tsv"', rules)
    patterns = [re.sub(r"\\\{\w*size\w*\\\}", "", re.escape(each)) for each in written]
    patterns = [re.sub(r"\\\{[^}]*\\\}", "[^/]+", each) for each in patterns]
    for row in targets("paper")._timed():
        assert any(re.fullmatch(each, row["timing"]) for each in patterns), row["timing"]


def test_a_timed_stage_made_as_many_trajectories_as_its_file_holds():
    """The trace analysis takes 20 of MATH500's 30; the time is that of all."""
    evaluation = merged("paper")["evaluation"] | {"samples": 4}
    rows = {row["timing"]: row["samples"] for row in targets("paper", evaluation=evaluation)._timed()}
    assert rows["traces/published/math500"] == rows["judge/published/math500"] == 30 * 4
    assert rows["rl/grpo-seed1"] == 3840 and rows["sft/smoke"] == 200


def test_targets_that_read_the_papers_cells_have_them_as_input():
    paper, laptop = targets("paper"), targets("laptop")
    assert all((ROOT / file).is_file() for file in paper.printed("table5")) and paper.printed("table5")
    assert paper.printed("arithmetic") and paper.printed("table11") and paper.printed("figure4")
    assert not any(map(paper.printed, ["leakage", "judgements", "terms", "figure1"])) and not laptop.printed("figure4")


def test_claims_see_the_models_of_the_tables():
    paper = targets("paper")
    params = json.loads(paper.claims().params)
    models = params["models"]
    assert {"published", "sft", "grpo@last", "aspo@last", "gamma_only@last", "sft-medium", "sft-epoch2"} <= set(models)
    assert "grpo@first" not in models  # evaluated only if a table made by default shows it
    assert params["facts"]["trajectories"] == 3840
    files = paper.claims().files
    assert "data/sft.json" in files and "runs/sft/full/log.jsonl" in files and "runs/rl/grpo/seed1/metrics.jsonl" in files
    for each in claims():
        for side in ("a", "b"):
            if each.get(side, "").endswith("@last"):
                assert each[side] in models


def test_every_row_with_a_counterpart_in_the_paper_has_its_cells_beside_it():
    paper = targets("paper")
    compared = [(table, row["paper"], column["label"]) for table in paper.cfg.tables for row in paper.rows(table)
                if "paper" in row for column in paper.columns(table)]
    assert {table for table, _, _ in compared} == {"table1", "table5", "table6", "table11", "table12"}
    assert [each for each in compared if published_cell(*each) is None] == []


@pytest.mark.parametrize(("change", "message"), [
    ({"tables": {"table5": {"rows": [{"label": "a", "model": "sft", "paper": "sft_full_e2"}]}}, "full_size": None},
     "the paper's table5 has no sft_full_e2; there is published, SFT, GRPO @ 30, ASPO @ 30"),
    ({"tables": {"x": {"rows": [{"label": "a", "model": "sft", "paper": "SFT"}]}}, "full_size": None}, "the paper's x has no SFT; there is none"),
    ({"sft_pilots": {"smoke": {"max_row": 5}}}, "sft_pilots.smoke.max_row"),
    ({"sft_pilots": {"epoch1": {}}}, "epochs have that name"),
    ({"full_size": {"tables": ["table99"]}}, "table99"),
    ({"tables": {"x": {"rows": [{"label": "a", "model": "sft-nothing"}]}}, "full_size": None}, "sft_pilots has"),
    ({"tables": {"x": {"rows": [{"label": "a", "model": "nothing@last"}]}}, "full_size": None}, "arms has no nothing"),
    ({"model": {"base": {"kind": "world"}, "published": {"kind": "hub", "repo": "a/b"}}}, "model.judge is not set"),
])  # fmt: skip
def test_faults_are_named(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        targets("laptop" if "model" not in change else "paper", **change)


def test_rules_judge_what_the_paper_judges():
    cfg = targets("paper").cfg
    assert [(each.model, each.benchmark) for each in cfg.judged()] == [("published", "gsm8k"), ("published", "math500")]
    assert targets("paper", judge={"kind": "rules"}).cfg.judged() == []
