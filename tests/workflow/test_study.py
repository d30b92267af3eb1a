"""The study: its plan, the worlds of the phase diagram, and its profile on a cluster."""

import json
import re
import subprocess

import pytest
import yaml
from support.configuration import merged
from support.paths import ROOT, SNAKEMAKE

from tir.common.errors import ConfigError
from tir.config.experiment import load
from tir.workflow import study
from tir.workflow.targets import Targets

FILES = ("config.yaml", *study.SCALE)
needs_snakemake = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


def config(*further: str):
    return load(merged(*FILES, *further), ["config.yaml"])


def test_the_tables_read_every_arm_and_seed_and_are_not_made_by_default():
    whole, targets = config(), Targets(config())
    assert (targets.study_tables, targets.study_figures) == (["effects", "power"], ["phase"])
    assert not {"effects", "power", "phase"} & {*targets.tables, *targets.extra, *targets.figures}
    arms = [whole.study.baseline, *whole.study.arms]
    runs = {f"runs/rl/{arm}/seed{seed}/metrics.jsonl" for arm in arms for seed in range(1, 6)}
    effects = targets.target("effects")
    assert set(effects.inputs["metrics"]) == runs
    assert {path.split("/")[2] for path in effects.inputs["traces"]} == {
        f"{name}.jsonl" for name in ("gsm8k", "math500", "hotpotqa", "musique")
    }
    assert "scores/placebo-step20-seed5/musique.jsonl" in effects.inputs["scores"]
    assert "scores/sft/musique.jsonl" in effects.inputs["scores"]
    assert json.loads(effects.params)["arms"][2]["arm"] == "reward_shaped"


def test_the_power_reads_the_first_seeds_so_that_the_pilot_and_the_whole_study_give_the_same():
    whole, quick = (Targets(config(*further)).target("power") for further in ([], [study.QUICK]))
    assert {path.split("/")[3] for path in whole.inputs["metrics"]} == {"seed1", "seed2"}
    assert set(quick.files) < set(whole.files)
    assert json.loads(whole.params)["effects"]["accuracy"] == 0.05


def test_a_configuration_without_the_section_has_no_study():
    targets = Targets(load(merged("config.yaml"), ["config.yaml"]))
    assert targets.study_tables == targets.study_figures == []


def test_the_worlds_go_from_spoiling_to_repairing_and_the_first_is_that_of_the_study():
    whole = config()
    worlds = list(whole.study.phase.worlds.values())
    assert len(worlds) == 5
    gains = [world.repair - world.spoil for world in worlds]
    assert gains == sorted(gains) and gains[0] < 0 < gains[-1]
    same = [study.has_habits_of_study(whole, name) for name in whole.study.phase.worlds]
    assert same == [True, False, False, False, False]


def test_a_world_is_an_overlay_that_changes_the_world_the_arms_and_the_seeds_only(tmp_path):
    whole = config()
    overlay = study.point(whole, "repairs")
    (tmp_path / "point.yaml").write_text(yaml.safe_dump(overlay))
    world = config(str(tmp_path / "point.yaml"))
    habits = world.world.trajectories.habits
    assert (habits.spoil, habits.repair) == (0.0, 1.0) and habits.slip == whole.world.trajectories.habits.slip
    assert world.study.arms == ["lambda_0.1", "aspo"] and world.rl.seeds == [1, 2] and world.study.phase is None
    before, after = (each.model_dump(exclude={"world", "study"}) for each in (whole, world))
    assert after["rl"].pop("seeds") != before["rl"].pop("seeds") and after == before


def test_a_world_begins_with_the_results_of_the_study_that_fit(tmp_path):
    for name in (*study.SAME_WORLD, "identity"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    for world, same, copied in (("spoils", True, study.SAME_WORLD), ("repairs", False, study.SAME_CORPUS)):
        directory = tmp_path / "worlds" / world
        directory.mkdir(parents=True)
        study.begin(directory, same_world=same)
        assert {path.name for path in directory.iterdir()} == {*copied, "identity"}
        (directory / "identity/file").write_text("of this world")
        (tmp_path / "data/file").write_text("later")
        study.begin(directory, same_world=same)
        assert (directory / "data/file").read_text() == "data"  # a second call copies nothing
        (tmp_path / "data/file").write_text("data")


def test_an_interrupted_copy_begins_again(tmp_path):
    for name in ("data", "identity"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    directory = tmp_path / "worlds/repairs"
    (directory / "identity.partial").mkdir(parents=True)
    (directory / "identity.partial/other").write_text("half")
    study.begin(directory, same_world=False)
    assert {path.name for path in (directory / "identity").iterdir()} == {"file"}


def test_the_columns_of_the_phase_diagram_are_in_the_order_of_its_tables():
    whole = config()
    diagram, worlds = Targets(whole).target("phase"), whole.study.phase.worlds
    assert [path.split("/")[1] for path in diagram.inputs["data"]] == [*worlds]
    assert json.loads(diagram.params)["worlds"] == [each.model_dump() for each in worlds.values()]


def test_jobs_on_a_cluster_ask_for_no_gpu():
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    made = study.study_profile(profile, ["profiles/slurm/site.yaml"], study.QUICK)
    assert "gpu" not in json.dumps(made["set-resources"]) and set(made["set-threads"].values()) == {1, 2}
    assert made["configfile"] == [*study.SCALE, study.QUICK, "profiles/slurm/site.yaml", study.ON_CPU]
    assert made["executor"] == "slurm" and made["default-resources"] == profile["default-resources"]
    assert "set-resources" not in study.study_profile({"cores": 2}, [])


@needs_snakemake
@pytest.mark.parametrize(
    ("profile", "options", "runs"),
    [
        # Seven arms of five seeds; in each of five worlds three arms of two seeds.
        ("profiles/laptop", [], [35, 6, 6, 6, 6, 6]),
        ("profiles/slurm", ["--quick"], [6, 4, 4]),
    ],
)
def test_a_plan_has_the_runs_of_the_study_and_of_each_world(profile, options, runs, tmp_path):
    for name in "Snakefile config.yaml rules scripts tir aspo profiles envs containers docs".split():
        (tmp_path / name).symlink_to(ROOT / name)
    command = [SNAKEMAKE.with_name("python"), "-m", "scripts.run_study", "--profile", profile, *options]
    done = subprocess.run(
        [*command, "--snakemake", SNAKEMAKE, "--", "-n"], cwd=tmp_path, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plans = done.stdout.split("Job stats:")[1::2]  # a plan shows them at its beginning and at its end
    jobs = [dict(re.findall(r"^(\w+) +(\d+)$", plan, re.M)) for plan in plans]
    assert [int(each["rl"]) for each in jobs] == runs
    assert {"effects", "power"} <= set(jobs[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": ["asbo"]}, ["study.arms.0: arms has no asbo; did you mean `aspo`?"]),
        ({"arms": ["aspo", "aspo"]}, ["study.arms.1: aspo is here twice, or is the baseline"]),
        ({"arms": ["tool_star"]}, ["study.arms.0: tool_star has DPO; the study compares runs of RL"]),
        ({"baseline": "gpro"}, ["study.baseline: arms has no gpro; did you mean `grpo`?"]),
        ({"benchmarks": ["gsm9k"]}, ["study.benchmarks.0: benchmarks has no gsm9k"]),
        ({"phase": {"arms": ["lambda_2"]}}, ["study.phase.arms.0: arms has no lambda_2"]),
        ({"smallest_effects": {"acuracy": 0.1}}, ["study.smallest_effects.acuracy"]),
        ({"start": "sft-epoch9"}, ["study.start", "sft.epochs is 5"]),
    ],
)
def test_errors_name_the_key_of_the_study(change, words, tmp_path):
    (tmp_path / "change.yaml").write_text(yaml.safe_dump({"study": change}))
    with pytest.raises(ConfigError) as caught:
        config(str(tmp_path / "change.yaml"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_phase_diagram_needs_a_generated_world():
    found = merged(*FILES)
    found["data"]["sft"] = {"kind": "local", "path": "sft.json", "rows": 10}
    with pytest.raises(ConfigError, match="study.phase: the worlds differ in the generated fine-tuning data"):
        load(found, ["config.yaml"])
