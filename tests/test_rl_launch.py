"""The launcher of an RL run, which believes nothing unchecked, with a stand-in for verl; and the processes it starts and ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
from rl_inputs import TOOLS, rows_file

from tir.errors import CheckpointError, InfrastructureFault
from tir.records import read_json, read_jsonl
from tir.rl import launch, processes
from tir.rl.collect import delivered
from tir.rl.settings import RlSettings

ROOT = Path(__file__).resolve().parents[1]


FAKE_VERL = """
import json, os, sys, time
from pathlib import Path
plan = json.loads(os.environ["FAKE"])
run, log = Path(os.environ["TIR_RUN_DIRECTORY"]), open(os.environ["VERL_FILE_LOGGER_PATH"], "a")
checkpoints, given = run / "checkpoints", dict(argument.split("=", 1) for argument in sys.argv[1:])
tracker = checkpoints / "latest_checkpointed_iteration.txt"
start = int(tracker.read_text()) if tracker.exists() else 0
def trajectory(kind, step):
    record = {"index": 0, "session": 0, "ability": "math", "score": 1.0, "accuracy": 1.0, "fault": None, "bonus": False,
              "executed": {}, "finish": "answer"}
    with open(run / "records" / f"{kind}_{step}.{os.getpid()}.jsonl", "a") as file:
        file.write(json.dumps(record) + "\\n")
def row(step, **data):
    log.write(json.dumps({"step": step, "data": data}) + "\\n")
    log.flush()
slow = run / "slow_starts"
tried = int(slow.read_text()) if slow.exists() else 0
if tried < plan.get("slow_starts", 0):
    slow.write_text(str(tried + 1))
    print("Exception: The current node timed out during startup."); sys.exit(1)
if given["trainer.val_before_train"] == "true":
    trajectory("val", start)
    row(start, **{"val-core/m/reward/mean@1": 0.5})
for step in range(start + 1, int(given["trainer.total_training_steps"]) + 1):
    if step == plan.get("die_before"):
        print("SomeError: out of luck"); sys.exit(3)
    if step == plan.get("fault_before"):
        (run / "fault.json").write_text(json.dumps({"type": "SearchUnavailable", "text": "server gone", "infrastructure": True}))
        sys.exit(1)
    if step == plan.get("hang_before"):
        time.sleep(600)
    trajectory("train", step)
    if (step % int(given["trainer.save_freq"]) == 0 or step in plan.get("save_also", [])) and not plan.get("save_nothing"):
        saved = checkpoints / f"global_step_{step}" / "actor" / "huggingface"
        saved.mkdir(parents=True, exist_ok=True)
        (saved / "model.safetensors").write_bytes((run.parent / "weights").read_bytes())
        tracker.write_text(str(step))
        if step == plan.get("killed_in_export"):  # which comes after verl's own note
            os.kill(os.getpid(), 9)
        (run / "policies" / f"step{step}").mkdir(parents=True)
    if step == plan.get("killed_in_validation"):  # which comes before the log's line
        os.kill(os.getpid(), 9)
    row(step, **{"critic/score/mean": step / 10, "response_length/mean": 5.0})
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(settings, **plan)` trains with the stand-in; the plan says where it fails."""
    script = tmp_path / "fake_verl.py"
    script.write_text(FAKE_VERL)
    (tmp_path / "model").mkdir()
    (tmp_path / "weights").write_bytes(safetensors.serialize({}))
    data = rows_file(tmp_path / "rows.parquet", "1", "2", "3", "4")
    original = processes.start
    monkeypatch.setattr(processes, "start", lambda command, environment, directory, log: original(
        [sys.executable, str(script), *command[3:]], environment, directory, log))
    inputs = launch.RunInputs(tmp_path / "model", data, data, "system")

    def go(settings=RlSettings(tools=TOOLS, steps=4, save_every=2, rows=4, batch_prompts=2), stall_s=60.0, operation=None, **plan):
        monkeypatch.setenv("FAKE", json.dumps(plan))
        given = replace(inputs, operation=operation or {})
        return launch.train(settings, given, tmp_path / "run", stall_s=stall_s)

    go.directory, go.inputs, go.settings = tmp_path / "run", inputs, RlSettings(tools=TOOLS, steps=4, save_every=2, rows=4, batch_prompts=2)
    return go


def test_a_complete_run_leaves_metrics_policies_and_rollouts_only(run, capsys):
    assert [path.name for path in run()] == ["step2", "step4"]
    assert [row["step"] for row in read_jsonl(run.directory / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert len(read_jsonl(run.directory / "rollouts" / "train_4.jsonl")) == 1
    delivered(run.directory)
    assert not (run.directory / "checkpoints").exists() and not (run.directory / "records").exists()
    assert "step 3/4  score 0.300" in capsys.readouterr().err
    assert run(die_before=1) == [run.directory / "policies" / f"step{step}" for step in (2, 4)]  # nothing is run again


def test_a_failed_run_says_why_and_resumes_from_its_last_checkpoint(run):
    with pytest.raises(launch.TrainingFailed, match="SomeError: out of luck"):
        run(die_before=4)
    run()
    rows = read_jsonl(run.directory / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4] and rows[0]["val/test_score/m"] == 0.5
    starts = [row["step"] for row in read_jsonl(run.directory / "wall_clock.jsonl") if row["event"] == "start"]
    assert starts == [0, 2]
    assert all(len(read_jsonl(path)) == 1 for path in (run.directory / "rollouts").iterdir())  # no step counted twice


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_kill_while_a_policy_is_exported_costs_nothing(run, step):
    """At the first checkpoint, at one before a time limit, at the last: the policy is exported from what verl has saved."""
    with pytest.raises(launch.TrainingFailed):
        run(killed_in_export=step, save_also=[3])
    assert [path.name for path in run()] == ["step2", "step4"]
    assert (run.directory / "policies" / f"step{step}" / "model.safetensors").exists() or step == 3
    assert [row["event"] for row in read_jsonl(run.directory / "wall_clock.jsonl")].count("start") == (1 if step == 4 else 2)
    assert sorted(path.name for path in (run.directory / "rollouts").glob("train_*")) == [f"train_{n}.jsonl" for n in (1, 2, 3, 4)]


def test_a_checkpoint_without_weights_is_no_dead_end(run, capsys):
    with pytest.raises(launch.TrainingFailed):
        run(killed_in_export=2)
    shutil.rmtree(run.directory / "checkpoints" / "global_step_2")
    assert [path.name for path in run()] == ["step2", "step4"]
    assert "the checkpoint of step 2 is unusable" in capsys.readouterr().err


def test_what_fails_after_training_costs_no_training(run):
    """Snakemake takes the metrics away when a job fails, also when it fails after training, at a full disk."""
    run()
    (run.directory / "metrics.jsonl").unlink()
    run()
    assert len(read_jsonl(run.directory / "metrics.jsonl")) == 5
    assert [row["event"] for row in read_jsonl(run.directory / "wall_clock.jsonl")].count("start") == 1
    delivered(run.directory)
    (run.directory / "metrics.jsonl").unlink()  # somebody wants the run again
    run()
    assert [row["event"] for row in read_jsonl(run.directory / "wall_clock.jsonl")].count("start") == 1  # of a new directory
    assert len(read_jsonl(run.directory / "metrics.jsonl")) == 5


def test_a_step_killed_in_its_validation_has_its_score_and_is_named(run, capsys):
    with pytest.raises(launch.TrainingFailed):
        run(killed_in_validation=2)
    run()
    row = read_jsonl(run.directory / "metrics.jsonl")[2]
    assert row["step"] == 2 and row["critic/score/mean"] == 1.0 and "response_length/mean" not in row
    assert "no metrics of steps [2]" in capsys.readouterr().err


def test_another_index_or_another_rule_of_the_reward_is_another_run(run, tmp_path):
    def work(**changes):
        return launch._Run(run.settings, replace(run.inputs, **changes), run.directory, 1.0)._work()

    (tmp_path / "manifest.json").write_text("{}")
    assert work(index=tmp_path, endpoint="http://127.0.0.1:1") != work(endpoint="http://127.0.0.1:1")
    assert {"tir/answers/math.py", "tir/tools/python_tool.py", "tir/rl/overrides.py", "tir/rl/agent_loop.py"} <= set(work()["code"])
    assert not any(file.startswith("aspo/") for file in work()["code"])  # grpo
    assert work(operation={"tools": {}}) == work()


def test_waiting_longer_is_no_other_run(run):
    """After a fault of the search a longer time-out is set: the run goes on, and its tools are given it."""
    waiting = {"tools": {"search": {"timeout_s": 7.0}, "web_search": {"timeout_s": 8.0}}}
    with pytest.raises(launch.TrainingFailed):
        run(die_before=4)
    run(operation=waiting)
    starts = [row["step"] for row in read_jsonl(run.directory / "wall_clock.jsonl") if row["event"] == "start"]
    given = read_json(run.directory / "loop.json")["tools"]
    assert starts == [0, 2] and given["search"] == {"timeout_s": 7.0} and "web_search" not in given  # it has none


def test_an_infrastructure_fault_keeps_its_name(run):
    with pytest.raises(InfrastructureFault, match="SearchUnavailable: server gone"):
        run(fault_before=2)
    run()  # and is forgotten when the run succeeds


def test_a_slow_start_of_ray_is_tried_again(run, monkeypatch):
    monkeypatch.setattr(launch, "RETRY_WAIT_S", 0.0)
    with pytest.raises(launch.SlowStart, match="timed out during startup"):
        run(slow_starts=9)
    (run.directory / "slow_starts").unlink()
    run(slow_starts=2)
    assert [row["step"] for row in read_jsonl(run.directory / "metrics.jsonl")] == [0, 1, 2, 3, 4]


def test_success_without_a_checkpoint_is_a_failure(run):
    with pytest.raises(CheckpointError, match="step 4 was asked for"):
        run(save_nothing=True)


def test_a_hanging_run_ends_with_its_processes(run):
    with pytest.raises(InfrastructureFault, match="hangs"):
        run(hang_before=2, stall_s=3.0)
    scratch = [row for row in read_jsonl(run.directory / "wall_clock.jsonl") if row["event"] == "end"]
    assert scratch and not (run.directory / "scratch").exists()


def test_other_settings_or_taken_metrics_start_afresh(run):
    with pytest.raises(launch.TrainingFailed):
        run(die_before=4)
    run(replace(run.settings, learning_rate=0.5))
    starts = [row["step"] for row in read_jsonl(run.directory / "wall_clock.jsonl") if row["event"] == "start"]
    assert starts == [0]
    (run.directory / "metrics.jsonl").unlink()  # as Snakemake does before it runs a rule again
    run(replace(run.settings, learning_rate=0.5))
    assert len(read_jsonl(run.directory / "wall_clock.jsonl")) == len([0, 1, 2, 3, 4]) + len(["start", "ready", "end"])


def test_without_a_retrieval_server_no_route_leads_to_search():
    settings = RlSettings(tools={**TOOLS, "routes": {"math": ["python", "search"], "qa": ["search"]}})
    inputs = launch.RunInputs(Path("m"), Path("t"), Path("v"), "")
    assert launch._tools(settings, inputs)["routes"] == {"math": ["python"], "qa": []}
    assert launch._tools(settings, replace(inputs, endpoint="http://h:1"))["routes"]["qa"] == ["search"]


# --- processes ------------------------------------------------------------------------------------------------------


def test_everything_a_command_started_ends_with_it(tmp_path):
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], " \
           "start_new_session=True); print('up', flush=True); time.sleep(99)"
    log = tmp_path / "log"
    process = processes.start([sys.executable, "-c", code], {**os.environ, processes.MARK: str(tmp_path)}, tmp_path, log)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"],
                             env={**os.environ, processes.MARK: str(tmp_path) + "-other"})
    try:
        while "up" not in log.read_text():
            time.sleep(0.02)
        assert len(processes.marked(str(tmp_path))) == 2
        processes.end(process, str(tmp_path), grace_s=1.0)
        assert processes.marked(str(tmp_path)) == [] and other.poll() is None
    finally:
        other.kill()


SERVER = """
import sys, time
from tir.rl import forkserver
marker = "imported once"
forkserver.start(sys.argv[1])
print("up", flush=True)
time.sleep(60)
"""
SCRIPT = """
import os, sys, signal, time
import __main__
print(sys.argv[1:], os.environ["WHO"], os.getcwd(), "tir.rl.forkserver" in sys.modules, flush=True)
if sys.argv[1:] == ["wait"]:
    time.sleep(60)
sys.exit(7)
"""


@pytest.fixture
def fork_python(tmp_path):
    """A stand-in for Python whose processes are forks of one that has imported `tir.rl.forkserver`."""
    from tir.rl.forkserver import write_stand_in

    address, python = str(tmp_path / "s"), tmp_path / "python"
    write_stand_in(str(python), address, ("script.py",))
    server = subprocess.Popen([sys.executable, "-c", SERVER, address], stdout=subprocess.PIPE, cwd=ROOT)
    assert server.stdout.readline() == b"up\n"
    (tmp_path / "script.py").write_text(SCRIPT)
    yield python, tmp_path / "script.py"
    server.kill()
    server.wait()
    server.stdout.close()


def test_a_fork_is_a_python_process_of_its_own(fork_python, tmp_path):
    python, script = fork_python
    done = subprocess.run([python, "-u", script, "a", "b c"], env={"WHO": "me"}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 7 and done.stdout.split() == f"['a', 'b c'] me {tmp_path} True".split()
    done = subprocess.run([python, "-X", "utf8", "-c", "import sys; print(sys.argv); raise SystemExit('bad')", "x"],
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "['-c', 'x']\n"
    (tmp_path / "other.py").write_text(SCRIPT)
    done = subprocess.run([python, tmp_path / "other.py", "a"], env={"WHO": "me"}, capture_output=True, text=True)
    assert done.returncode == 7 and done.stdout.split()[-1] == "False"  # a script of another name gets the real Python
    read, write = os.pipe()
    subprocess.run([python, "-c", f"import os; os.write({write}, b'through a descriptor')"], pass_fds=[write], check=True)
    assert os.read(read, 100) == b"through a descriptor"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_fork_does_not_outlive_its_stand_in(fork_python, number, tmp_path):
    python, script = fork_python
    environment = {"WHO": "me", processes.MARK: str(tmp_path)}
    stand_in = subprocess.Popen([python, script, "wait"], env=environment, stdout=subprocess.PIPE, text=True)
    line = stand_in.stdout.readline()
    assert "wait" in line
    stand_in.send_signal(number)
    started = time.monotonic()
    assert stand_in.stdout.read() == ""  # the pipe closes when the fork, its last holder, has ended
    stand_in.wait()
    stand_in.stdout.close()
    assert time.monotonic() - started < 10
