"""`make demo` prints a line per finished job with the time left, and the end of a failed job's log."""

import os
import re
import subprocess

import pytest
from support.paths import ROOT, SNAKEMAKE

from tir.common.subprocesses import tail
from tir.workflow.progress import TYPICAL, Progress, duration


class Run:
    """A run with a clock that the test sets, and the printed lines."""

    def __init__(self, jobs: dict[str, int], cores: int = 2):
        self.now, self.lines = 0.0, []
        self.progress = Progress(self.lines.append, lambda: self.now)
        self.progress.plan(jobs, cores)

    def job(self, number: int, rule: str, seconds: float, cores: int = 1, **wildcards) -> str:
        """Run a job; returns its line."""
        self.progress.start(number, rule, wildcards, [], cores)
        self.now += seconds
        self.progress.finish(number)
        return self.lines[-1]

    def left(self) -> int:
        """Minutes left according to the last line."""
        return int(re.search(r"about (\d+) min left", self.lines[-1])[1])


def test_a_finished_job_is_a_line_with_its_time_and_the_time_left():
    run = Run({"sft": 1, "rl": 2, "table5": 1})
    seconds, cores = TYPICAL["rl"]
    assert run.lines == [f"[0/4] 4 jobs, about {round((TYPICAL['sft'][0] + 2 * seconds * cores) / 2 / 60)} min left"]
    assert run.job(7, "sft", 110.0, run="full").startswith("[1/4] sft full took 1:50; 1:50 elapsed, about 11 min left")
    run.job(8, "rl", seconds, cores, arm="grpo", seed=1)
    assert run.lines[-1].startswith("[2/4] rl grpo/1 took 5:40; 7:30 elapsed, about 6 min left")
    run.job(9, "rl", seconds, cores, arm="aspo", seed=1)
    assert run.job(1, "table5", 3.0) == "[4/4] table5 took 0:03; 13:13 elapsed"


def test_a_slow_machine_has_more_time_left():
    slow, typical = Run({"index": 1, "sft": 3, "rl": 3}), Run({"index": 1, "sft": 3, "rl": 3})
    for run, factor in ((slow, 3.0), (typical, 1.0)):
        run.job(1, "index", factor * TYPICAL["index"][0], cores=2)
    assert typical.left() < slow.left() < 1.5 * typical.left()  # a job of seconds says little
    for run, factor in ((slow, 3.0), (typical, 1.0)):
        for number in range(3):
            run.job(number, "sft", factor * TYPICAL["sft"][0])
    assert slow.left() == pytest.approx(2.5 * typical.left(), rel=0.1)


def test_measured_jobs_replace_what_is_typical():
    run = Run({"index": 1, "traces": 40})
    run.job(1, "index", TYPICAL["index"][0], cores=2)
    assert run.left() == round(40 * TYPICAL["traces"][0] / 2 / 60)
    for number in range(10):
        run.job(number, "traces", 10.0)
    assert 30 * 10 / 2 / 60 <= run.left() <= 2 * 30 * 10 / 2 / 60


def test_a_quiet_minute_says_what_the_longest_job_is_at(tmp_path):
    (tmp_path / "rl.log").write_text("starting\nrl: step 12/20, reward 0.41\n\n")
    run = Run({"rl": 1, "scores": 1})
    run.progress.start(3, "rl", {"arm": "aspo", "seed": "1"}, [str(tmp_path / "rl.log")], 2)
    run.now = 59.0
    run.progress.wait()
    assert len(run.lines) == 1
    run.now = 61.0
    run.progress.wait()
    assert run.lines[1:] == [
        "[0/2] rl aspo/1 is running, 1:01 so far (rl: step 12/20, reward 0.41); 1:01 elapsed, about 5 min left"
    ]
    run.now = 90.0
    run.progress.wait()
    assert len(run.lines) == 2


def test_durations_and_ends_of_logs(tmp_path):
    assert [duration(seconds) for seconds in (4.4, 255, 3855)] == ["0:04", "4:15", "1:04:15"]
    (tmp_path / "long.log").write_text("".join(f"{number}\n" for number in range(10_000)))
    assert tail(tmp_path / "long.log", 2) == ["9998", "9999"] and tail(tmp_path / "none.log", 2) == []


SNAKEFILE = """
rule all:
    input: expand("{name}.txt", name=["good", config["other"]])

rule make:
    input: lambda w: [] if w.name == "good" else "good.txt"
    output: "{name}.txt"
    log: "logs/{name}.log"
    shell:
        "(echo working; test {wildcards.name} != bad || {{ echo DataError: no rows; exit 1; }}) 2>&1 | tee {log}; "
        "touch {output}"
"""


@pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")
def test_snakemake_prints_these_lines_and_keeps_the_rest_for_its_log(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "envs/plugins")}

    def run(other: str) -> list[str]:
        command = [SNAKEMAKE, "--logger", "stages", "--cores", "1", "--config", f"other={other}"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
        return done.stderr.splitlines()

    failed = run("bad")
    assert failed[0] == "[0/3] 3 jobs, less than a minute left"
    at = failed.index("the end of logs/bad.log:")
    assert re.fullmatch(r"\[[01]/3\] FAILED: make bad", failed[at - 1])
    assert failed[at + 1 : at + 3] == ["    working", "    DataError: no rows"]
    assert not any("localrule" in line or "set -e" in line for line in failed)
    (log,) = (tmp_path / ".snakemake/log").glob("*.log")
    assert "localrule make:" in log.read_text() and any(str(log) in line for line in failed)

    finished = run("well")
    assert re.fullmatch(r"\[\d/\d\] make well took 0:0\d; 0:0\d elapsed, less than a minute left", finished[-3])
    assert re.fullmatch(r"\[(\d)/\1\] all took 0:0\d; 0:0\d elapsed", finished[-2])
    assert run("well")[-1].startswith("Nothing to be done")
