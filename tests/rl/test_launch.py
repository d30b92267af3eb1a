"""The launcher of RL runs, tested with a fake verl; the processes that it starts and ends; the fork server."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
from support.paths import ROOT
from support.processes import wait_until
from support.qwen_like import qwen_like_tokenizer
from support.rl_inputs import TOOLS, rl_run, rows_file, run_files

from tir.common.errors import CheckpointError, InfrastructureFault, OutputInUse
from tir.common.files import Scratch
from tir.common.records import read_json, read_jsonl
from tir.config.tools import Tools
from tir.rl import inputs as inputs_module
from tir.rl import launch, processes
from tir.rl.collect import delivered
from tir.rl.environment import environment
from tir.rl.failures import StartFailed, TrainingFailed
from tir.rl.inputs import RunInputs, tools_of, work_of
from tir.rl.metrics import NotFinite
from tir.workflow.digests import code

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
              "executed": {}, "finish": "answer", "segments": [], "response_tokens": 0}
    with open(run / "records" / f"{kind}_{step}.{os.getpid()}.jsonl", "a") as file:
        file.write(json.dumps(record) + "\\n")
def row(step, **data):
    log.write(json.dumps({"step": step, "data": data}) + "\\n")
    log.flush()
failed = run / "failed_starts"
tried = int(failed.read_text()) if failed.exists() else 0
if tried < plan.get("failed_starts", 0):
    failed.write_text(str(tried + 1))
    print(plan["start_error"]); sys.exit(1)
if given["trainer.val_before_train"] == "true":
    trajectory("val", start)
    row(start, **{"val-core/m/reward/mean@1": 0.5})
for step in range(start + 1, int(given["trainer.total_training_steps"]) + 1):
    if step == plan.get("die_before"):
        print("SomeError: out of luck"); sys.exit(3)
    if step == plan.get("fault_before"):
        fault = {"type": "SearchUnavailable", "text": "server gone", "infrastructure": True}
        (run / "fault.json").write_text(json.dumps(fault))
        sys.exit(1)
    if step == plan.get("hang_before"):
        time.sleep(600)
    trajectory("train", step)
    save = step % int(given["trainer.save_freq"]) == 0 or step in plan.get("save_also", [])
    if save and not plan.get("save_nothing"):
        saved = checkpoints / f"global_step_{step}" / "actor" / "huggingface"
        saved.mkdir(parents=True, exist_ok=True)
        (saved / "model.safetensors").write_bytes((run.parent / "weights").read_bytes())
        tracker.write_text(str(step))
        if step == plan.get("killed_in_export"):  # verl exports after it has recorded the checkpoint
            os.kill(os.getpid(), 9)
        (run / "policies" / f"step{step}").mkdir(parents=True)
    if step == plan.get("killed_in_validation"):  # verl validates before it logs the step
        os.kill(os.getpid(), 9)
    loss = float("nan") if step == plan.get("nan_at") else 0.1
    row(step, **{"critic/score/mean": step / 10, "response_length/mean": 5.0, "actor/pg_loss": loss})
"""


SMALL = rl_run(steps=4, save_every=2, rows=4, batch_prompts=2, mini_batch_prompts=2, processes=1)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(settings, **plan)` trains with the fake verl; the plan gives the step at which it fails."""
    script = tmp_path / "fake_verl.py"
    script.write_text(FAKE_VERL)
    qwen_like_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "weights").write_bytes(safetensors.serialize({}))
    data = rows_file(tmp_path / "rows.parquet", "1", "2", "3", "4")
    original = processes.start
    monkeypatch.setattr(
        processes,
        "start",
        lambda command, environment, directory, log: original(
            [sys.executable, str(script), *command[3:]], environment, directory, log
        ),
    )
    inputs = RunInputs(tmp_path / "model", data, data, "system")

    def train(settings=SMALL, stall_s=60.0, **plan):
        monkeypatch.setenv("FAKE", json.dumps(plan))
        return launch.train(settings, inputs, tmp_path / "run", stall_s=stall_s)

    train.directory, train.inputs = tmp_path / "run", inputs
    return train


def test_a_delivered_run_contains_metrics_policies_and_rollouts_only(run, capsys):
    assert [path.name for path in run()] == ["step2", "step4"]
    assert [row["step"] for row in read_jsonl(run.directory / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert len(read_jsonl(run.directory / "rollouts" / "train_4.jsonl")) == 1
    delivered(run.directory)
    assert not (run.directory / "checkpoints").exists() and not (run.directory / "records").exists()
    assert "step 3/4  score 0.300" in capsys.readouterr().err
    # The second call trains nothing, so the fake verl does not fail.
    assert run(die_before=1) == [run.directory / "policies" / f"step{step}" for step in (2, 4)]


def test_a_failed_run_reports_the_error_and_resumes_from_its_last_checkpoint(run):
    with pytest.raises(TrainingFailed, match="SomeError: out of luck"):
        run(die_before=4)
    run()
    rows = read_jsonl(run.directory / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4] and rows[0]["val/test_score/m"] == 0.5
    starts = [row["step"] for row in read_jsonl(run.directory / "wall_clock.jsonl") if row["event"] == "start"]
    assert starts == [0, 2]
    assert all(len(read_jsonl(path)) == 1 for path in (run.directory / "rollouts").iterdir())  # no step counted twice


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_run_killed_while_exporting_a_policy_loses_no_step(run, step):
    """At the first checkpoint, an extra one before a time limit, and the last: the launcher exports the policy."""
    with pytest.raises(TrainingFailed):
        run(killed_in_export=step, save_also=[3])
    assert [path.name for path in run()] == ["step2", "step4"]
    assert (run.directory / "policies" / f"step{step}" / "model.safetensors").exists() or step == 3
    assert [row["event"] for row in read_jsonl(run.directory / "wall_clock.jsonl")].count("start") == (
        1 if step == 4 else 2
    )
    assert sorted(path.name for path in (run.directory / "rollouts").glob("train_*")) == [
        f"train_{n}.jsonl" for n in (1, 2, 3, 4)
    ]


def test_a_run_whose_checkpoint_lacks_weights_starts_from_step_0(run, capsys):
    with pytest.raises(TrainingFailed):
        run(killed_in_export=2)
    shutil.rmtree(run.directory / "checkpoints" / "global_step_2")
    assert [path.name for path in run()] == ["step2", "step4"]
    assert "the checkpoint of step 2 is unusable" in capsys.readouterr().err


def test_a_job_that_fails_after_training_does_not_train_again(run):
    """Snakemake deletes the metrics when a job fails, also if it fails after training, e.g. because of a full disk."""
    run()
    (run.directory / "metrics.jsonl").unlink()
    run()
    assert len(read_jsonl(run.directory / "metrics.jsonl")) == 5
    assert [row["event"] for row in read_jsonl(run.directory / "wall_clock.jsonl")].count("start") == 1
    delivered(run.directory)
    (run.directory / "metrics.jsonl").unlink()  # as Snakemake does before it runs a rule again
    run()
    events = [row["event"] for row in read_jsonl(run.directory / "wall_clock.jsonl")]
    assert events.count("start") == 1  # the directory is new, so this is the second run's start
    assert len(read_jsonl(run.directory / "metrics.jsonl")) == 5


def test_a_step_killed_in_its_validation_keeps_its_score_and_is_reported(run, capsys):
    with pytest.raises(TrainingFailed):
        run(killed_in_validation=2)
    run()
    row = read_jsonl(run.directory / "metrics.jsonl")[2]
    assert row["step"] == 2 and row["critic/score/mean"] == 1.0 and "response_length/mean" not in row
    assert "no metrics of steps [2]" in capsys.readouterr().err


def test_the_identity_of_a_run_includes_the_index_and_the_code_of_the_reward(run, tmp_path, monkeypatch):
    def work(settings=SMALL, **changes):
        return work_of(settings, replace(run.inputs, **changes))

    (tmp_path / "manifest.json").write_text("{}")
    assert work(index=tmp_path, endpoint="http://127.0.0.1:1") != work(endpoint="http://127.0.0.1:1")
    monkeypatch.setattr(inputs_module, "code_digest", lambda *entries: code(*entries))
    assert {
        "tir/scoring/answers/math.py",
        "tir/tools/python_tool.py",
        "tir/rl/environment.py",
        "tir/rl/overrides.py",
        "tir/rl/agent_loop.py",
    } <= set(work()["code"])
    assert not any(file.startswith("aspo/") for file in work()["code"])  # grpo


def test_a_run_resumes_with_another_time_out(run):
    """After a failed search, a user sets a longer time-out: the run resumes, and its tools use the new value."""
    patient = replace(SMALL, tools=Tools(**TOOLS.model_dump(exclude_unset=True) | {"search": {"timeout_s": 7.0}}))
    with pytest.raises(TrainingFailed):
        run(die_before=4)
    run(patient)
    starts = [row["step"] for row in read_jsonl(run.directory / "wall_clock.jsonl") if row["event"] == "start"]
    given = read_json(run.directory / "loop.json")["tools"]
    assert starts == [0, 2] and given["search"]["timeout_s"] == 7.0


def test_a_resumed_run_deletes_the_checkpoints_before_the_last(run):
    """verl deletes only those that the same process has saved; each takes 49 GB at the paper's scale."""
    with pytest.raises(TrainingFailed):
        run(die_before=4, save_also=[1, 3])
    (run.directory / "checkpoints" / "global_step_4").mkdir()  # not complete
    with pytest.raises(TrainingFailed):
        run(die_before=4)
    assert [path.name for path in (run.directory / "checkpoints").glob("global_step_*")] == ["global_step_3"]


def test_the_error_of_a_trajectory_names_its_cause(run):
    with pytest.raises(InfrastructureFault, match="SearchUnavailable: server gone"):
        run(fault_before=2)
    run()  # the old fault.json does not fail the next run


def test_a_loss_that_is_not_a_number_ends_the_run(run):
    with pytest.raises(NotFinite, match="actor/pg_loss is nan at step 2"):
        run(nan_at=2, hang_before=3)
    with pytest.raises(NotFinite, match="at step 2"):
        run()  # not hidden by a resume from the checkpoint of that step


@pytest.mark.parametrize(
    "error",
    [
        "Exception: The current node timed out during startup.",
        "OSError: [Errno 98] Address already in use (while attempting to bind on address ('127.0.0.1', 33801))",
    ],
)
def test_a_failed_start_is_retried(run, monkeypatch, error):
    monkeypatch.setattr(launch, "RETRY_WAIT_S", 0.0)
    with pytest.raises(StartFailed, match=re.escape(error)):
        run(failed_starts=9, start_error=error)
    (run.directory / "failed_starts").unlink()
    run(failed_starts=2, start_error=error)
    assert [row["step"] for row in read_jsonl(run.directory / "metrics.jsonl")] == [0, 1, 2, 3, 4]


def test_verl_ending_without_a_checkpoint_is_an_error(run):
    with pytest.raises(CheckpointError, match="the last step is 4, the last saved step is 0"):
        run(save_nothing=True)


def test_a_hanging_run_is_ended(run):
    with pytest.raises(InfrastructureFault, match="hangs"):
        run(hang_before=2, stall_s=3.0)
    assert [row for row in read_jsonl(run.directory / "wall_clock.jsonl") if row["event"] == "end"]


def test_a_launcher_leaves_a_living_one_alone_and_removes_what_a_killed_one_left(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(launch, "_LONGEST_SCRATCH", 1000)
    log = run.directory / "wall_clock.jsonl"
    other = os.fork()
    if not other:
        with contextlib.suppress(BaseException):
            run(hang_before=2)
        os._exit(0)
    try:
        assert wait_until(lambda: log.exists() and any(row["event"] == "step" for row in read_jsonl(log)), 60)
        [scratch] = tmp_path.glob("tir-rl-*")
        with pytest.raises(OutputInUse, match="another process writes this output"):
            run()
        Scratch("tir-rl-").remove()
        assert scratch.is_dir()
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
        for scratch in tmp_path.glob("tir-rl-*"):
            for each in processes.marked(str(scratch)):  # verl ends with its launcher; the fake verl does not
                each.kill()
    run()
    assert not list(tmp_path.glob("tir-rl-*")) and not list(tmp_path.glob(".*"))


def test_a_run_with_other_settings_or_deleted_metrics_starts_from_step_0(run):
    with pytest.raises(TrainingFailed):
        run(die_before=4)
    run(replace(SMALL, rl=SMALL.rl.model_copy(update={"learning_rate": 0.5})))
    starts = [row["step"] for row in read_jsonl(run.directory / "wall_clock.jsonl") if row["event"] == "start"]
    assert starts == [0]
    (run.directory / "metrics.jsonl").unlink()  # as Snakemake does before it runs a rule again
    run(replace(SMALL, rl=SMALL.rl.model_copy(update={"learning_rate": 0.5})))
    assert len(read_jsonl(run.directory / "wall_clock.jsonl")) == len([0, 1, 2, 3, 4]) + len(["start", "ready", "end"])


def test_without_a_retrieval_server_routes_omit_search():
    run = rl_run(tools=Tools(routes={"math": ["python", "search"], "qa": ["search"]}))
    inputs = RunInputs(Path("m"), Path("t"), Path("v"), "")
    assert tools_of(run, inputs).routes == {"math": ["python"], "qa": []}
    assert tools_of(run, replace(inputs, endpoint="http://h:1")).routes["qa"] == ["search"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_another_user_cannot_reach_what_a_run_executes(run, tmp_path, monkeypatch):
    """Ray lets every user write to its own directory; the executable that starts all workers is beside it."""
    from ray._common.utils import try_to_create_directory

    monkeypatch.setenv("TMPDIR", "/tmp")
    run(die_before=None)  # makes the run directory
    with launch._Launcher(SMALL, run.inputs, run.directory, 1.0).scratch() as files:
        try_to_create_directory(str(files.ray))
        assert files.ray.stat().st_mode & 0o777 == 0o777 and files.scratch.stat().st_mode & 0o777 == 0o700
        for path in (files.python, files.ray / "new", files.scratch / "token"):
            done = subprocess.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", f"echo x >> {path}"],
                capture_output=True,
                text=True,
            )
            assert done.returncode and "Permission denied" in done.stderr, path


# --- processes ------------------------------------------------------------------------------------------------------


def test_a_process_that_gives_itself_a_title_is_found(tmp_path):
    """Ray's workers and vLLM's processes do. By default the title overwrites the environment that others see."""
    code = "import setproctitle, time; setproctitle.setproctitle('ray::' + 9000 * 'x'); print('up', flush=True)"
    variables = os.environ | environment(SMALL, run_files(tmp_path), 2) | {processes.MARK: str(tmp_path)}
    log = tmp_path / "log"
    process = processes.start([sys.executable, "-c", f"{code}; time.sleep(99)"], variables, tmp_path, log)
    try:
        while "up" not in log.read_text():
            time.sleep(0.02)
        assert [each.pid for each in processes.marked(str(tmp_path))] == [process.pid]
    finally:
        process.kill()
        process.wait()


def test_a_commands_descendants_end_with_it(tmp_path):
    code = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], "
        "start_new_session=True); print('up', flush=True); time.sleep(99)"
    )
    log = tmp_path / "log"
    process = processes.start(
        [sys.executable, "-c", code], {**os.environ, processes.MARK: str(tmp_path)}, tmp_path, log
    )
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(99)"],
        env={**os.environ, processes.MARK: str(tmp_path) + "-other"},
    )
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
from tir.rl.cpu import forkserver
marker = "imported once"
forkserver.start(sys.argv[1])
print("up", flush=True)
time.sleep(60)
"""
SCRIPT = """
import os, sys, signal, time
import __main__
print(sys.argv[1:], os.environ["WHO"], os.getcwd(), "tir.rl.cpu.forkserver" in sys.modules, flush=True)
if sys.argv[1:] == ["wait"]:
    time.sleep(60)
sys.exit(7)
"""
OF_MULTIPROCESSING = (
    "from multiprocessing.spawn import spawn_main; import sys; print('tir.rl.cpu.forkserver' in sys.modules)"
)


@pytest.fixture
def fork_python(tmp_path):
    """A stand-in for Python; its processes are forks of a server that has imported `tir.rl.cpu.forkserver`."""
    from tir.rl.cpu.forkserver import write_stand_in

    address, python = str(tmp_path / "s"), tmp_path / "python"
    write_stand_in(str(python), address, ("script.py",))
    server = subprocess.Popen([sys.executable, "-c", SERVER, address], stdout=subprocess.PIPE, cwd=ROOT)
    assert server.stdout.readline() == b"up\n"
    (tmp_path / "script.py").write_text(SCRIPT)
    yield python, tmp_path / "script.py"
    server.kill()
    server.wait()
    server.stdout.close()


def test_a_fork_behaves_like_a_new_python_process(fork_python, tmp_path):
    python, script = fork_python
    done = subprocess.run(
        [python, "-u", script, "a", "b c"], env={"WHO": "me"}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 7 and done.stdout.split() == f"['a', 'b c'] me {tmp_path} True".split()
    done = subprocess.run(
        [python, "-X", "utf8", "-c", f"{OF_MULTIPROCESSING}; print(sys.argv); raise SystemExit('bad')", "x"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == "True\n['-c', 'x']\n"
    (tmp_path / "other.py").write_text(SCRIPT)
    done = subprocess.run([python, tmp_path / "other.py", "a"], env={"WHO": "me"}, capture_output=True, text=True)
    assert done.returncode == 7 and done.stdout.split()[-1] == "False"  # other scripts run with the real Python
    other = OF_MULTIPROCESSING.partition("; ")[2]
    done = subprocess.run([python, "-s", "-c", other], capture_output=True, text=True)
    assert done.stdout == "False\n"  # other programs too: the sandbox must not begin with the modules of a training
    read, write = os.pipe()
    write_there = f"{OF_MULTIPROCESSING}; import os; os.write({write}, b'through a descriptor')"
    subprocess.run([python, "-c", write_there], pass_fds=[write], stdout=subprocess.DEVNULL, check=True)
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
    assert stand_in.stdout.read() == ""  # returns when the fork, the last process with the pipe open, has ended
    stand_in.wait()
    stand_in.stdout.close()
    assert time.monotonic() - started < 10
