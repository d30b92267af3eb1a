"""The RL stage without verl: reward, data, overrides, metrics, processes, and a launcher that believes nothing unchecked."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from qwen_like import qwen_like_tokenizer

from tir.engines.base import Sampling
from tir.errors import CheckpointError, ConfigError, DataError, EngineFault, InfrastructureFault
from tir.protocol import STOP_STRINGS, Segment, split_output
from tir.records import read_jsonl
from tir.reward import RewardSettings, reward
from tir.rl import launch, processes
from tir.rl.deadline import Deadline
from tir.rl.data import prepare_rows
from tir.rl.export import export_policy
from tir.rl.metrics import collect_records, merge_logs, read_log
from tir.rl.overrides import RunFiles, environment, hydra_value, overrides
from tir.rl.server_engine import ServerEngine, end_ids, request_seed
from tir.rl.settings import RlSettings, rl_settings

ROOT = Path(__file__).resolve().parents[1]
UPSTREAM = RewardSettings(mode="upstream_f1")
PYTHON = "<think>t</think><python>print(1)</python><result>\n1\n</result>"
SEARCH = "<think>t</think><search>q</search><result>\np\n</result>"
TOOLS = {"budget": 3, "leading_space": False, "result_tokens": 96, "routes": {"math": ["python"], "qa": ["search"]},
         "python": {}, "search": {}}


def trace(prediction: str, calls: str = PYTHON, end: str = "<|im_end|>") -> list[Segment]:
    return split_output(f"{calls}<think>so</think><answer>\\[ \\boxed{{{prediction}}} \\]</answer>{end}")


# --- reward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction, gold, score", [
    ("12", "12", 1.0), ("5", "-5", 1.0), ("980", "9.80", 1.0), ("(-2,-1)", "(-2,1)", 1.0), ("0.5", r"\frac{1}{2}", 0.0),
    (r"\frac{1}{2}", r"\frac{2}{1}", 0.0), ("b", "[a, b]", 1.0), ("Yes", "yes", 1.0), ("+", "+", 0.0),
])
def test_upstream_reward_reproduces_the_golden_scores(prediction, gold, score):
    assert reward(trace(prediction), gold, "math", UPSTREAM).score == score


def test_upstream_reward_reproduces_the_golden_format_faults_and_bonuses():
    wrong_order = split_output("<think>t</think><python>print(1)</python><answer>\\boxed{12}</answer>")
    two_answers = [*trace("12"), Segment("model", "<answer>\\boxed{12}</answer>")]
    in_result = split_output(PYTHON.replace("\n1\n", "<answer>x</answer>") + "<answer>\\boxed{12}</answer>")
    header = split_output(PYTHON.replace("\n1\n", "<|im_start|>assistant\n") + "<answer>\\boxed{12}</answer>")
    spaced = split_output(PYTHON + "<answer>\\boxed {12}</answer>")
    for broken in (wrong_order, two_answers, in_result, header, spaced):
        assert reward(broken, "12", "math", UPSTREAM).score == -1
    assert reward(trace("12", end=""), "12", "math", UPSTREAM).score == 1.0
    assert reward(trace("12", SEARCH + PYTHON), "12", "qa", UPSTREAM).score == pytest.approx(1.1)
    typed = trace("12", "<think>literal </search> </python></think>")
    assert reward(typed, "12", "math", UPSTREAM).score == pytest.approx(1.1)


def test_verified_reward_judges_mathematics_not_words():
    scores = {pair: reward(trace(pair[0]), pair[1], "math").score
              for pair in [("12", "12"), ("5", "-5"), ("980", "9.80"), ("0.5", r"\frac{1}{2}")]}
    assert list(scores.values()) == [1.0, 0.0, 0.0, 1.0]
    assert reward(trace("New York City", SEARCH), ["NYC", "New York"], "qa").score == pytest.approx(0.8)
    assert reward(trace("maybe yes", SEARCH), "yes", "qa").score == 0.0


def test_only_executed_calls_and_policy_text_count():
    result = split_output(PYTHON.replace("\n1\n", "\n<answer>\\boxed{9}</answer></search>\n") +
                          "<answer>\\boxed{12}</answer>")
    assert reward(result, "12", "math").score == 1.0  # a page or a print cannot break the protocol
    assert reward(trace("12", SEARCH + PYTHON), "12", "math").score == pytest.approx(1.1)
    assert reward(trace("0", SEARCH + PYTHON), "12", "math").score == 0.0  # the bonus needs a score
    assert reward(trace("12", SEARCH + PYTHON), "12", "math", executed={"python": 1, "search": 0}).score == 1.0
    typed = reward(trace("12", "<think>literal </search> </python></think>"), "12", "math")
    assert typed.score <= 1.0 and not typed.bonus  # tags that were merely written earn nothing
    assert reward([Segment("model", "<think>only")], "12", "math").score == -1


def test_an_ability_without_a_rule_is_an_error_not_a_zero():
    with pytest.raises(DataError, match="poetry"):
        reward(trace("12"), "12", "poetry")


# --- data -----------------------------------------------------------------------------------------------------------


def rows_file(path: Path, *golds) -> Path:
    rows = [{"data_source": "grpo_mix", "question": f"q{number}", "ability": "math",
             "reward_model": {"ground_truth": gold, "style": "rule"}, "extra_info": {"index": None}}
            for number, gold in enumerate(golds)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_rows_become_messages_with_numbers_and_lists_of_golds(tmp_path):
    output = tmp_path / "out.parquet"
    assert prepare_rows(rows_file(tmp_path / "in.parquet", "1", "[a,b]", "3"), output, "system text", 2) == 2
    first, second = pyarrow.parquet.read_table(output).to_pylist()
    assert [message["content"] for message in first["prompt"]] == ["system text", "q0"]
    assert second["reward_model"]["ground_truth"] == ["[a,b]"] and second["extra_info"]["index"] == 1
    prepare_rows(rows_file(tmp_path / "many.parquet", ["a", "b"]), output, "s")
    assert pyarrow.parquet.read_table(output).to_pylist()[0]["reward_model"]["ground_truth"] == ["a", "b"]


def test_a_row_that_cannot_be_rewarded_is_named(tmp_path):
    path = rows_file(tmp_path / "in.parquet", "1", None)
    with pytest.raises(DataError, match=r"in\.parquet: row 1.*ground_truth"):
        prepare_rows(path, tmp_path / "out.parquet", "s")
    pyarrow.parquet.write_table(pyarrow.table({"question": ["q"]}), path)
    with pytest.raises(DataError, match="data_source"):
        prepare_rows(path, tmp_path / "out.parquet", "s")


# --- settings and overrides -----------------------------------------------------------------------------------------


def files(directory: Path) -> RunFiles:
    return RunFiles(*(directory / name for name in ("model", "train.parquet", "val.parquet", "loop.yaml", "run", "scratch")))


def rendered(settings: RlSettings, **options) -> dict[str, str]:
    lines = overrides(settings, files(Path("/r")), **options)
    assert len({line.split("=", 1)[0].lstrip("+") for line in lines}) == len(lines), "a key is given twice"
    return dict(line.split("=", 1) for line in lines)


def test_arms_differ_in_nothing_but_the_advantage():
    grpo, aspo = (rendered(RlSettings(tools=TOOLS, estimator=name, coefficients={"lam": 0.3, "delta": None} if name == "aspo" else {}))
                  for name in ("grpo", "aspo"))
    changed = {key for key in grpo.keys() | aspo.keys() if grpo.get(key) != aspo.get(key)}
    assert changed == {"trainer.v1.trainer_mode", "+algorithm.aspo.lam", "+algorithm.aspo.delta"}
    assert (grpo["trainer.v1.trainer_mode"], aspo["trainer.v1.trainer_mode"]) == ("sync", "aspo")
    assert aspo["+algorithm.aspo.lam"] == "0.3" and aspo["+algorithm.aspo.delta"] == "null"
    grpo, aspo = (environment(RlSettings(estimator=name), files(Path("/r")), 2) for name in ("grpo", "aspo"))
    assert {key for key in grpo.keys() | aspo.keys() if grpo.get(key) != aspo.get(key)} == {"VERL_USE_EXTERNAL_MODULES"}


def test_settings_reach_the_keys_of_verl():
    values = rendered(RlSettings(device="cpu", gpus=1, precision="fp32", kl_coef=0.0, track_kl=True, seed=7, steps=30,
                                 old_log_probs="rollout", engine={"max_num_seqs": 64, "block_size": 32, "kv_cache_memory_bytes": 5}))
    assert values["trainer.total_training_steps"] == "30" and values["data.seed"] == "7"
    assert values["actor_rollout_ref.actor.use_kl_loss"] == "true"
    assert values["actor_rollout_ref.rollout.max_num_seqs"] == "64"
    assert values["+actor_rollout_ref.rollout.engine_kwargs.vllm.block_size"] == "32"
    assert values["+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes"] == "5"  # ours gives way
    assert values["algorithm.rollout_correction.bypass_mode"] == "true"
    assert values["actor_rollout_ref.rollout.dtype"] == "float32"
    cuda = rendered(RlSettings(), validate_first=False)
    assert cuda["actor_rollout_ref.actor.use_kl_loss"] == "false" and cuda["trainer.val_before_train"] == "false"
    assert "TIR_FORK_ADDRESS" not in environment(RlSettings(), files(Path("/r")), 2)  # CUDA cannot be forked


def test_hydra_values_survive_its_grammar():
    assert [hydra_value(value) for value in (None, True, 1e-6, ["a", 1], {"b": False}, Path("/a/b-c.d"), "x=y, 'z'", "")] == [
        "null", "true", "1e-06", "[a,1]", "{b:false}", "/a/b-c.d", r"'x=y, \'z\''", "''"]


def test_impossible_settings_are_named():
    with pytest.raises(ConfigError, match="group_sise"):
        rl_settings({"group_sise": 4})
    with pytest.raises(ConfigError, match="save_every"):
        rl_settings({"steps": 10, "save_every": 4})
    with pytest.raises(ConfigError, match="batch_prompts"):
        rl_settings({"rows": 16, "batch_prompts": 32})
    assert rl_settings({"seeds": [1, 2]}, seed=2).seed == 2


# --- the engine adapter ---------------------------------------------------------------------------------------------


class Server:
    """verl's client: answers with the given texts, and with weights of a later version each time."""

    def __init__(self, *texts: str, stop_reason: str = "completed"):
        self.texts, self.stop_reason, self.seen = texts, stop_reason, []

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        ids = qwen_like_tokenizer()(self.texts[len(self.seen)], add_special_tokens=False)["input_ids"][: sampling_params["max_tokens"]]
        self.seen.append(sampling_params)
        version = {"global_steps": len(self.seen), "min_global_steps": len(self.seen), "max_global_steps": len(self.seen)}
        return SimpleNamespace(token_ids=ids, log_probs=[-1.0] * len(ids), stop_reason=self.stop_reason, extra_fields=version)


def test_the_adapter_tells_why_generation_stopped_and_keeps_versions():
    tokenizer = qwen_like_tokenizer()
    server = Server("<think>t</think><python>print(1)</python>", "so <answer>5</answer><|im_end|>", "a long text")
    engine = ServerEngine(server, tokenizer, end_ids(tokenizer))

    async def turns():
        return [await engine.generate([1], max_tokens=limit, sampling=Sampling(1.0, seed=5), stop=STOP_STRINGS, request_id="r")
                for limit in (100, 100, 2)]

    assert [completion.finish for completion in asyncio.run(turns())] == ["stop", "eos", "length"]
    assert [parameters["seed"] for parameters in server.seen] == [5, 6, 7]  # a turn never repeats another one's draws
    assert engine.extra_fields["min_global_steps"] == 1 and engine.extra_fields["max_global_steps"] == 3


def test_an_aborted_request_is_a_fault_not_an_answer():
    engine = ServerEngine(Server("x", stop_reason="aborted"), qwen_like_tokenizer(), {0})
    with pytest.raises(EngineFault):
        asyncio.run(engine.generate([1], max_tokens=9, sampling=Sampling(), stop=(), request_id="r"))


def test_request_seeds_are_stable_and_distinct():
    seeds = {request_seed(run, step, row, member) for run in (1, 2) for step in range(5) for row in range(20) for member in range(4)}
    assert len(seeds) == 800 and request_seed(1, 1, 0, 0) == request_seed(1, 1, 0, 0)


# --- metrics --------------------------------------------------------------------------------------------------------


def record(index: int, session: int, score: float, **more) -> dict:
    return {"index": index, "session": session, "ability": "math", "score": score, "accuracy": max(score, 0.0),
            "fault": "x" if score < 0 else None, "bonus": False, "executed": {"python": 1}, "finish": "answer", **more}


def test_metrics_have_one_row_per_step_and_upstream_names(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text('{"step":0,"data":{"val-core/grpo_mix/reward/mean@1":0.25,"val-aux/num_turns/mean":2.0}}\n'
                     '{"step":1,"data":{"critic/score/mean":0.1}}\n{"step":2,"data":{"critic/score/mean":9.0}}\n{"step":3,"da')
    second.write_text('{"step":2,"data":{"critic/score/mean":0.2,"actor/pg_loss":null}}\n')
    records = {("train", 2): [record(0, 0, 1.0), record(0, 1, -1.0)], ("val", 0): [record(1, 0, 0.0, ability="qa")]}
    rows = merge_logs([first, second], records)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[0]["val/test_score/grpo_mix"] == 0.25 and rows[0]["val/score/qa"] == 0.0
    assert rows[2]["critic/score/mean"] == 0.2 and "actor/pg_loss" not in rows[2]  # the step that was run again counts
    assert rows[2]["train/score/math"] == 0.0 and rows[2]["train/fault_rate"] == 0.5 and rows[2]["train/python_calls"] == 1.0
    assert read_log(tmp_path / "absent.jsonl") == []


def test_records_of_several_processes_are_one_ordered_step(tmp_path):
    for process, rows in ((7, [record(2, 1, 0.0), record(2, 0, 1.0)]), (8, [record(1, 0, 1.0)])):
        (tmp_path / f"train_3.{process}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = collect_records(tmp_path)
    assert [(row["index"], row["session"]) for row in found["train", 3]] == [(1, 0), (2, 0), (2, 1)]


# --- the launcher, with a stand-in for verl --------------------------------------------------------------------------

FAKE_VERL = """
import json, os, sys, time
from pathlib import Path
plan = json.loads(os.environ["FAKE"])
run, log = Path(os.environ["TIR_RUN_DIRECTORY"]), open(os.environ["VERL_FILE_LOGGER_PATH"], "a")
checkpoints, given = run / "checkpoints", dict(argument.split("=", 1) for argument in sys.argv[1:])
tracker = checkpoints / "latest_checkpointed_iteration.txt"
start = int(tracker.read_text()) if tracker.exists() else 0
def row(kind, step, **data):
    record = {"index": 0, "session": 0, "ability": "math", "score": 1.0, "accuracy": 1.0, "fault": None, "bonus": False,
              "executed": {}, "finish": "answer"}
    with open(run / "records" / f"{kind}_{step}.{os.getpid()}.jsonl", "a") as file:
        file.write(json.dumps(record) + "\\n")
    log.write(json.dumps({"step": step, "data": data}) + "\\n")
    log.flush()
slow = run / "slow_starts"
tried = int(slow.read_text()) if slow.exists() else 0
if tried < plan.get("slow_starts", 0):
    slow.write_text(str(tried + 1))
    print("Exception: The current node timed out during startup."); sys.exit(1)
if given["trainer.val_before_train"] == "true":
    row("val", start, **{"val-core/m/reward/mean@1": 0.5})
for step in range(start + 1, int(given["trainer.total_training_steps"]) + 1):
    if step == plan.get("die_before"):
        print("SomeError: out of luck"); sys.exit(3)
    if step == plan.get("fault_before"):
        (run / "fault.json").write_text(json.dumps({"type": "SearchUnavailable", "text": "server gone", "infrastructure": True}))
        sys.exit(1)
    if step == plan.get("hang_before"):
        time.sleep(600)
    if step % int(given["trainer.save_freq"]) == 0 and not plan.get("save_nothing"):
        (run / "policies" / f"step{step}").mkdir(parents=True)
        checkpoints.mkdir(exist_ok=True)
        tracker.write_text(str(step))
    row("train", step, **{"critic/score/mean": step / 10, "response_length/mean": 5.0})
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(settings, **plan)` trains with the stand-in; the plan says where it fails."""
    script = tmp_path / "fake_verl.py"
    script.write_text(FAKE_VERL)
    (tmp_path / "model").mkdir()
    data = rows_file(tmp_path / "rows.parquet", "1", "2", "3", "4")
    original = processes.start
    monkeypatch.setattr(processes, "start", lambda command, environment, directory, log: original(
        [sys.executable, str(script), *command[3:]], environment, directory, log))
    inputs = launch.RunInputs(tmp_path / "model", data, data, "system")

    def go(settings=RlSettings(tools=TOOLS, steps=4, save_every=2, rows=4, batch_prompts=2), stall_s=60.0, **plan):
        monkeypatch.setenv("FAKE", json.dumps(plan))
        return launch.train(settings, inputs, tmp_path / "run", stall_s=stall_s)

    go.directory, go.settings = tmp_path / "run", RlSettings(tools=TOOLS, steps=4, save_every=2, rows=4, batch_prompts=2)
    return go


def test_a_complete_run_leaves_metrics_policies_and_rollouts_only(run, capsys):
    assert [path.name for path in run()] == ["step2", "step4"]
    assert [row["step"] for row in read_jsonl(run.directory / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert len(read_jsonl(run.directory / "rollouts" / "train_4.jsonl")) == 1
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
    assert launch._tools(settings, None)["routes"] == {"math": ["python"], "qa": []}
    assert launch._tools(settings, "http://h:1")["routes"]["qa"] == ["search"]


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


# --- policies -------------------------------------------------------------------------------------------------------


def test_a_policy_is_the_starting_model_with_other_weights(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir(), saved.mkdir()
    (source / "config.json").write_text('{"dtype": "bfloat16"}')
    (source / "tokenizer.json").write_text("{}")
    (source / "manifest.json").write_text("{}")
    save_file({"w": torch.zeros(2)}, source / "model.safetensors")
    save_file({"w": torch.ones(2)}, saved / "model.safetensors")
    export_policy(saved, source, tmp_path / "out", "bfloat16")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    weight = load_file(tmp_path / "out" / "model.safetensors")["w"]
    assert weight.dtype == torch.bfloat16 and weight.tolist() == [1.0, 1.0]
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        export_policy(saved, source, tmp_path / "out", "bfloat16")


def test_the_last_steps_before_a_time_limit_are_saved(monkeypatch, capsys):
    trainer = SimpleNamespace(global_steps=0, config=SimpleNamespace(trainer=SimpleNamespace(save_freq=15)))
    watch = Deadline(9_100.0)
    for trainer.global_steps, now in enumerate(range(0, 9000, 600), start=1):
        monkeypatch.setattr("tir.rl.deadline.time.time", lambda now=now: float(now))
        watch.on_step_begin(trainer)
        # A step that begins at 7,800 ends at 8,400; the one after it would end at 9,000 and still be in time.
        assert trainer.config.trainer.save_freq == (15 if now <= 7800 else 1), now
    assert "from step 15 on" in capsys.readouterr().out


# --- the real thing -------------------------------------------------------------------------------------------------

SLOW = {"device": "cpu", "gpus": 1, "precision": "fp32", "rows": 8, "steps": 2, "save_every": 1, "validate_every": 2,
        "batch_prompts": 4, "mini_batch_prompts": 4, "group_size": 2, "learning_rate": 1e-3, "entropy_coef": 0.0,
        "max_prompt_tokens": 64, "max_response_tokens": 48, "reward": {"mode": "verified", "both_tools_bonus": 0.1},
        "tools": {**TOOLS, "routes": {"math": ["python"], "qa": ["python"]},
                  "python": {"timeout_s": 5, "memory_mb": 2048, "output_chars": 100, "empty_output": "Done"}}}


def untrained_model(directory):
    from tir.tiny_model import TinyModelSettings, make_tiny_model

    text = [f"What is {a} + {b}? " + PYTHON + rf"<answer>\[ \boxed{{{a + b}}} \]</answer>" for a in range(9) for b in range(9)]
    # No more embeddings than tokens: verl keeps the engine from sampling the rest, and the trainer counts them.
    make_tiny_model(text, directory, TinyModelSettings(vocab_size=280, hidden=64, heads=2, intermediate=128, layers=2))
    return directory


@pytest.mark.slow
def test_two_real_steps_of_grpo_change_the_policy_and_engine_and_trainer_agree(tmp_path):
    from safetensors.torch import load_file

    untrained_model(tmp_path / "model")
    data = rows_file(tmp_path / "rows.parquet", *"12345678")
    inputs = launch.RunInputs(tmp_path / "model", data, data, "Use tools.")
    policies = launch.train(rl_settings(SLOW, estimator="grpo", coefficients={}), inputs, tmp_path / "run")
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2] and "val/test_score/grpo_mix" in rows[0]
    # The engine generates with the trainer's weights, before and after an update: token probabilities agree in fp32.
    assert all(row["training/rollout_probs_diff_max"] < 1e-4 for row in rows[1:])
    assert all(len(read_jsonl(tmp_path / "run" / "rollouts" / f"train_{step}.jsonl")) == 8 for step in (1, 2))
    before, after = (load_file(path / "model.safetensors") for path in (tmp_path / "model", policies[-1]))
    assert before.keys() == after.keys()
    assert sorted(path.name for path in policies[-1].iterdir()) == sorted(
        path.name for path in (tmp_path / "model").iterdir() if path.name != "manifest.json")
    scores = {row["score"] for row in read_jsonl(tmp_path / "run" / "rollouts" / "train_1.jsonl")}
    assert scores == {-1.0}  # an untrained model keeps no protocol, so nothing may have been learned from
    assert all(value.equal(after[name]) or (value - after[name]).abs().max() < 1e-3 for name, value in before.items())


@pytest.mark.slow
def test_a_real_run_near_its_time_limit_saves_every_step(tmp_path, monkeypatch):
    inputs = launch.RunInputs(untrained_model(tmp_path / "model"), *2 * [rows_file(tmp_path / "rows.parquet", *"12345678")],
                              "Use tools.")
    collect, seen = launch._Run.collect, []

    def look_and_collect(run):
        seen.extend(sorted(path.name for path in run.policies.iterdir()))
        return collect(run)

    monkeypatch.setattr(launch._Run, "collect", look_and_collect)
    monkeypatch.setenv("JOB_END_TIME", str(int(time.time()) + 25))
    policies = launch.train(rl_settings(SLOW | {"steps": 3, "save_every": 3, "validate_every": 3}, estimator="grpo", coefficients={}),
                            inputs, tmp_path / "run")
    assert seen == ["step2", "step3"]
    assert policies == list((tmp_path / "run" / "policies").iterdir()) == [tmp_path / "run" / "policies" / "step3"]


@pytest.mark.slow
@pytest.mark.parametrize("device, estimator", [("cpu", "grpo"), ("cpu", "aspo"), ("cuda", "grpo"), ("cuda", "aspo")])
def test_verl_accepts_every_override(device, estimator):
    """Compose verl's configuration from the overrides and run verl's own check, for the scale that has no machine here too."""
    settings = RlSettings(tools=TOOLS, device=device, estimator=estimator, track_kl=True, engine={"gpu_memory_utilization": 0.6},
                          coefficients={"lam": 0.5, "delta": None} if estimator == "aspo" else {})
    code = ("import sys, hydra; from verl.trainer.main_ppo import validate_config, need_critic, need_reference_policy\n"
            "with hydra.initialize_config_module('verl.trainer.config', version_base=None):\n"
            "    lines = [line for line in sys.argv[1:] if not line.startswith('hydra')]\n"
            "    config = hydra.compose('ppo_trainer', lines)\n"
            "validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))\n")
    done = subprocess.run([sys.executable, "-c", code, *overrides(settings, files(Path("/r")))], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "tir.rl.cpu_platform"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert "configuration checks passed" in done.stdout
