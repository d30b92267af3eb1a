"""Incremental runs: after an edit of a finished workflow, a dry run plans exactly the jobs that the edit affects."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.paths import ROOT, SNAKEMAKE
from support.workflow_copy import append, copy_workflow, edit, finish, jobs_of, planned, rules_of, snakemake

from tir.workflow.digests import code

CHANGE = "\nCHANGED = True\n"
# Rules of results, without their numbers.
RESULTS = {"table", "behaviour", "shaping", "figure", "summary", "items", "compare", "all"}

pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


def test_an_edited_lambda_reruns_only_its_arm(workflow):
    edit(workflow / "config.yaml", "aspo: {estimator: aspo, lambda: 0.5", "aspo: {estimator: aspo, lambda: 0.4")
    jobs = planned(workflow)
    assert (
        {job for job in jobs if job.startswith("rl:")} == {job for job in jobs if re.match(r"rl:aspo,", job)} != set()
    )
    assert {"rl", "traces", "scores", "table"} <= rules_of(jobs) <= {"rl", "traces", "scores", *RESULTS}
    assert all(re.search(r":aspo-step", job) for job in jobs if job.startswith(("traces", "scores")))
    assert {"table1", "table5", "table6"} <= jobs and not {"table2", "table12", "table13", "figure7"} & jobs


def test_an_added_seed_trains_only_that_seed(workflow):
    edit(workflow / "profiles/laptop/tiny.yaml", "seeds: [1]", "seeds: [1, 2]")
    runs = {job for job in planned(workflow) if job.startswith("rl:")}
    assert runs and all(job.endswith(",2") for job in runs)


def test_edited_settings_of_a_pilot_rerun_only_that_pilot(workflow):
    edit(workflow / "profiles/laptop/tiny.yaml", "medium: {max_rows: 2000", "medium: {max_rows: 1999")
    jobs = planned(workflow)
    assert {job for job in jobs if job.startswith(("sft:", "select_checkpoint:"))} == {
        "sft:medium",
        "select_checkpoint:sft-medium",
    }
    assert "rl" not in rules_of(jobs)
    assert all(job.startswith("traces:sft-medium,") for job in jobs if job.startswith("traces:"))


def test_an_added_epoch_trains_the_main_run_and_adds_a_model(workflow):
    edit(workflow / "profiles/laptop/tiny.yaml", "  epochs: 5\n", "  epochs: 6\n")
    assert "sft:full" in planned(workflow)
    made = snakemake(workflow, "-n", "models/sft-epoch6/manifest.json")
    assert re.search(r"rule select_checkpoint:.*wildcards: model=sft-epoch6", made, re.S)


def test_leading_space_is_a_parameter_of_every_fine_tuning_run(workflow):
    edit(workflow / "config.yaml", "tools:\n", "tools:\n  leading_space: true\n")
    command = snakemake(
        workflow, "-n", "-p", "runs/sft/smoke/log.jsonl", "runs/sft/medium/log.jsonl", "runs/sft/full/log.jsonl"
    )
    given = dict(re.findall(r"train_sft .*--run-dir runs/sft/(\w+) .*--params '([^']+)'", command))
    assert {run: json.loads(params)["leading_space"] for run, params in given.items()} == dict.fromkeys(
        ("smoke", "medium", "full"), True
    )


def test_an_edited_cell_of_the_paper_remakes_no_result_of_a_generated_world(workflow):
    """None shows a cell of the paper; that those of real data do is in test_targets.py."""
    edit(workflow / "tir/analysis/tables/paper_reference.yaml", "ASPO @ 30: [76.7", "ASPO @ 30: [76.6")
    assert planned(workflow) == set()
    edit(workflow / "tir/analysis/tables/paper_reference.yaml", "ASPO @ 30: [76.6", "ASPO @ 30: [76.7")
    assert planned(workflow) == set()


def test_key_order_and_comments_in_the_configuration_rerun_nothing(workflow):
    edit(
        workflow / "config.yaml",
        "alpha: 1.0, beta: 1.0, gamma: 0.5, psi_k: 5.0}",
        "psi_k: 5.0, gamma: 0.5, beta: 1.0, alpha: 1.0}",
    )
    edit(workflow / "config.yaml", "  kl_coef: 0.0\n", "")
    edit(workflow / "config.yaml", "  clip_ratio: 0.2\n", "  clip_ratio: 0.2  # symmetric\n  kl_coef: 0.0\n")
    edit(workflow / "config.yaml", "# The experiment at paper scale.", "# A comment.\n# The experiment at paper scale.")
    assert planned(workflow) == set()


def test_edited_code_of_the_shaping_term_reruns_the_arms_that_use_it(workflow):
    append(workflow / "aspo/advantage.py", CHANGE)
    jobs = planned(workflow)
    arms = {job.split(":")[1].split(",")[0] for job in jobs if job.startswith("rl:")}
    assert arms == {"aspo", "gamma_only"}
    assert not rules_of(jobs) & {"sft", "index", "world", "tiny_model"}
    assert not any("grpo" in job or ":sft" in job for job in jobs if not job.startswith("compare:"))


def test_digests_include_modules_named_in_strings(workflow):
    """verl, Hydra and Ray import modules of tir/rl by name, without an import statement; aspo/ is added per arm."""
    files = code("scripts.train_rl")
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "tir/rl").rglob("*.py")} <= set(files)
    assert not any(file.startswith("aspo/") for file in files)
    append(workflow / "tir/rl/weights.py", CHANGE)
    arms = {job.split(":")[1].split(",")[0] for job in planned(workflow) if job.startswith("rl:")}
    assert arms == {"grpo", "aspo", "gamma_only"}


def test_edited_scoring_code_reruns_scoring_and_no_training(workflow):
    append(workflow / "tir/scoring/score.py", CHANGE)
    assert rules_of(planned(workflow)) <= {"scores", *RESULTS} and "scores" in rules_of(planned(workflow))


def test_edited_code_of_the_rollout_loop_reruns_rl_and_traces(workflow):
    append(workflow / "tir/rollout/loop.py", CHANGE)
    jobs = rules_of(planned(workflow))
    assert {"rl", "traces"} <= jobs and not jobs & {"sft", "index"}


def test_touched_files_rerun_nothing(workflow):
    for part in ("aspo", "tir", "scripts"):
        for file in (workflow / part).rglob("*.py"):
            file.touch()
    (workflow / "config.yaml").touch()
    assert planned(workflow) == set()


def test_a_new_import_reruns_the_stages_that_import_it(workflow):
    (workflow / "tir/extra.py").write_text("VALUE = 1\n")
    assert planned(workflow) == set()
    append(workflow / "tir/scoring/judge/calibration.py", "\nimport tir.extra\n")
    assert rules_of(planned(workflow)) & {"index", "rl", "sft", "traces", "scores", "judge"} == {"judge"}


def test_a_run_records_the_code_it_ran(tmp_path):
    """A job that really ran is complete; after an edit of one of its modules, the plan shows the changed digest."""
    directory = copy_workflow(tmp_path)
    (directory / ".venv").symlink_to(ROOT / ".venv")
    shutil.copytree(ROOT / "docs", directory / "docs")
    target = "results/table7.csv"
    snakemake(directory, "--cores", "1", target)
    assert "Nothing to be done" in snakemake(directory, "-n", target)
    append(directory / "tir/analysis/tables/training.py", CHANGE)
    text = snakemake(directory, "-n", target)
    assert re.search(r"rule table7:", text)
    assert re.search(r"results/table7.csv: code: scripts.make_table \w+, now scripts.make_table \w+", text)
    assert "tir/analysis/tables/training.py" not in text.partition("input:")[2].partition("\n")[0]


def test_edited_configuration_models_rerun_only_jobs_whose_values_change(workflow):
    for module in (workflow / "tir/config").glob("*.py"):
        append(module, CHANGE)
    edit(workflow / "tir/config/rl.py", "clip_ratio: float = Field(0.2,", "clip_ratio: float = Field(0.3,")
    assert planned(workflow) == set()  # config.yaml sets clip_ratio, so the default has no effect
    edit(workflow / "config.yaml", "  clip_ratio: 0.2\n", "")
    jobs = rules_of(planned(workflow))
    assert "rl" in jobs and not jobs & {"sft", "index"}


def test_edited_tool_settings_rerun_only_jobs_whose_parameters_have_them(workflow):
    module = workflow / "tir/tools/python_tool.py"
    edit(module, "longest payload in characters", "maximum length of a payload in characters")
    assert planned(workflow) == set()
    with_python = {
        job
        for job, text in jobs_of(snakemake(workflow, "-n", "-p", "--forceall")).items()
        if re.search(r"--params '[^']*\"output_chars\":400,", text)
    }
    edit(module, "output_chars: int = Field(\n        400,", "output_chars: int = Field(\n        401,")
    plan = jobs_of(snakemake(workflow, "-n"))
    changed = {job for job, text in plan.items() if "reason: Forced execution" in text}
    later = {job for job, text in plan.items() if "reason: Input files updated by another job" in text}
    assert {"rl", "traces", "world_trajectories"} == rules_of(with_python)
    assert changed <= with_python <= {*plan} == changed | later


def test_operational_settings_rerun_nothing_and_reach_the_job(workflow):
    """Time-outs and concurrency do not affect results: they are in a job's command, not among its parameters."""
    edit(
        workflow / "config.yaml",
        "search: {timeout_s: 60}",
        "search: {timeout_s: 61}\n  web_search: {retry_budget_s: 601}",
    )
    edit(
        workflow / "config.yaml",
        "python: {memory_mb: 2048}",
        "python: {memory_mb: 2048, queue_timeout_s: 602, workers: 3}",
    )
    assert planned(workflow) == set()
    command = snakemake(workflow, "-n", "-p", "--force", "traces/sft/musique.jsonl")
    given = json.loads(re.search(r"generate_traces .*--operational '([^']+)'", command)[1])["tools"]
    assert given["search"]["timeout_s"] == 61 and given["web_search"]["retry_budget_s"] == 601
    assert given["python"] == {"queue_timeout_s": 602, "recycle_after": 10_000, "workers": 3}
    assert "queue_timeout_s" not in re.search(r"generate_traces .*--params '([^']+)'", command)[1]

    edit(workflow / "config.yaml", "python: {memory_mb: 2048", "python: {timeout_s: 6, memory_mb: 2048")
    assert {"traces", "rl"} <= rules_of(planned(workflow))


def test_an_added_benchmark_is_one_entry_and_trains_nothing_unless_kept_from_validation(workflow):
    entry = "  later: {label: Later, task: math, metric: em, kept_from_validation: false, "
    entry += "source: {kind: local, path: later.jsonl}}\n"
    edit(workflow / "config.yaml", "benchmarks:\n", "benchmarks:\n" + entry)
    assert {"traces", "scores"} <= rules_of(planned(workflow)) and "rl" not in rules_of(planned(workflow))
    assert (
        "benchmarks/later.jsonl"
        not in snakemake(workflow, "-n", "--forcerun", "world").partition("rule world:")[2].partition("log:")[0]
    )
    edit(workflow / "config.yaml", "kept_from_validation: false, ", "")  # now its questions are not validation rows
    assert "rl" in rules_of(planned(workflow))


def test_an_added_arm_is_one_entry(workflow):
    append(workflow / "config.yaml", "")
    edit(workflow / "config.yaml", "  beta_only:", "  bold: {base: aspo, lambda: 0.9}\n  beta_only:")
    assert planned(workflow) == set()
    seed = 1
    text = snakemake(workflow, "-n", f"scores/bold-step{last_step(workflow)}-seed{seed}/gsm8k.jsonl")
    assert re.search(r"rule rl:", text) and "arm=bold" in text


TOOL = '''"""Tells the day of the week."""
import asyncio, contextlib, datetime
from tir.common.schema import Model
from tir.tools.base import ToolResult
from tir.tools.registry import ToolKind

class DayConfig(Model):
    """Settings of the day tool."""
    language: str = "en"

class Day:
    async def call(self, body):
        return ToolResult(datetime.date.fromisoformat(body).strftime("%A"), "ok", 0.0)

@contextlib.contextmanager
def _make(settings, endpoint):
    yield Day()

TOOL = ToolKind("search", DayConfig, _make)
'''


def test_a_tool_is_one_module(workflow):
    (workflow / "tir/tools/day_tool.py").write_text(TOOL)
    assert planned(workflow) == set()
    edit(workflow / "profiles/laptop/tiny.yaml", "qa: [search]}", "qa: [python, day]}\n  day: {language: de}")
    command = snakemake(workflow, "-n", "-p", "traces/sft/musique.jsonl", "traces/sft/gsm8k.jsonl")
    given = [json.loads(params)["tools"] for params in re.findall(r"generate_traces .*--params '([^']+)'", command)]
    # Only musique's: gsm8k does not call this tool.
    assert [tools["day"] for tools in given if "day" in tools] == [{"language": "de"}]
    answer = subprocess.run(
        [
            ROOT / ".venv/rl/bin/python",
            "-c",
            "import asyncio\nfrom tir.tools.registry import *\n"
            "from tir.config.tools import Tools\n"
            "with make_tools(['day'], Tools(day={'language': 'de'}), None) as tools:\n"
            "    print(asyncio.run(by_tag(tools, ['day'])['search'].call('2024-02-29')).text)",
        ],
        cwd=workflow,
        text=True,
        capture_output=True,
    )
    assert answer.stdout == "Thursday\n", answer.stderr

    finish(workflow)
    append(workflow / "tir/tools/day_tool.py", CHANGE)
    jobs = planned(workflow)
    assert "rl" in rules_of(jobs)  # RL trains on qa
    assert "traces:sft,musique" in jobs and "traces:sft,gsm8k" not in jobs

    edit(workflow / "profiles/laptop/tiny.yaml", "qa: [python, day]", "qa: [search, day]")
    refused = subprocess.run(
        [SNAKEMAKE, "--profile", "profiles/laptop", "-n"], cwd=workflow, text=True, capture_output=True
    )
    assert (
        "routes.qa has search and day, which have the same tag, <search>; keep one" in refused.stdout + refused.stderr
    )


def test_edited_code_of_a_tool_reruns_only_jobs_that_call_it(workflow):
    for module in ("tools/web_search_tool.py", "tools/websearch/cassette.py"):
        append(workflow / "tir" / module, CHANGE)
    assert planned(workflow) == set()  # at laptop scale no benchmark uses web search
    append(workflow / "tir/tools/python_tool.py", CHANGE)
    assert {"traces", "rl"} <= rules_of(planned(workflow))


def last_step(directory: Path) -> int:
    return yaml.safe_load((directory / "profiles/laptop/tiny.yaml").read_text())["rl"]["steps"]


def test_an_edited_local_file_is_copied_again(workflow):
    benchmark = workflow / "mine.jsonl"
    benchmark.write_text('{"question": "q", "answer": "a"}\n')
    model = workflow / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}")
    overlay = yaml.safe_load((workflow / "profiles/laptop/tiny.yaml").read_text())
    overlay["benchmarks"]["gsm8k"]["source"] = {"kind": "local", "path": "mine.jsonl"}
    overlay["models"]["base"] = {"kind": "local", "path": "mine"}
    (workflow / "profiles/laptop/tiny.yaml").write_text(yaml.safe_dump(overlay))
    finish(workflow)
    append(benchmark, '{"question": "r", "answer": "b"}\n')
    jobs = planned(workflow)
    assert "fetch:benchmarks/gsm8k.jsonl" in jobs and "fetch_model:base" not in jobs
    finish(workflow)
    (model / "model.safetensors").write_bytes(b"")
    assert "fetch_model:base" in planned(workflow)
