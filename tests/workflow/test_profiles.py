"""Profiles: GPU types and resources of a plan come from the profile, and values from the command line."""

import json
import re
import subprocess

import pytest
import yaml
from support.paths import ROOT, SNAKEMAKE

pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


def gpus(profile: str) -> dict[str, str]:
    """GPUs per job of each stage, from the table at the end of a dry run."""
    done = subprocess.run(
        [SNAKEMAKE, "--profile", profile, "-n", "results/table5.csv", "judge/published/gsm8k.jsonl"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plan = done.stderr.rpartition("\nPlan\n")[2]
    return {row[1]: row[2] for row in re.finditer(r"^(\w+) +\d+ +(\d+ x \w+)", plan, re.M)}


@pytest.mark.parametrize(
    "profile, one, four, eight",
    [
        ("slurm", {"index": "1 x h200", "traces": "1 x a10g"}, "4 x h100", "8 x h100"),
        ("tests/workflow/profiles/a100", {"index": "1 x a100", "traces": "1 x a100"}, "4 x a100", "8 x a100"),
    ],
)
def test_stages_request_the_gpus_of_the_profile(profile, one, four, eight, tmp_path):
    assert gpus(profile) == {**one, "judge": four, "sft": eight, "rl": eight}


@pytest.mark.parametrize(
    "profile, resource, fault",
    [
        ("profiles/laptop", "trace:mem_mb=1", "set-resources: trace; did you mean `traces`?"),
        ("slurm", "sft:gres='gpu:h100:6'", "sft: 6 GPUs do not divide a step: sft.batch_rows is 128"),
    ],
    ids=["an unknown rule", "GPUs that do not divide the effective batch"],
)
def test_set_resources_that_do_not_fit_are_refused_in_the_plan(profile, resource, fault):
    done = subprocess.run(
        [SNAKEMAKE, "--profile", profile, "-n", "results/table5.csv", "--set-resources", resource],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode != 0
    assert fault in done.stdout + done.stderr


def test_numbers_in_nested_values_of_the_command_line_are_numbers():
    done = subprocess.run(
        [
            SNAKEMAKE,
            "--profile",
            "profiles/laptop",
            "-n",
            "-p",
            "runs/sft/medium/log.jsonl",
            "--quiet",
            "host",
            "--config",
            "sft_pilots={medium: {max_rows: 800, epochs: 4}}",
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    given = json.loads(re.search(r"train_sft .*--run-dir runs/sft/medium .*--params '([^']+)'", done.stdout)[1])
    assert (given["sft"]["max_rows"], given["sft"]["epochs"]) == (800, 4)


def test_with_a_judge_endpoint_the_judges_weights_are_not_fetched():
    def models(*more: str) -> set[str]:
        done = subprocess.run(
            [SNAKEMAKE, "--profile", "slurm", "-n", "judge/published/gsm8k.jsonl", "--quiet", "host", *more],
            cwd=ROOT,
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return set(re.findall(r"output: models/(\w+)/manifest.json", done.stdout))

    index = {"encoder"}  # the rollouts search, so the index is built
    assert models() == {"published", "judge"} | index
    assert models("--config", "site={judge_endpoint: 'http://127.0.0.1:1'}") == {"published"} | index


def test_a_table_of_fetched_models_trains_nothing_and_builds_no_index(tmp_path):
    """What docs/evaluate.md promises; a prompt with braces is no pattern of Snakemake's."""
    stated = [
        f"models={{mine: {{kind: local, path: {tmp_path}}}}}",
        "data={prompt: 'Answer in \\boxed{42}.'}",
        "tables={eval: {rows: [{model: mine}], benchmarks: [gsm8k, math500]}}",
    ]
    command = [SNAKEMAKE, "--profile", "profiles/laptop", "results/eval.csv", "-n", "--forceall", "--quiet", "host"]
    done = subprocess.run([*command, "--config", *stated], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout.partition("Job stats:")[2], re.M))
    assert jobs == {
        "fetch": "2",
        "fetch_model": "1",
        "system_prompt": "1",
        "world": "1",
        "traces": "2",
        "scores": "2",
        "eval": "1",
        "total": "10",
    }


def plan_of(*arguments: str) -> str:
    """The table at the end of a dry run of Table 5."""
    command = [SNAKEMAKE, *arguments, "-n", "--", "results/table5.csv"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr.rpartition("\nPlan\n")[2]


def workstation(model: str, number: int, *files: str) -> list[str]:
    configuration = [f"profiles/workstation/{name}" for name in ("site.yaml", *files)]
    resources = [
        "--resources",
        f"gpu={number}",
        "mem_mb=200000",
        "downloads=100",
        "--default-resources",
        f"gpu_model='{model}'",
    ]
    return ["--profile", "workstation", *resources, "--configfile", *configuration]


def test_on_a_workstation_training_takes_all_gpus_and_the_other_stages_one():
    text = plan_of(*workstation("a100", 4))
    assert (
        dict(re.findall(r"^(\w+) +\d+ +(\d+) x a100", text, re.M)).items()
        >= {
            "index": "1",
            "rl": "4",
            "sft": "4",
            "traces": "1",
        }.items()
    )


def test_a_judge_that_needs_more_gpus_than_the_machine_has_is_refused_only_if_a_target_needs_it():
    def plan(target: str, *config: str) -> subprocess.CompletedProcess[str]:
        command = [SNAKEMAKE, "--profile", "workstation", "--resources", "gpu=2", "-n", "--quiet", "host"]
        more = ["--config", *config] if config else []
        return subprocess.run([*command, *more, "--", target], cwd=ROOT, text=True, capture_output=True)

    verdicts = "judge/published/gsm8k.jsonl"
    refused = plan(verdicts)
    assert refused.returncode != 0
    assert re.search(r"judge.gpus: .*: 4; .*gpu=2\.\n +try: judge: {gpus: 2}", refused.stdout + refused.stderr)
    for accepted in (plan("results/table5.csv"), plan(verdicts, "judge={gpus: 2}")):
        assert accepted.returncode == 0, accepted.stdout + accepted.stderr


@pytest.mark.parametrize("gpus, accepted", [(None, False), ("GPU-c3", True)])
def test_a_plan_whose_retrieval_server_would_use_the_gpus_of_the_jobs_is_refused(gpus, accepted):
    server = json.dumps({"retrieval_server": {"runs_on": "local", "gpus": gpus}})
    command = [SNAKEMAKE, "--profile", "workstation", "--resources", "gpu=4", "-n", "--quiet", "host"]
    command += ["--config", f"site={server}", "--", "results/table5.csv"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode == 0) is accepted, done.stdout + done.stderr
    assert accepted or "site.retrieval_server.gpus: the retrieval server would use" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "model, files",
    [("a100", ["one-gpu.yaml"]), ("a10g", ["one-gpu.yaml", "one-gpu-24gb.yaml"])],
)
def test_the_reduction_for_one_gpu_fits_into_its_memory_and_a_day(model, files):
    """The page states the memory and the hours of the plan."""
    text = plan_of(*workstation(model, 1, *files))
    assert "needs more than" not in text
    hours = float(re.search(r"^total +\d+ +([\d.]+)", text, re.M)[1])
    assert hours < 24
    needed = max(int(each) for each in re.findall(r"^\w+ +\d+ +1 x \w+ +[\d.]+ +(\d+)", text, re.M))
    named = re.escape(" ".join(files))
    stated = re.search(rf"\| `{named}`[^|]*\| (\d+) \| (\d+) \|", (ROOT / "docs/first-run.md").read_text())
    assert [int(each) for each in stated.groups()] == [needed, round(hours)]


@pytest.mark.parametrize("file", ["docs/first-run.md", "profiles/workstation/one-gpu.yaml"])
def test_a_stated_command_that_replaces_the_resources_of_the_profile_names_all_of_them(file):
    text = re.sub(r"\\\n[# ]*", "", (ROOT / file).read_text())
    (command,) = re.findall(r"^#?\s*(snakemake --profile workstation --resources .*)$", text, re.M)
    stated = re.search(r"--resources ([^-]*) --", command)[1].split()
    profile = yaml.safe_load((ROOT / "profiles/workstation/config.yaml").read_text())["resources"]
    names = lambda resources: [each.partition("=")[0] for each in resources]  # noqa: E731
    assert names(stated) == names(profile)
    done = subprocess.run([SNAKEMAKE, "-n", *command.split()[1:]], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plan_says_that_the_papers_model_does_not_fit_on_a_small_gpu():
    text = plan_of(*workstation("a10g", 1, "one-gpu.yaml"))
    assert "rl needs more than the 24 GB of one a10g" in text and "sft needs more than" in text


def test_the_commands_of_gpu_stages_get_devices_on_a_workstation_and_only_there():
    def commands(*profile: str) -> str:
        command = [SNAKEMAKE, *profile, "-n", "-p", "--quiet", "host", "--", "results/table5.csv"]
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    there, cluster = commands(*workstation("a100", 4)), commands("--profile", "slurm")
    assert "scripts.with_gpus 4 .venv/cuda-sft/bin/python -m scripts.train_sft" in there
    assert "scripts.with_gpus 1 .venv/cuda-rl/bin/python -m scripts.generate_traces" in there
    assert "scripts.with_gpus" not in cluster


def test_a_rehearsal_plans_every_stage_on_real_files():
    command = [SNAKEMAKE, "--profile", "profiles/rehearsal", "-n", "--", "results/table5.csv"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    missing = "missing input files" in (done.stdout + done.stderr).lower()
    if missing and not (ROOT / ".venv/qwen/qwen.tiktoken").exists():
        pytest.skip("no .venv/qwen/qwen.tiktoken: run `make rehearsal`")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout.partition("Job stats:")[2], re.M))
    assert jobs["fetch"] == "12" and {"rehearsal_rows", "index", "sft", "rl", "traces", "scores"} <= set(jobs)
