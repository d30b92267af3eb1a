"""Redo exactly what changed: edits are made on a copy of the workflow that believes it has finished, then `-n` asks.

The copy's outputs are empty files that `snakemake --touch` has recorded as made; planning reads no contents.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tir.workflow import code

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = ROOT / ".venv/workflow/bin/snakemake"
PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "tir", "aspo", "profiles", "envs")
pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


def snakemake(directory: Path, *arguments: str) -> str:
    done = subprocess.run([SNAKEMAKE, "--profile", "profiles/laptop", "--quiet", "host", *arguments], cwd=directory,
                          text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def copy_workflow(target: Path) -> Path:
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target / part)
    return target


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A workflow all of whose outputs exist and are recorded."""
    return finish(copy_workflow(tmp_path_factory.mktemp("finished")))


def finish(directory: Path) -> Path:
    """Make every output exist, as an old empty file, and have `--touch` record all jobs as done, in their order."""
    for line in snakemake(directory, "--summary").splitlines():
        path = directory / line.split("\t")[0]
        if "\t" in line and not line.startswith("output_file"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    snakemake(directory, "--touch", "--forceall")  # without force, jobs that look up to date are not recorded
    assert planned(directory) == set()
    return directory


@pytest.fixture
def workflow(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def planned(directory: Path) -> set[str]:
    """Jobs that would run, as `rule` or `rule:wildcard,wildcard`."""
    text, jobs, rule = snakemake(directory, "-n"), set(), None
    for line in text.splitlines():
        named = re.match(r"\s*(?:local)?rule (\w+):", line)
        if named:
            rule = named.group(1)
            jobs.add(rule)
        wildcards = re.match(r"\s+wildcards: (.*)", line)
        if wildcards and rule:
            jobs.discard(rule)
            values = [part.partition("=")[2] for part in wildcards.group(1).split(", ")]
            jobs.add(f"{rule}:" + ",".join(filter(None, values)))
    return jobs


def rules_of(jobs: set[str]) -> set[str]:
    """Names of rules, tables and figures under one name each."""
    names = {re.sub(r"^(table|figure)\d+(_n\d+)?$", r"\1", job.partition(":")[0]) for job in jobs}
    return {"table" if name in ("claims", "arithmetic", "leakage", "judgements") else name for name in names}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_one_arms_lambda_reruns_that_arm_alone(workflow):
    edit(workflow / "config.yaml", "aspo: {estimator: aspo, lambda: 0.5", "aspo: {estimator: aspo, lambda: 0.4")
    jobs = planned(workflow)
    assert {job for job in jobs if job.startswith("rl:")} == {job for job in jobs if re.match(r"rl:aspo,", job)} != set()
    assert {"rl", "traces", "scores", "table"} <= rules_of(jobs) <= {"rl", "traces", "scores", "table", "figure", "all"}
    assert all(re.search(r":aspo-step", job) for job in jobs if job.startswith(("traces", "scores")))
    assert {"table1", "table5", "table6"} <= jobs and not {"table2", "table12", "table13", "figure7"} & jobs


def test_a_seed_more_trains_that_seed_alone(workflow):
    edit(workflow / "profiles/laptop/tiny.yaml", "seeds: [1]", "seeds: [1, 2]")
    runs = {job for job in planned(workflow) if job.startswith("rl:")}
    assert runs and all(job.endswith(",2") for job in runs)


def test_a_space_before_results_reaches_every_fine_tuning(workflow):
    edit(workflow / "config.yaml", "tools:\n", "tools:\n  leading_space: true\n")
    command = snakemake(workflow, "-n", "-p", "runs/sft/smoke/log.jsonl", "runs/sft/medium/log.jsonl", "runs/sft/full/log.jsonl")
    given = dict(re.findall(r"train_sft .*--run-dir runs/sft/(\w+) .*--params '([^']+)'", command))
    assert {run: json.loads(params)["leading_space"] for run, params in given.items()} == dict.fromkeys(("smoke", "medium", "full"), True)


def test_a_cell_of_the_paper_remakes_what_shows_or_checks_it(workflow):
    edit(workflow / "tir/tables/paper_reference.yaml", "ASPO @ 30: [76.7", "ASPO @ 30: [76.6")
    assert planned(workflow) == {*(f"table{number}" for number in range(1, 14)), "arithmetic", "all"}
    edit(workflow / "tir/tables/paper_reference.yaml", "ASPO @ 30: [76.6", "ASPO @ 30: [76.7")
    assert planned(workflow) == set()


def test_order_and_comments_rerun_nothing(workflow):
    edit(workflow / "config.yaml", "alpha: 1.0, beta: 1.0, gamma: 0.5, psi_k: 5.0}", "psi_k: 5.0, gamma: 0.5, beta: 1.0, alpha: 1.0}")
    edit(workflow / "config.yaml", "  kl_coef: 0.0\n", "")
    edit(workflow / "config.yaml", "  clip_ratio: 0.2\n", "  clip_ratio: 0.2  # symmetric\n  kl_coef: 0.0\n")
    edit(workflow / "config.yaml", "# The experiment at paper scale.", "# A comment.\n# The experiment at paper scale.")
    assert planned(workflow) == set()


def test_the_shaping_term_reruns_the_arms_that_use_it(workflow):
    append(workflow / "aspo/advantage.py", "\n# changed\n")
    jobs = planned(workflow)
    arms = {job.split(":")[1].split(",")[0] for job in jobs if job.startswith("rl:")}
    assert arms == {"aspo", "gamma_only"}
    assert not rules_of(jobs) & {"sft", "index", "world", "tiny_model"}
    assert not any("grpo" in job or ":sft" in job for job in jobs)


def test_modules_named_in_strings_are_code(workflow):
    """verl, Hydra and Ray import ours by name, which no import statement leads to; a name alone drags in no shaping."""
    files = code("scripts.train_rl")
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "tir/rl").glob("*.py")} <= set(files)
    assert not any(file.startswith("aspo/") for file in files)
    append(workflow / "tir/rl/weights.py", "\n# changed\n")
    arms = {job.split(":")[1].split(",")[0] for job in planned(workflow) if job.startswith("rl:")}
    assert arms == {"grpo", "aspo", "gamma_only"}


def test_scoring_reruns_scoring_and_no_training(workflow):
    for module in (workflow / "tir/scoring").glob("*.py"):
        append(module, "\n# changed\n")
    assert rules_of(planned(workflow)) <= {"scores", "table", "figure", "all"} and "scores" in rules_of(planned(workflow))


def test_the_rollout_loop_reruns_what_rolls_out(workflow):
    append(workflow / "tir/rollout.py", "\n# changed\n")
    jobs = rules_of(planned(workflow))
    assert {"rl", "traces"} <= jobs and not jobs & {"sft", "index"}


def test_touching_a_file_reruns_nothing(workflow):
    for part in ("aspo", "tir", "scripts"):
        for file in (workflow / part).rglob("*.py"):
            file.touch()
    (workflow / "config.yaml").touch()
    assert planned(workflow) == set()


def test_a_new_import_reruns_the_stages_that_import_it(workflow):
    (workflow / "tir/extra.py").write_text("VALUE = 1\n")
    assert planned(workflow) == set()
    append(workflow / "tir/judge/calibration.py", "\nimport tir.extra\n")
    assert rules_of(planned(workflow)) & {"index", "rl", "sft", "traces", "scores", "judge"} == {"judge", "scores"}


def test_a_run_records_the_code_it_ran(tmp_path):
    """A job that really ran is done; with one of its modules edited it is not, and says what changed."""
    directory = copy_workflow(tmp_path)
    (directory / ".venv").symlink_to(ROOT / ".venv")
    shutil.copytree(ROOT / "docs", directory / "docs")
    target = "results/table7.csv"
    snakemake(directory, "--cores", "1", target)
    assert "Nothing to be done" in snakemake(directory, "-n", target)
    append(directory / "tir/tables/training.py", "\n# changed\n")
    said = snakemake(directory, "-n", target)
    assert re.search(r"rule table7:", said) and re.search(r"before: .*scripts.make_table \w+.*now: .*scripts.make_table \w+", said)
    assert "tir/tables/training.py" not in said.partition("input:")[2].partition("\n")[0]


def test_configuration_models_rerun_nothing_but_what_reads_a_value_they_change(workflow):
    for module in (workflow / "tir/config").glob("*.py"):
        append(module, "\n# changed\n")
    edit(workflow / "tir/config/training.py", "clip_ratio: float = Field(0.2,", "clip_ratio: float = Field(0.3,")
    assert planned(workflow) == set()  # config.yaml states it
    edit(workflow / "config.yaml", "  clip_ratio: 0.2\n", "")
    jobs = rules_of(planned(workflow))
    assert "rl" in jobs and not jobs & {"sft", "index"}


def test_waiting_longer_makes_nothing_again_and_reaches_the_job(workflow):
    """Time-outs and how much is done at once decide no result: they are in a job's command, not among its parameters."""
    edit(workflow / "config.yaml", "search: {timeout_s: 60}",
         "search: {timeout_s: 61}\n  web_search: {retry_budget_s: 601}")
    edit(workflow / "config.yaml", "python: {memory_mb: 2048}", "python: {memory_mb: 2048, queue_timeout_s: 602, workers: 3}")
    assert planned(workflow) == set()
    command = snakemake(workflow, "-n", "-p", "--force", "traces/sft/musique.jsonl")
    given = json.loads(re.search(r"generate_traces .*--operation '([^']+)'", command)[1])["tools"]
    assert given["search"]["timeout_s"] == 61 and given["web_search"]["retry_budget_s"] == 601
    assert given["python"] == {"queue_timeout_s": 602, "recycle_after": 10_000, "workers": 3}
    assert "queue_timeout_s" not in re.search(r"generate_traces .*--params '([^']+)'", command)[1]

    edit(workflow / "config.yaml", "python: {memory_mb: 2048", "python: {timeout_s: 6, memory_mb: 2048")
    assert {"traces", "rl"} <= rules_of(planned(workflow))


def test_a_benchmark_is_one_entry_and_trains_nothing_if_told(workflow):
    entry = "  later: {label: Later, task: math, metric: em, kept_from_validation: false, source: {kind: local, path: later.jsonl}}\n"
    edit(workflow / "config.yaml", "benchmarks:\n", "benchmarks:\n" + entry)
    assert {"traces", "scores"} <= rules_of(planned(workflow)) and "rl" not in rules_of(planned(workflow))
    assert "benchmarks/later.jsonl" not in snakemake(workflow, "-n", "--forcerun", "world").partition("rule world:")[2].partition("log:")[0]
    edit(workflow / "config.yaml", "kept_from_validation: false, ", "")  # its questions may be among the validation rows
    assert "rl" in rules_of(planned(workflow))


def test_an_arm_is_one_entry(workflow):
    append(workflow / "config.yaml", "")
    edit(workflow / "config.yaml", "  beta_only:", "  bold: {base: aspo, lambda: 0.9}\n  beta_only:")
    assert planned(workflow) == set()
    seed = 1
    text = snakemake(workflow, "-n", f"scores/bold-step{last_step(workflow)}-seed{seed}/gsm8k.jsonl")
    assert re.search(r"rule rl:", text) and "arm=bold" in text


TOOL = '''"""Tells the day of the week."""
import asyncio, contextlib, datetime
from tir.schema import Model
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
    assert [tools["day"] for tools in given if "day" in tools] == [{"language": "de"}]  # not gsm8k's, which does not call it
    answer = subprocess.run([ROOT / ".venv/rl/bin/python", "-c", "import asyncio\nfrom tir.tools.registry import *\n"
                             "with make_tools(['day'], {'day': {'language': 'de'}}, None) as tools:\n"
                             "    print(asyncio.run(by_tag(tools, ['day'])['search'].call('2024-02-29')).text)"],
                            cwd=workflow, text=True, capture_output=True)
    assert answer.stdout == "Thursday\n", answer.stderr

    finish(workflow)
    append(workflow / "tir/tools/day_tool.py", "\n# changed\n")
    again = planned(workflow)
    assert "rl" in rules_of(again)  # trains on qa
    assert "traces:sft,musique" in again and "traces:sft,gsm8k" not in again

    edit(workflow / "profiles/laptop/tiny.yaml", "qa: [python, day]", "qa: [search, day]")
    refused = subprocess.run([SNAKEMAKE, "--profile", "profiles/laptop", "-n"], cwd=workflow, text=True, capture_output=True)
    assert "routes.qa has search and day, which answer the same tag, <search>; keep one" in refused.stdout + refused.stderr


def test_a_tools_code_makes_only_what_calls_it(workflow):
    for module in ("tools/web_search_tool.py", "websearch/cassette.py"):
        append(workflow / "tir" / module, "\n# changed\n")
    assert planned(workflow) == set()  # no benchmark of the laptop's searches the web
    append(workflow / "tir/tools/python_tool.py", "\n# changed\n")
    assert {"traces", "rl"} <= rules_of(planned(workflow))


def last_step(directory: Path) -> int:
    return yaml.safe_load((directory / "profiles/laptop/tiny.yaml").read_text())["rl"]["steps"]


def test_an_edited_local_file_is_taken_again(workflow):
    mine = workflow / "mine.jsonl"
    mine.write_text('{"question": "q", "answer": "a"}\n')
    model = workflow / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}")
    overlay = yaml.safe_load((workflow / "profiles/laptop/tiny.yaml").read_text())
    overlay["benchmarks"]["gsm8k"]["source"] = {"kind": "local", "path": "mine.jsonl"}
    overlay["model"]["base"] = {"kind": "local", "path": "mine"}
    (workflow / "profiles/laptop/tiny.yaml").write_text(yaml.safe_dump(overlay))
    finish(workflow)
    append(mine, '{"question": "r", "answer": "b"}\n')
    again = planned(workflow)
    assert "fetch:benchmarks/gsm8k.jsonl" in again and "fetch_model:base" not in again
    finish(workflow)
    (model / "model.safetensors").write_bytes(b"")
    assert "fetch_model:base" in planned(workflow)
