"""Targets: every table and figure of the paper, at each scale, has its inputs, parameters and caption."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from support.paths import ROOT

from tir.analysis.claims.report import claims
from tir.analysis.tables import TABLES
from tir.analysis.tables.reference import published_cell
from tir.common.errors import ConfigError
from tir.config.experiment import load
from tir.workflow.targets import FIGURES, Targets

SCALES = {
    "paper": [],
    "laptop": ["profiles/laptop/tiny.yaml"],
    "ci": ["profiles/laptop/tiny.yaml", "profiles/ci/quick.yaml"],
}


def merged(scale: str) -> dict:
    def lay(under: dict, over: dict) -> dict:
        both = {
            key: lay(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
            for key, value in over.items()
        }
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
    assert scale.figures == list(FIGURES) and len(FIGURES) == 8 + 1
    assert {"leakage", "arithmetic", "behaviour", "shaping"} <= set(scale.tables)


def test_further_analyses_are_targets_but_not_made_by_default(scale):
    assert {"terms", "lambda_sweep", "steps", "qa_bigrams"} <= set(scale.extra)
    assert not set(scale.extra) & set(scale.tables)


def test_every_target_has_its_own_caption(scale):
    for name in [*scale.tables, *scale.extra, *scale.figures, "claims", "summary"]:
        assert (ROOT / "docs/captions" / f"{name}.rst").read_text(encoding="utf-8").strip(), name


def test_every_target_has_inputs_and_its_parameters_are_json(scale):
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


def test_only_targets_that_read_verdicts_wait_for_the_judge():
    """Table 5 shows exact match: it must not fetch and run a judge of 145 GB."""
    paper = targets("paper")
    waiting = {name for name in [*paper.tables, *paper.extra, *paper.figures] if "judge" in paper.target(name).inputs}
    assert waiting == {"table3", "table4", "figure3"}
    assert "sampled/judge/published/math500.jsonl" in paper.target("table3").files
    assert json.loads(paper.target("table3").params)["judge_decides"] is True
    assert "judge" in paper.claims().inputs and "judge_decides" not in paper.target("table5").params
    stored = targets("paper", judge=merged("paper")["judge"] | {"decides": False})
    assert not any("judge" in stored.target(name).inputs for name in waiting)
    by_judge = {**merged("paper")["benchmarks"]}
    by_judge["gsm8k"] = by_judge["gsm8k"] | {"metric": "judge"}
    table = {"rows": [{"label": "published", "model": "published"}], "benchmarks": ["gsm8k", "hotpotqa"]}
    shown = targets("paper", benchmarks=by_judge, tables={"mine": table}, full_size=None)
    assert shown.target("mine").inputs["judge"] == ["judge/published/gsm8k.jsonl"]
    reports = shown.target("judgements").files
    assert {"judge/published/gsm8k.jsonl.report.json", "sampled/judge/published/gsm8k.jsonl.report.json"} <= set(
        reports
    )


def test_full_size_tables_read_records_of_that_size():
    paper = targets("paper")
    assert paper.cfg.full_size.n == 500
    for name in paper.cfg.full_size.tables:
        target = paper.target(name, "n500/")
        assert target.files and all(path.startswith("n500/") for path in target.files)
        folder = "n500/sampled/scores" if name == "qa_bigrams" else "n500/scores"
        assert f"--scores {folder}" in target.options


def test_the_trace_analysis_reads_its_own_trajectories():
    """Sampled as in training; the accuracy tables read the evaluation's."""
    paper = targets("paper")
    for name in ("table3", "table4", "figure3", "qa_bigrams"):
        target = paper.target(name)
        assert all(path.startswith("sampled/") for path in target.inputs["scores"] + target.inputs["traces"]), name
        assert json.loads(target.params)["decoding"] == {"temperature": 1.0, "samples": 4}
    assert not any(path.startswith("sampled/") for path in paper.target("table5").files)
    assert "--scores scores sampled/scores --traces scores" not in paper.claims().options
    assert "--scores scores sampled/scores " in paper.claims().options
    assert paper.cfg.decoding(sampled=True).temperature == 1.0 and paper.cfg.decoding(sampled=False).temperature == 0.0


def test_behaviour_has_every_model_of_tables_5_and_6():
    paper = targets("paper")
    rows = json.loads(paper.target("behaviour").params)["rows"]
    assert [row["label"] for row in rows] == ["published", "SFT", "GRPO @ 30", "ASPO @ 30", "gamma-only @ 30"]
    assert "traces/gamma_only-step30-seed2/musique.jsonl" in paper.target("figure9").files


def test_without_tables_5_and_6_no_figure_of_behaviour_is_drawn():
    tables = {"table1": merged("laptop")["tables"]["table1"]}
    found = targets("laptop", tables=tables, full_size=None)
    assert "figure9" not in found.figures and "behaviour" not in found.tables and not found.summarised
    for name in [*found.tables, *found.figures]:
        found.target(name)


def test_webwalker_is_a_column_only_in_tables_that_name_it():
    paper = targets("paper")
    assert "webwalker" not in [each["name"] for each in paper.shown.columns("table5")]
    assert [each["metric"] for each in paper.shown.columns("webwalker")] == ["char_f1"]


def test_pilots_have_the_papers_settings():
    cfg = targets("paper").cfg
    smoke, medium = cfg.pilot("smoke"), cfg.pilot("medium")
    assert (smoke.max_rows, smoke.batch_rows, smoke.holdout) == (200, 8, 0)
    assert (medium.max_rows, medium.batch_rows, medium.epochs) == (5000, 128, 1)
    assert cfg.pilot("full") == cfg.sft


def test_benchmark_files_of_timed_stages_are_written_by_rules():
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    written = re.findall(r'f?"benchmarks/([^"]+)\.tsv"', rules)
    patterns = [re.sub(r"\\\{\w*size\w*\\\}", "", re.escape(each)) for each in written]
    patterns = [re.sub(r"\\\{[^}]*\\\}", "[^/]+", each) for each in patterns]
    for row in targets("paper", tables=by_default("tool_star", "synthesis"))._timed():
        for timing in row["timings"]:
            assert any(re.fullmatch(each, timing.removeprefix("sampled/")) for each in patterns), timing


def by_default(*names):
    """The paper's tables, of which these are made by default too."""
    tables = merged("paper")["tables"]
    return tables | {name: tables[name] | {"in_all": True} for name in names}


def test_dpo_and_synthesis_are_timed_if_a_table_of_the_run_needs_them():
    """`tool_star`: DPO after step 15 of the RL of `grpo`, its own RL to step 30, and DPO again; three seeds."""
    rows = targets("paper", tables=by_default("tool_star", "synthesis"))._timed()
    found = {row["label"]: row for row in rows}
    trained = [f"{run}-seed{seed}" for run in ("grpo-step15-dpo1", "tool_star-step30-dpo2") for seed in (1, 2, 3)]
    assert found["DPO tool_star, training, 3 seeds"]["timings"] == [f"dpo/{model}" for model in trained]
    sampled = found["DPO tool_star, trajectories, 3 seeds"]
    assert sampled["timings"][:2] == [f"dpo_samples/{trained[0]}/{task}" for task in ("math", "qa")]
    assert (len(sampled["timings"]), sampled["samples"]) == (12, 6 * 1000 * 4)
    later = found["RL tool_star after DPO, 3 seeds"]
    assert later["timings"] == [f"rl_after_dpo/tool_star-step30-seed{seed}" for seed in (1, 2, 3)]
    assert later["samples"] == found["RL grpo, 3 seeds"]["samples"] / 2
    assert found["SFT synthesised"]["timings"] == ["sft/synthesised"]
    (asked,) = (row for label, row in found.items() if label.startswith("data synthesis"))
    assert asked["timings"] == ["synthesis/teacher_samples"] and asked["samples"] == "all"
    assert not any(re.search("DPO|synthesis", row["label"]) for row in targets("paper")._timed())


def test_a_timed_stage_counts_all_trajectories_of_its_file():
    """The trace analysis uses 20 of 30 MATH500 items; the time covers all 30. An arm's row has all its seeds."""
    evaluation = merged("paper")["evaluation"] | {"samples": 2}
    timed = targets("paper", evaluation=evaluation)._timed()
    rows = {timing: row["samples"] for row in timed for timing in row["timings"]}
    assert rows["sampled/traces/published/math500"] == rows["sampled/judge/published/math500"] == 30 * 4
    assert rows["rl/grpo-seed3"] == 3 * 3840 and rows["sft/smoke"] == 200
    (evaluated,) = (row for row in timed if "traces/published/math500" in row["timings"])
    assert evaluated["samples"] == 2 * 30 * len(evaluated["timings"])


def test_targets_that_read_the_papers_cells_have_their_file_as_input():
    paper, laptop = targets("paper"), targets("laptop")
    assert all((ROOT / file).is_file() for file in paper.printed("table5")) and paper.printed("table5")
    assert paper.printed("arithmetic") and paper.printed("table11") and paper.printed("figure4")
    assert not any(map(paper.printed, ["leakage", "judgements", "terms", "figure1"])) and not laptop.printed("figure4")


def test_results_of_a_generated_world_say_so_and_read_no_number_of_the_paper(tmp_path, monkeypatch):
    paper, laptop, names = targets("paper"), targets("laptop"), [*FIGURES, *TABLES]
    origin = {"data": "generated world", "model": "base", "seeds": 1}
    made = {name: laptop.target(name) for name in [*laptop.tables, *laptop.extra, *laptop.figures]}
    for name, target in [*made.items(), ("claims", laptop.claims())]:
        assert json.loads(target.params)["origin"] == origin, name
        assert "--model models/base/manifest.json" in target.options, name
        assert "paper" not in target.companions and "paper" not in json.loads(target.params).get("rows", [{}])[0], name
    assert not any(map(laptop.printed, names)) and any(map(paper.printed, names))
    assert "origin" not in json.loads(paper.claims().params) and paper.origin_label() == ""
    monkeypatch.chdir(tmp_path)
    assert laptop.origin_label() == "generated world, 1 seed"  # no model is made yet


def test_the_parameters_of_the_model_that_a_target_shows_are_counted():
    published = {"base": {"kind": "world"}, "published": {"kind": "world"}}
    table = {"rows": [{"label": "published", "model": "published"}]}
    both = targets("laptop", models=merged("laptop")["models"] | published, tables={"mine": table}, full_size=None)
    assert both.target("mine").inputs["model"] == ["models/published/manifest.json"]
    assert both.target("table2").inputs["model"] == ["models/base/manifest.json"]


def test_the_summary_is_written_from_results_that_are_made_by_default(scale):
    target = scale.summary()
    made = {f"results/{name}" for name in ("claims.json", *(f"{figure}.png" for figure in scale.figures))}
    for name in scale.tables:
        made |= {f"results/{name}{end}.csv" for end in ("", *(f"_{each}" for each in scale.target(name).companions))}
    assert scale.summarised and set(target.inputs["after"]) <= made and "results/behaviour.csv" in target.files
    params = json.loads(target.params)
    assert params["facts"]["arms"] == scale.shown.arms and ("origin" in params) is bool(scale.cfg.generated)
    rows = {"rows": [{"label": "SFT", "model": "sft"}]}
    assert not targets("laptop", tables={"mine": rows}, full_size=None).summarised


def test_claims_can_refer_to_the_models_of_the_tables():
    paper = targets("paper")
    params = json.loads(paper.claims().params)
    models = params["models"]
    assert {"published", "sft", "grpo@last", "aspo@last", "gamma_only@last", "sft-medium", "sft-epoch2"} <= set(models)
    assert "grpo@first" not in models  # evaluated only if a table made by default shows it
    assert params["facts"] == {"trajectories": 3840, "steps": 30}
    files = paper.claims().files
    assert (
        "data/sft.json" in files and "runs/sft/full/log.jsonl" in files and "runs/rl/grpo/seed1/metrics.jsonl" in files
    )
    assert {"data/rl_train.parquet", "runs/sft/medium/log.jsonl", "traces/sft-medium/gsm8k.jsonl"} <= set(files)
    for each in claims():
        for side in ("a", "b"):
            if each.get(side, "").endswith("@last"):
                assert each[side] in models


def test_every_row_compared_with_the_paper_has_the_papers_cells():
    paper = targets("paper")
    compared = [
        (table, row["paper"], column["label"])
        for table in paper.cfg.tables
        for row in paper.shown.rows(table)
        if "paper" in row
        for column in paper.shown.columns(table)
    ]
    assert {table for table, _, _ in compared} == {"table1", "table5", "table6", "table11", "table12"}
    assert [each for each in compared if published_cell(*each) is None] == []


@pytest.mark.parametrize(("change", "message"), [
    ({"tables": {"table5": {"rows": [{"label": "a", "model": "sft", "paper": "sft_full_e2"}]}}, "full_size": None},
     "the paper's table5 has no sft_full_e2; there is published, SFT, GRPO @ 30, ASPO @ 30"),
    ({"tables": {"x": {"rows": [{"label": "a", "model": "sft", "paper": "SFT"}]}}, "full_size": None},
     "the paper's x has no SFT; there is none"),
    ({"sft_pilots": {"smoke": {"max_row": 5}}}, "sft_pilots.smoke.max_row"),
    ({"sft_pilots": {"epoch1": {}}}, "sft_pilots.epoch1: the names full, checkpoint and epoch* are reserved"),
    ({"full_size": {"tables": ["table99"]}}, "table99"),
    ({"tables": {"x": {"rows": [{"label": "a", "model": "sft-nothing"}]}}, "full_size": None}, "sft_pilots has"),
    ({"tables": {"x": {"rows": [{"label": "a", "model": "nothing@last"}]}}, "full_size": None}, "arms has no nothing"),
    ({"models": {"base": {"kind": "hub", "repo": "a/b"}}}, "models.judge is not set"),
])  # fmt: skip
def test_errors_name_the_invalid_key(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        targets("laptop" if "models" not in change else "paper", **change)


def test_the_judge_reads_the_sets_that_the_paper_judges():
    cfg = targets("paper").cfg
    assert [(each.model, each.benchmark) for each in cfg.judged()] == [("published", "gsm8k"), ("published", "math500")]
    assert targets("paper", judge={"kind": "rules"}).cfg.judged() == []
