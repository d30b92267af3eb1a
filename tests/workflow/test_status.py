"""`make status`: jobs, states and progress from the files of a run and from Slurm, in less than two seconds."""

import os
import re
import subprocess
import sys
import time
from datetime import datetime

import pytest
from support.paths import ROOT, SNAKEMAKE

from tir.workflow import status

NOW = datetime(2026, 11, 30, 10, 30, 0)
# As snakemake 9.27 and its executor for Slurm 2.8 write it.
LOG = """Building DAG of jobs...
Job stats:
job        count
-------  -------
all            1
rl             2
scores         3
sft            1
traces         3
total         10

Select jobs to execute...
Execute 4 jobs...
[Mon Nov 30 10:00:00 2026]
rule sft:
    input: models/base/manifest.json, data/sft.json
    output: runs/sft/full/models, runs/sft/full/log.jsonl
    log: logs/sft/full.log
    jobid: 3
    benchmark: benchmarks/sft/full.tsv
    reason: Missing output files: runs/sft/full/models
    wildcards: run=full
    threads: 16
    resources: mem_mb=400000, gres='gpu:h100:8', slurm_partition=gpu
Job 3 has been submitted with SLURM jobid 101 (log: /work/.snakemake/slurm_logs/rule_sft/101.log).
[Mon Nov 30 10:01:00 2026]
rule traces:
    log: logs/traces/sft/gsm8k.log
    jobid: 7
    wildcards: size=, model=sft, benchmark=gsm8k
    resources: gres='gpu:h100:1'
Job 7 has been submitted with SLURM jobid 102 (log: /work/.snakemake/slurm_logs/rule_traces/102.log).
[Mon Nov 30 10:02:00 2026]
rule traces:
    log: logs/sampled/traces/sft/math500.log
    jobid: 8
    wildcards: size=sampled/, model=sft, benchmark=math500
    resources: gres='gpu:h100:1'
Job 8 has been submitted with SLURM jobid 103 (log: /work/.snakemake/slurm_logs/rule_traces/103.log).
[Mon Nov 30 10:03:00 2026]
rule scores:
    log: logs/scores/sft/gsm8k.log
    jobid: 9
    wildcards: size=, model=sft, benchmark=gsm8k
[Mon Nov 30 10:04:00 2026]
Finished jobid: 9 (Rule: scores)
1 of 10 steps (10%) done
[Mon Nov 30 10:20:00 2026]
Error in rule traces:
    message: SLURM-job '103' failed, SLURM status is: 'OUT_OF_MEMORY'. Reason: Unknown.
    jobid: 8
    log: logs/sampled/traces/sft/math500.log (check log file(s) for error details)
    external_jobid: 103
"""
SFT = "sft: step 5/1239, loss 4.9847, 30 s, 4000 s left\n"
TRACES = "[model] 7/8 of it \x1b[31m\n12/40 trajectories, 2.0/s, 90 s left\nanother line\n"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / ".snakemake/log"
    folder.mkdir(parents=True)
    (folder / "2026-11-29T100000.000000.snakemake.log").write_text("older\n")
    (folder / "2026-11-30T100000.000000.snakemake.log").write_text(LOG)
    for name, text in (("sft/full", SFT), ("traces/sft/gsm8k", TRACES), ("sampled/traces/sft/math500", "oom\n")):
        path = tmp_path / f"logs/{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs of Slurm that print the given text, or run the given shell command; no other program is on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def add(name, text="", command=":"):
        path = programs / name
        path.write_text(f"#!/bin/sh\n{command}\n/bin/cat <<'END'\n{text}END\n")
        path.chmod(0o755)

    return add


def shown(root):
    run = status.read(status.newest_log(root / ".snakemake/log").read_text().splitlines(keepends=True))
    notes = status.ask_slurm(run)
    return status.report(run, notes, now=NOW, root=root)


def line(text, name):
    return next(row for row in text.splitlines() if row.startswith(name))


def test_a_job_has_its_state_node_progress_and_time_left(root, slurm):
    slurm("squeue", "101|RUNNING|3:10:00|node07|gres/gpu:h100:8|None\n102|PENDING|1:00:00||gres/gpu:h100:1|Priority\n")
    text = shown(root)
    assert text.splitlines()[0] == (
        "1 of 9 jobs done, 1 running, 1 pending, 1 failed, 5 not started. Last event 10 min ago."
    )
    assert re.search(
        r"running +h100:8 node07 +step 5/1239, loss 4\.9847 +30 min +3:10:00 +sft: step", line(text, "sft")
    )
    waiting = line(text, "traces sft/gsm8k")
    assert re.search(r"pending +h100:1 +12/40 trajectories +Priority$", waiting)
    assert "not started: 2 rl, 2 scores, 1 traces" in text


def test_a_failed_job_is_shown_with_the_reason_and_the_end_of_its_log(root, slurm):
    slurm("squeue")
    text = shown(root)
    assert "FAILED: traces sampled/sft/math500: SLURM-job '103' failed, SLURM status is: 'OUT_OF_MEMORY'." in text
    assert "  the end of logs/sampled/traces/sft/math500.log:\n    oom" in text


def test_a_job_that_squeue_no_longer_has_is_looked_up_in_the_accounts(root, slurm):
    slurm("squeue", "101|RUNNING|3:10:00|node07|gres/gpu:h100:8|None\n")
    assert re.search(r"left queue", line(shown(root), "traces sft/gsm8k"))
    slurm("sacct", "102|COMPLETED|node09\n")
    assert re.search(r"completed +h100:1 node09", line(shown(root), "traces sft/gsm8k"))


@pytest.mark.parametrize("command, words", [
    (None, "There is no squeue on this machine"),
    ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "squeue failed: slurm_load_jobs"),
    ("/bin/sleep 30", "squeue did not answer within"),
])  # fmt: skip
def test_without_an_answer_of_slurm_the_rest_is_shown(root, slurm, command, words):
    if command:
        slurm("squeue", command=command)
    began = time.monotonic()
    text = shown(root)
    assert time.monotonic() - began < 10 and words in text
    assert re.search(r"not known +h100:8 +step 5/1239, loss 4\.9847", line(text, "sft"))


def test_a_line_of_a_log_cannot_write_to_the_terminal(root, slurm):
    (root / "logs/sft/full.log").write_text("a\x1b[2J\u202eb\n")
    assert "a·[2J·b" in shown(root) and "\x1b" not in shown(root)


def test_a_job_that_starts_again_is_running(root, slurm):
    log = status.newest_log(root / ".snakemake/log")
    again = "Trying to restart job 8.\n" + LOG[LOG.index("[Mon Nov 30 10:02") : LOG.index("Job 8 has")]
    log.write_text(LOG + again + "Job 8 has been submitted with SLURM jobid 110 (log: x).\n")
    slurm("squeue", "110|RUNNING|9:00|node01|gres/gpu:h100:1|None\n")
    text = shown(root)
    assert "FAILED" not in text and "running" in line(text, "traces sampled/sft/math500")


@pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")
def test_a_real_run_on_one_machine_while_it_goes_on_and_after_its_end(tmp_path):
    (tmp_path / "Snakefile").write_text("""
rule all:
    input: "good.txt", "slow_1.txt", "bad.txt"
rule good:
    output: "good.txt"
    shell: "touch {output}"
rule slow:
    output: "slow_{n}.txt"
    log: "logs/slow_{n}.log"
    shell: "echo '3/40 trajectories, 1/s, 75 s left' > {log}; while test ! -e go; do sleep 0.1; done; touch {output}"
rule bad:
    output: "bad.txt"
    log: "logs/bad.log"
    shell: "(echo 'DataError: no such file'; exit 1) | tee {log}; exit 1"
""")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen([SNAKEMAKE, "-c3", "--keep-going"], cwd=tmp_path, **quiet)
    try:
        for _ in range(100):
            text = command(tmp_path)
            if "FAILED: bad" in text and "1 of 3 jobs done" in text and "3/40" in text:
                break
            time.sleep(0.2)
        assert re.search(r"running .*3/40 trajectories +\d+ s +~1 min", line(text, "slow 1")), text
        assert "    DataError: no such file" in text and "Last event" in text
    finally:
        (tmp_path / "go").touch()
        run.wait(60)
    assert command(tmp_path).startswith("2 of 3 jobs done, 1 failed. The run has ended, ")


def command(root) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.status", "--root", root], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def test_a_log_of_a_large_plan_is_read_quickly(root):
    inputs = "    input: " + ", ".join(f"scores/model{number}/gsm8k.jsonl" for number in range(150)) + "\n"
    one = "[Mon Nov 30 10:03:00 2026]\nrule scores:\n" + inputs + "    jobid: {0}\n    wildcards: model=m{0}\n"
    text = LOG + "".join(one.replace("{0}", str(number)) for number in range(100, 3100))
    status.newest_log(root / ".snakemake/log").write_text(text)
    before = os.times()
    found = command(root)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 2 and "3000" in found and "more jobs" in found


@pytest.mark.parametrize("end", ["    jobid: ", "    jobid: 1", "[Mon Nov 30 10:2", "rule tra", "Finished jobid: 3"])
def test_a_line_that_is_being_written_is_left_for_the_next_time(end, root, slurm):
    slurm("squeue", "")
    log = status.newest_log(root / ".snakemake/log")
    begun = "[Mon Nov 30 10:21:00 2026]\nrule judge:\n"
    log.write_text(LOG + begun)
    before = shown(root)
    log.write_text(LOG + begun + end)
    assert shown(root) == before


def test_without_a_run_it_says_so(tmp_path):
    assert command(tmp_path).startswith(f"no run yet: {os.path.join(tmp_path, '.snakemake/log')}")
