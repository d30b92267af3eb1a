"""Values that the rules read from Snakemake's objects, and the versions of Snakemake that this is tested with."""

import json
import re
import shutil
import subprocess

import pytest
from support.paths import ROOT, SNAKEMAKE
from support.workflow_copy import copy_workflow, edit, planned

pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A plan at the paper's scale: Snakemake's output, and the contents of `.snakemake/preflight.json`."""
    directory = copy_workflow(tmp_path_factory.mktemp("plan"))
    shutil.copytree(ROOT / "containers", directory / "containers")
    done = subprocess.run(
        [SNAKEMAKE, "--profile", "profiles/slurm", "-n", "--cores", "1000", "results/table5.csv"],
        cwd=directory,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr, json.loads((directory / ".snakemake/preflight.json").read_text())


def test_the_wrong_working_directory_and_a_repeated_key_are_one_message(tmp_path):
    def error(*arguments, directory):
        command = [SNAKEMAKE, "-s", ROOT / "Snakefile", "-n", *arguments]
        done = subprocess.run(command, cwd=directory, text=True, capture_output=True)
        assert done.returncode == 1
        return done.stdout + done.stderr

    assert f"{tmp_path} is not the folder of this workflow: cd {ROOT}\n" in error(directory=tmp_path)
    (tmp_path / "mine.yaml").write_text("rl: {steps: 3}\nrl: {rows: 5}\n")
    files = ["profiles/slurm/site.yaml", tmp_path / "mine.yaml"]
    assert "mine.yaml:2: a key is written twice" in error("--configfile", *files, directory=ROOT)


def test_a_plan_ends_with_totals(plan):
    text, _ = plan
    totals = text.rpartition("\nPlan\n")[2].splitlines()
    listed = len(re.findall(r"^(?:local)?rule \w+:", text, re.M))
    assert listed > 100 and re.search(rf"^total +{listed} +[\d,.]+ +[\d,.]+$", "\n".join(totals), re.M)
    assert totals[-1].startswith("disk: ")


def test_jobs_get_the_runtime_memory_and_partition_of_the_profile(plan):
    requested = {
        rule: dict(part.split("=", 1) for part in resources.split(", "))
        for rule, resources in re.findall(r"^(?:local)?rule (\w+):.*?resources: ([^\n]*)", plan[0], re.M | re.S)
    }
    training = {"slurm_partition": "gpu", "gres": "gpu:h100:8", "mem_mb": "400000", "runtime": "240"}
    assert training.items() <= requested["sft"].items()
    assert {"slurm_partition": "cpu", "mem_mb": "4000", "runtime": "30"}.items() <= requested["scores"].items()


def test_the_lines_for_accounts_qos_and_clusters_without_accounting_work_as_they_stand(tmp_path):
    """The comments of the shipped profile, without their #: every job has them, and the executor knows its options."""
    directory = copy_workflow(tmp_path)
    shutil.copytree(ROOT / "containers", directory / "containers")
    named = "slurm_account|qos|slurm-status-command|slurm-init-seconds-before-status-checks|sbatch"
    for name, count in (("config.yaml", 5), ("site.yaml", 1)):
        path = directory / "profiles/slurm" / name
        replaced = re.sub(r"^ *sbatch: .*\n", "", path.read_text(), flags=re.M)  # by the line in the comment
        text, lines = re.subn(rf"^( *)# ((?:{named}):)", r"\1\2", replaced, flags=re.M)
        assert lines == count
        path.write_text(text)
    command = [SNAKEMAKE, "--profile", "profiles/slurm", "-n", "--cores", "1000", "results/table5.csv"]
    done = subprocess.run(command, cwd=directory, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = re.findall(r"^rule (\w+):.*?resources: ([^\n]*)", done.stdout, re.M | re.S)
    assert {"sft", "rl", "traces", "scores"} <= {rule for rule, _ in jobs}
    for rule, resources in jobs:
        qos = "long" if rule == "rl" else "normal"
        assert {"slurm_account=my-lab", f"qos={qos}"} <= set(resources.split(", ")), rule
    needs = json.loads((directory / ".snakemake/preflight.json").read_text())
    assert needs["sbatch"][:2] == ["--account=my-lab", "--qos=normal"]
    code = (
        "from types import SimpleNamespace as Values\n"
        "from snakemake_executor_plugin_slurm.submit_string import get_submit_command\n"
        "job = Values(resources={'qos': 'long', 'gres': 'gpu:h100:8'}, threads=1)\n"
        "names = ('run_uuid', 'slurm_logfile', 'comment_str', 'partition', 'workdir')\n"
        "print(get_submit_command(job, dict.fromkeys(names, '') | {'account': '-A my-lab'}))\n"
    )
    done = subprocess.run([SNAKEMAKE.with_name("python"), "-c", code], text=True, capture_output=True)
    assert " -A my-lab " in done.stdout and " --qos=long " in done.stdout, done.stderr


def test_downloads_come_before_the_jobs_with_a_gpu(plan):
    """A download takes all of the resource `downloads` and is scheduled first; a job with a GPU needs some of it."""
    for rule, job in re.findall(r"^(?:local)?rule (\w+):(.*?resources: [^\n]*)", plan[0], re.M | re.S):
        taken = re.search(r"downloads=(\d+)", job)
        if rule in ("fetch", "fetch_model"):
            assert taken[1] == "100" and "priority: 1\n" in job
        else:
            assert bool(taken) == ("gres=gpu" in job), rule
    for profile in ("slurm", "workstation"):
        text = (ROOT / f"profiles/{profile}/config.yaml").read_text()
        assert re.search(r"^resources: .*downloads=100", text, re.M)


def test_a_plan_writes_the_input_of_the_preflight_checks(plan):
    _, needs = plan
    stages = {stage.pop("rule"): stage for stage in needs["stages"]}
    assert stages["index"] == {
        "partition": "gpu",
        "gres": "gpu:h200:1",
        "cpus": 16,
        "memory_mb": 160000,
        "most_memory_mb": 480000,  # 160000 * attempt, and `retries: 2`
        "needs_gpu": True,
    }
    assert {"sft", "rl", "traces", "scores"} <= set(stages) and not stages["scores"]["needs_gpu"]
    assert needs["slurm"] and needs["containers"] and needs["disk_gb"] > 100
    assert "--gres=gpu:h200:1" in needs["sbatch"]
    paths = {source["path"] for source in needs["sources"]}
    assert {"data/sft.json", "models/base", "models/encoder"} <= paths and "models/judge" not in paths


def test_a_run_keeps_a_folder_for_its_retrieval_server_only_if_a_job_searches(workflow):
    """The inputs are empty files, so the jobs themselves fail at once. The setting runs nothing again."""
    edit(workflow / "profiles/laptop/site.yaml", "site:\n", "site:\n  retrieval_server: {runs_on: local, queue_s: 7}\n")
    assert planned(workflow) == set()
    for rule, searches in (("table12", False), ("retrieval_smoke", True)):
        options = ["--profile", "profiles/laptop", "--cores", "1", "--printshellcmds", "--forcerun", rule, "--"]
        done = subprocess.run(
            [SNAKEMAKE, *options, f"results/{rule}.csv"], cwd=workflow, text=True, capture_output=True
        )
        assert done.returncode and f"rule {rule}:" in done.stderr
        assert (workflow / ".snakemake/retrieval").exists() == searches
    assert not list((workflow / ".snakemake/retrieval").iterdir())  # the folder of the run is gone with it
    assert re.search(r'"queue_s":7.0,"run":".snakemake/retrieval/[^"]+"', done.stderr)


def test_the_documented_versions_of_snakemake_are_the_tested_ones():
    oldest, *_, newest = re.search(r"SNAKEMAKE_VERSIONS := (.*)", (ROOT / "Makefile").read_text())[1].split()
    minimum = oldest.removesuffix(".0")
    assert f'min_version("{minimum}")' in (ROOT / "Snakefile").read_text()
    assert f"your own from version {minimum} on" in (ROOT / "docs/cluster.md").read_text()
    assert f"snakemake=={newest}\n" in (ROOT / "envs/cpu/workflow.in").read_text()
