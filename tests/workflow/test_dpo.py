"""DPO in the graph: a changed setting plans the jobs after it, and nothing before."""

import re
import shutil
from collections import Counter

import pytest
from support.paths import ROOT, SNAKEMAKE
from support.workflow_copy import append, copy_workflow, edit, finish, planned, rules_of, snakemake

pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")
TABLE = "tool_star:\n    rows:"
TRAINED = "grpo-step20-dpo1-seed1"
STAGES = {"dpo_prompts", "dpo_samples", "dpo_pairs", "dpo", "rl_after_dpo", "rl", "sft"}
EVALUATED = {"traces", "scores", "tool_star"}


@pytest.fixture(scope="module")
def finished_dpo(tmp_path_factory):
    """A finished workflow that makes the table of the arm with DPO by default."""
    directory = copy_workflow(tmp_path_factory.mktemp("dpo"))
    edit(directory / "profiles/laptop/tiny.yaml", TABLE, "tool_star:\n    in_all: true\n    rows:")
    return finish(directory)


@pytest.fixture
def workflow(finished_dpo, tmp_path):
    return shutil.copytree(finished_dpo, tmp_path / "copy", symlinks=True)


def of_the_result(jobs: set[str]) -> set[str]:
    """The jobs without those that every change of a result repeats."""
    return {job for job in jobs if rules_of({job}) & STAGES}


@pytest.mark.parametrize(
    "old, new, repeated",
    [
        ("  epochs: 1\n  batch_pairs: 8", "  epochs: 1\n  beta: 0.2\n  batch_pairs: 8", {"dpo"}),
        ("samples: 4, cutoff", "samples: 4, per_prompt: 2, cutoff", {"dpo_pairs", "dpo"}),
        ("samples: 4, cutoff", "samples: 6, cutoff", {"dpo_samples", "dpo_pairs", "dpo"}),
        ("rows: 160, samples", "rows: 150, samples", {"dpo_prompts", "dpo_samples", "dpo_pairs", "dpo"}),
        ("  epochs: 1\n  batch_pairs: 8", "  epochs: 1\n  stall_s: 60\n  batch_pairs: 8", set()),
    ],
)
def test_a_setting_of_dpo_plans_only_dpo_and_later_jobs(workflow, old, new, repeated):
    edit(workflow / "profiles/laptop/tiny.yaml", old, new)
    jobs = planned(workflow)
    assert rules_of(of_the_result(jobs)) == repeated
    assert {job for job in jobs if job.startswith(("traces", "scores"))} == {
        job for job in jobs if re.match(rf"(traces|scores):{TRAINED},", job)
    }
    assert EVALUATED <= rules_of(jobs) if repeated else not jobs


def test_edited_code_of_dpo_repeats_no_fine_tuning_and_no_rl(workflow):
    append(workflow / "tir/dpo/merge.py", "\nCHANGED = True\n")
    assert of_the_result(planned(workflow)) == {f"dpo:{TRAINED}"}


def test_an_edit_of_the_base_arm_repeats_its_rl_and_the_dpo_after_it(workflow):
    """The arm with DPO has the RL of its base; `aspo` is another arm's."""
    edit(workflow / "config.yaml", "tool_star: {base: grpo,", "tool_star: {base: aspo,")
    jobs = of_the_result(planned(workflow))
    assert f"dpo:{TRAINED.replace('grpo', 'aspo')}" in jobs and not rules_of(jobs) & {"rl", "sft"}


def test_rl_goes_on_from_the_policy_after_dpo(workflow):
    """Twice as often: DPO of the checkpoint that the base has anyway, the rest of RL, and DPO of its policy."""
    edit(workflow / "config.yaml", "dpo: {every: 0.5}", "dpo: {every: 0.25}")
    jobs = of_the_result(planned(workflow))
    assert jobs - {job for job in jobs if job.startswith(("dpo_samples", "dpo_pairs"))} == {
        "dpo:grpo-step10-dpo1-seed1",
        "rl_after_dpo:tool_star,20,1",
        "dpo:tool_star-step20-dpo2-seed1",
    }
    made = snakemake(workflow, "-n", "-p", "models/tool_star-step20-seed1/manifest.json")
    command = re.search(r"scripts.train_rl (.*)", made)[1]
    assert "--model models/grpo-step10-dpo1-seed1 " in command and "--seed 10001 " in command
    assert '"steps":10,' in command and "--made runs/rl/tool_star/seed1/models/tool_star-step10-seed10001 " in command


def test_the_plan_of_the_papers_scale_trains_no_rl_for_the_arm_beside_that_of_its_base():
    site = ["--configfile", "config.yaml", "profiles/laptop/site.yaml"]
    text = snakemake(ROOT, "-n", *site, "--", "results/tool_star.csv")
    found = Counter(re.findall(r"^rule (\w+):", text, re.M))
    assert {"rl": 3, "dpo": 6, "dpo_samples": 12, "rl_after_dpo": 3}.items() <= found.items()
