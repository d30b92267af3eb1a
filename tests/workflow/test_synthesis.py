"""Data synthesis in the graph: an edit of a step repeats that step and what is made of it, and nothing of the study."""

import json
import re
import shutil

import pytest
from support.configuration import PAPER
from support.paths import SNAKEMAKE
from support.workflow_copy import edit, planned, snakemake

from tir.config.experiment import load
from tir.workflow.cost import Job, memory_gb, minutes, needs_gpu

pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")
TARGET = "results/synthesis.csv"
TINY = "profiles/laptop/tiny.yaml"
STEP3 = {"classified_questions", "equal_rows", "sft", "select_checkpoint", "traces", "scores", "synthesis"}
STEPS = {"teacher_samples", "normalised_samples", *STEP3}


def jobs(workflow, *arguments):
    return set(re.findall(r"^(?:local)?rule (\w+):", snakemake(workflow, "-n", *arguments), re.M))


@pytest.fixture(scope="module")
def with_table(finished, tmp_path_factory):
    """The finished study, and the on-demand table on top of it."""
    workflow = tmp_path_factory.mktemp("synthesis") / "copy"
    shutil.copytree(finished, workflow, symlinks=True)
    assert jobs(workflow, TARGET) == {"questions", *STEPS}  # the study's own results are used as they are
    snakemake(workflow, "--nolock", TARGET, fake=True)
    assert jobs(workflow, TARGET) == set()
    return workflow


@pytest.fixture
def made(with_table):
    """The same for each test, which may edit these files."""
    before = {path: path.read_bytes() for path in (with_table / TINY, *(with_table / "tir/synthesis").glob("*.py"))}
    yield with_table
    for path, content in before.items():
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rows_per_question: 4}", "rows_per_question: 3}", STEP3),
        ("rows_per_question: 4}", "rows_per_question: 4, mixed: 0.1}", STEP3),
        ("{near_duplicates: null}", "{near_duplicates: null, max_calls: 4}", {"normalised_samples", *STEP3}),
        ("sampling: {direct: 2", "sampling: {direct: 1", STEPS),
        ("sampling: {direct: 2", "sampling: {budget: {tokens: 900}, direct: 2", STEPS),
        ("max_questions: 1500", "max_questions: 1400", {"questions", *STEPS}),
        (
            "max_response_tokens: 192, concurrency: 32}",
            "max_response_tokens: 192, concurrency: 32, lost_in_a_row: 3}",
            set(),
        ),
    ],
)
def test_an_edited_key_repeats_its_step_and_later_ones(made, old, new, expected):
    edit(made / TINY, old, new)
    assert jobs(made, TARGET) == expected
    assert planned(made) == set()  # no result of the study depends on it


def test_edited_code_of_a_step_repeats_it(made):
    edit(made / "tir/synthesis/near.py", "BANDS, ROWS = 32, 4", "BANDS, ROWS = 32, 5")
    assert jobs(made, TARGET) == {"normalised_samples", *STEP3}
    edit(made / "tir/synthesis/prompts.py", "You solve the user", "You answer the user")
    assert jobs(made, TARGET) == STEPS


def test_training_on_the_corpus_needs_another_model_and_takes_the_place_of_the_data(made):
    """The tiny model cannot be trained on it, as its vocabulary is made of data.sft."""
    (made / "mine").mkdir()
    (made / "mine/config.json").write_text("{}")
    data, tables = "data={sft: {kind: synthesis}, prompt: Use tools.}", "tables={synthesis: null}"
    models, teacher = "models={base: {kind: local, path: mine}}", "synthesis={teacher: {model: base, prompts: own}}"
    text = snakemake(made, "-n", "-p", "runs/sft/full/log.jsonl", "--config", data, tables, models, teacher)
    rules = set(re.findall(r"^(?:local)?rule (\w+):", text, re.M))
    assert {"teacher_samples", "normalised_samples", "classified_questions", "synthesised_data", "sft"} <= rules
    assert "world_trajectories" not in rules and "cp synthesis/sft.json data/sft.json" in text


def test_a_teacher_behind_an_endpoint_needs_no_model(made):
    teacher = "synthesis={teacher: {model: big, endpoint: 'http://127.0.0.1:1/v1', prompts: own}}"
    text = snakemake(made, "-n", "-p", "synthesis/card.md", "--config", teacher)
    command = re.search(r"scripts.sample_teacher .*", text)[0]
    params = json.loads(re.search(r"--params '([^']+)'", command)[1])
    assert "endpoint" not in params["teacher"] and '"endpoint":"http://127.0.0.1:1/v1"' in command
    assert "models/big/manifest.json" not in text and "models/sft/manifest.json" not in text


def test_the_plan_knows_the_teachers_gpu_hours_and_memory():
    config = load(PAPER, ["config.yaml"])
    job = Job("teacher_samples", {}, "gpu:a100:1")
    assert needs_gpu("teacher_samples", config) and 10 < memory_gb(job, config)["weights"] + 4.6 < 12
    few, many = (load(PAPER | {"synthesis": {"max_questions": n}}, ["config.yaml"]) for n in (1000, 10_000))
    assert 5 < minutes(job, many) / minutes(job, few) < 10 and 60 < minutes(job, many) < 24 * 60
    elsewhere = load(PAPER | {"synthesis": {"teacher": {"endpoint": "http://host/v1"}}}, ["config.yaml"])
    assert not needs_gpu("teacher_samples", elsewhere)
