"""The parts of the RL stage: data, overrides, the engine adapter, metrics, policies; and, when asked for, the real thing."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from qwen_like import qwen_like_tokenizer
from rl_inputs import TOOLS, rows_file

from tir.engines.base import Sampling, request_seed
from tir.errors import CheckpointError, ConfigError, DataError, EngineFault
from tir.protocol import STOP_STRINGS
from tir.records import read_jsonl
from tir.rl import launch
from tir.rl.deadline import Deadline
from tir.rl.data import prepare_rows
from tir.rl.export import export_policy
from tir.rl.metrics import collect_records, merge_logs, read_log
from tir.rl.overrides import RunFiles, environment, hydra_value, overrides
from tir.rl.server_engine import ServerEngine, end_ids
from tir.rl.settings import RlSettings, rl_settings

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "<think>t</think><python>print(1)</python><result>\n1\n</result>"


# --- data -----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_attention_needs_no_package_that_the_locks_lack(device):
    """verl's default is flash-attn, which is in no lock: loading the model would fail, in the first job after SFT."""
    given = overrides(RlSettings(tools=TOOLS, device=device), files(Path("/r")))
    assert "+actor_rollout_ref.model.override_config.attn_implementation=sdpa" in given
    assert "actor_rollout_ref.model.use_remove_padding=true" in given  # the real run below packs its rows, too


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
    assert [parameters["seed"] for parameters in server.seen] == [5, 5, 5]  # the rollout loop has given each turn its own
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
    collect, seen = launch.collect, []

    def look_and_collect(directory, settings):
        seen.extend(sorted(path.name for path in (directory / "policies").iterdir()))
        return collect(directory, settings)

    monkeypatch.setattr(launch, "collect", look_and_collect)
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
