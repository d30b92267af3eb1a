"""RL: data, overrides, engine adapter, metrics, export of policies, time limit; and slow tests with real verl runs."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from support.chat_tokenizers import FAMILIES
from support.paths import ROOT
from support.qwen_like import qwen_like_tokenizer
from support.rl_inputs import rl_run, rows_file, run_files, untrained_model

from tir.common.errors import CheckpointError, DataError, EngineFault, ToolUnavailable
from tir.common.records import read_json, read_jsonl
from tir.config.tools import Tools
from tir.rl import launch
from tir.rl.data import prepare_rows
from tir.rl.deadline import Deadline
from tir.rl.environment import environment
from tir.rl.export import export_policy
from tir.rl.metrics import collect_records, merge_logs, read_log
from tir.rl.overrides import hydra_value, overrides
from tir.rl.run import RlRun
from tir.rl.server_engine import ServerEngine
from tir.rollout.engines.base import Sampling, request_seed
from tir.rollout.prompts import render_prompt
from tir.rollout.protocol import STOP_STRINGS

FITS = qwen_like_tokenizer(), 1000  # tokenizer and token limit; every prompt here is shorter


# --- data -----------------------------------------------------------------------------------------------------------


def test_rows_get_messages_row_numbers_and_lists_of_golds(tmp_path):
    output = tmp_path / "out.parquet"
    assert prepare_rows(rows_file(tmp_path / "in.parquet", "1", "[a,b]", "3"), output, "system text", *FITS, 2) == 2
    first, second = pyarrow.parquet.read_table(output).to_pylist()
    assert [message["content"] for message in first["prompt"]] == ["system text", "q0"]
    assert second["reward_model"]["ground_truth"] == ["[a,b]"] and second["extra_info"]["index"] == 1
    prepare_rows(rows_file(tmp_path / "many.parquet", ["a", "b"]), output, "s", *FITS)
    assert pyarrow.parquet.read_table(output).to_pylist()[0]["reward_model"]["ground_truth"] == ["a", "b"]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_with_a_long_prompt_are_dropped_and_counted(tmp_path, family, capsys):
    """Also with a chat template without a system role, for which verl's filter would drop every row."""
    tokenizer, path, output = FAMILIES[family](), tmp_path / "in.parquet", tmp_path / "out.parquet"
    rows_file(path, "1", "2", questions=["short", "long " * 50])
    limit = len(render_prompt(tokenizer, "system", "short"))
    with pytest.raises(DataError, match=rf"1 of 2 prompts have more than {limit} tokens"):
        prepare_rows(path, output, "system", tokenizer, limit, max_overlong=0.4)
    assert prepare_rows(path, output, "system", tokenizer, limit, max_overlong=0.5) == 1
    assert [row["extra_info"]["index"] for row in pyarrow.parquet.read_table(output).to_pylist()] == [0]
    assert f"{path}: dropped 1 of 2 rows: their prompts have more than {limit} tokens" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"in\.parquet: every prompt is too long"):
        prepare_rows(path, output, "system", tokenizer, limit - 1, max_overlong=0.9)


def test_a_row_without_gold_or_column_is_reported_with_its_place(tmp_path):
    path = rows_file(tmp_path / "in.parquet", "1", None)
    with pytest.raises(DataError, match=r"in\.parquet: row 1.*ground_truth"):
        prepare_rows(path, tmp_path / "out.parquet", "s", *FITS)
    pyarrow.parquet.write_table(pyarrow.table({"question": ["q"]}), path)
    with pytest.raises(DataError, match="data_source"):
        prepare_rows(path, tmp_path / "out.parquet", "s", *FITS)


# --- settings and overrides -----------------------------------------------------------------------------------------


def rendered(run: RlRun, **options) -> dict[str, str]:
    lines = overrides(run, run_files(Path("/r")), **options)
    assert len({line.split("=", 1)[0].lstrip("+") for line in lines}) == len(lines), "a key is given twice"
    return dict(line.split("=", 1) for line in lines)


def test_arms_differ_only_in_the_advantage():
    grpo, aspo = (
        rendered(rl_run(estimator=name, coefficients={"lam": 0.3, "delta": None} if name == "aspo" else {}))
        for name in ("grpo", "aspo")
    )
    changed = {key for key in grpo.keys() | aspo.keys() if grpo.get(key) != aspo.get(key)}
    assert changed == {"trainer.v1.trainer_mode", "+algorithm.aspo.lam", "+algorithm.aspo.delta"}
    assert (grpo["trainer.v1.trainer_mode"], aspo["trainer.v1.trainer_mode"]) == ("sync", "aspo")
    assert aspo["+algorithm.aspo.lam"] == "0.3" and aspo["+algorithm.aspo.delta"] == "null"
    grpo, aspo = (environment(rl_run(estimator=name), run_files(Path("/r")), 2) for name in ("grpo", "aspo"))
    assert {key for key in grpo.keys() | aspo.keys() if grpo.get(key) != aspo.get(key)} == {"VERL_USE_EXTERNAL_MODULES"}


def test_settings_reach_the_keys_of_verl():
    values = rendered(
        rl_run(
            device="cpu",
            precision="fp32",
            kl_coef=0.0,
            track_kl=True,
            seed=7,
            steps=30,
            old_log_probs="rollout",
            engine={"max_num_seqs": 64, "block_size": 32, "kv_cache_memory_bytes": 5},
        )
    )
    assert values["trainer.total_training_steps"] == "30" and values["data.seed"] == "7"
    assert values["actor_rollout_ref.actor.use_kl_loss"] == "true"
    assert values["actor_rollout_ref.rollout.max_num_seqs"] == "64"
    assert values["+actor_rollout_ref.rollout.engine_kwargs.vllm.block_size"] == "32"
    assert values["+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes"] == "5"  # replaces our default
    assert values["algorithm.rollout_correction.bypass_mode"] == "true"
    assert values["actor_rollout_ref.rollout.dtype"] == "float32"
    cuda = rendered(rl_run(), validate_first=False)
    assert cuda["actor_rollout_ref.actor.use_kl_loss"] == "false" and cuda["trainer.val_before_train"] == "false"
    assert "TIR_FORK_ADDRESS" not in environment(rl_run(), run_files(Path("/r")), 2)  # CUDA cannot be forked
    cuda = environment(rl_run(processes=8), run_files(Path("/r")), 64)  # four processes with threads on each GPU
    assert (cuda["OMP_NUM_THREADS"], cuda["VERL_PLATFORM"]) == ("2", "nvidia")


def test_the_bucket_in_which_weights_are_sent_holds_the_largest_tensor(tmp_path):
    """The embeddings of Qwen2.5's vocabulary have 39 MB even at a width of 64; verl refuses a smaller bucket."""
    from safetensors.numpy import save_file

    run, key = (
        rl_run(device="cpu"),
        "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes",
    )
    assert f"{key}=32" in overrides(run, run_files(tmp_path))  # no weights there
    (tmp_path / "model").mkdir()
    save_file({"embeddings": np.zeros((151_936, 64), np.float16)}, tmp_path / "model" / "model.safetensors")
    assert f"{key}=39" in overrides(run, run_files(tmp_path))


@pytest.mark.slow  # imports vLLM
def test_weights_are_sent_without_tied_embeddings_and_not_for_ever(tmp_path):
    """vLLM refuses a bucket with the output embeddings whose input embeddings came in an earlier one.

    After such an error in the receiver, the sender gives up, whether the receiver is gone or does not answer.
    """
    code = """
import asyncio, sys
import zmq
from verl.workers.rollout.vllm_rollout import vllm_rollout
from tir.rl import weights

async def names(tied):
    pairs = iter([("model.embed_tokens.weight", 1), ("model.norm.weight", 2), ("lm_head.weight", 1)])
    return [name async for name, _ in weights.without_tied(pairs, tied)]

print(*asyncio.run(names(True)))
print(*asyncio.run(names(False)))
assert vllm_rollout.BucketedWeightSender is weights.Sender
weights.ANSWER_S = 0.2
for receiver in (False, True):
    sender = weights.Sender(f"ipc://{sys.argv[1]}/{receiver}", 1)
    sender._init_socket()
    if receiver:  # it is there, and does not answer
        other = zmq.Context.instance().socket(zmq.REP)
        other.connect(f"ipc://{sys.argv[1]}/{receiver}")
    try:
        sender.socket.send(b"a bucket")
        sender.socket.recv()
    except zmq.Again:
        print("gave up", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    sent = ["model.embed_tokens.weight model.norm.weight", "model.embed_tokens.weight model.norm.weight lm_head.weight"]
    assert done.stdout.splitlines()[-4:] == [*sent, "gave up", "gave up"], done.stderr


def test_chunked_log_probabilities_equal_those_of_whole_logits():
    """Of verl's forward pass that `use_fused_kernels` selects; 21 tokens in chunks of 512, and in chunks of 4."""
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    states, weight = torch.rand(21, 16, requires_grad=True), torch.rand(32, 16, requires_grad=True)
    labels, found = torch.randint(0, 32, (21,)), []
    logits = (states @ weight.T / 0.7).log_softmax(-1)
    values = logits.gather(-1, labels[:, None])[:, 0], -(logits.exp() * logits).sum(-1)
    for log_probs, entropy in (values, *(FusedLinearForPPO(size)(states, weight, labels, 0.7) for size in (512, 4))):
        states.grad = weight.grad = None
        (log_probs * torch.linspace(-1, 1, 21) + 0.3 * entropy).sum().backward()
        found.append((log_probs, entropy, states.grad, weight.grad))
    for chunked in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found[0], chunked, strict=True))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_training_needs_neither_flash_attn_nor_dense_masks_and_logits(device):
    """verl's default is flash-attn, which no lock contains: loading the model would fail."""
    given = overrides(rl_run(device=device), run_files(Path("/r")))
    assert "+actor_rollout_ref.model.override_config.attn_implementation=packed" in given
    assert "actor_rollout_ref.model.use_remove_padding=true" in given  # the real runs below pack sequences too
    assert "actor_rollout_ref.model.use_fused_kernels=true" in given


def test_decoding_uses_cuda_graphs_on_gpus_unless_told_otherwise():
    key = "actor_rollout_ref.rollout.enforce_eager"  # false is verl's default
    assert key not in rendered(rl_run(device="cuda")) and rendered(rl_run(device="cpu"))[key] == "true"
    assert rendered(rl_run(device="cuda", engine={"enforce_eager": True}))[key] == "true"


def test_full_determinism_reaches_training_reference_and_rollouts_on_gpus():
    keys = [
        f"actor_rollout_ref.{part}full_determinism" for part in ("actor.fsdp_config.", "ref.fsdp_config.", "rollout.")
    ]
    assert [rendered(rl_run(device="cuda"))[key] for key in keys] == ["false"] * 3
    assert [rendered(rl_run(device="cuda", full_determinism=True))[key] for key in keys] == ["true"] * 3


def test_the_variables_of_verl_s_full_determinism_are_set_before_its_workers_start():
    code = (
        "import json, os\n"
        "from verl.workers.engine.utils import enable_full_determinism\n"
        "before = dict(os.environ); enable_full_determinism(1)\n"
        "print(json.dumps({name: value for name, value in os.environ.items() if before.get(name) != value}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    of_verl = json.loads(done.stdout.splitlines()[-1])
    assert of_verl.pop("PYTHONHASHSEED") == "1"  # `verl.trainer.main_ppo` sets it for all processes
    ours, default = (
        environment(rl_run(device="cuda", full_determinism=on), run_files(Path("/r")), 2) for on in (True, False)
    )
    assert of_verl and of_verl.items() <= ours.items() and not of_verl.keys() & default.keys()


def test_values_are_written_in_hydras_grammar():
    assert [
        hydra_value(value) for value in (None, True, 1e-6, ["a", 1], {"b": False}, Path("/a/b-c.d"), "x=y, 'z'", "")
    ] == ["null", "true", "1e-06", "[a,1]", "{b:false}", "/a/b-c.d", r"'x=y, \'z\''", "''"]


def test_a_tool_that_does_not_start_is_the_cause_that_the_run_ends_with(tmp_path, monkeypatch):
    """verl makes a loop per trajectory, and the first of a process starts the tools."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopBase

    from tir.rl import agent_loop, sampler

    def fails(path: str):
        raise ToolUnavailable("the Python worker died", where="tools.python", why="no answer within 120 s")

    monkeypatch.setenv("TIR_RUN_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(AgentLoopBase, "__init__", lambda self: None)
    monkeypatch.setattr(agent_loop, "loop_resources", fails)
    with pytest.raises(ToolUnavailable):
        agent_loop.TirAgentLoop(settings="loop.json")
    assert read_json(tmp_path / "fault.json")["infrastructure"]
    assert "ToolUnavailable: tools.python: the Python worker died: no answer within 120 s" in str(sampler.run_fault())


# --- the engine adapter ---------------------------------------------------------------------------------------------


class Server:
    """A fake of verl's client: each call returns the next text, generated with weights of the next version."""

    def __init__(self, *texts: str, stop_reason: str = "completed"):
        self.texts, self.stop_reason, self.seen = texts, stop_reason, []

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        ids = qwen_like_tokenizer()(self.texts[len(self.seen)], add_special_tokens=False)["input_ids"][
            : sampling_params["max_tokens"]
        ]
        self.seen.append(sampling_params)
        version = {
            "global_steps": len(self.seen),
            "min_global_steps": len(self.seen),
            "max_global_steps": len(self.seen),
        }
        return SimpleNamespace(
            token_ids=ids, log_probs=[-1.0] * len(ids), stop_reason=self.stop_reason, extra_fields=version
        )


def test_the_adapter_derives_the_finish_reason_and_keeps_weight_versions():
    tokenizer = qwen_like_tokenizer()
    server = Server("<think>t</think><python>print(1)</python>", "so <answer>5</answer><|im_end|>", "a long text")
    engine = ServerEngine(server, tokenizer)

    async def turns():
        return [
            await engine.generate(
                [1], max_tokens=limit, sampling=Sampling(1.0, seed=5), stop=STOP_STRINGS, request_id="r"
            )
            for limit in (100, 100, 2)
        ]

    assert [completion.finish for completion in asyncio.run(turns())] == ["stop", "eos", "length"]
    assert [parameters["seed"] for parameters in server.seen] == 3 * [5]  # the adapter passes the seed unchanged
    assert engine.extra_fields["min_global_steps"] == 1 and engine.extra_fields["max_global_steps"] == 3


def test_an_aborted_request_is_an_engine_fault():
    engine = ServerEngine(Server("x", stop_reason="aborted"), qwen_like_tokenizer())
    with pytest.raises(EngineFault):
        asyncio.run(engine.generate([1], max_tokens=9, sampling=Sampling(), stop=(), request_id="r"))


def test_request_seeds_are_stable_and_distinct():
    seeds = {
        request_seed(run, step, row, member)
        for run in (1, 2)
        for step in range(5)
        for row in range(20)
        for member in range(4)
    }
    assert len(seeds) == 800 and request_seed(1, 1, 0, 0) == request_seed(1, 1, 0, 0)


# --- metrics --------------------------------------------------------------------------------------------------------


def record(index: int, session: int, score: float, **more) -> dict:
    return {
        "index": index,
        "session": session,
        "ability": "math",
        "score": score,
        "accuracy": max(score, 0.0),
        "fault": "x" if score < 0 else None,
        "bonus": False,
        "executed": {"python": 1},
        "finish": "answer",
        "segments": [{"by": "model", "text": "<answer>1</answer>"}],
        "response_tokens": 4,
        **more,
    }


def test_metrics_have_one_row_per_step_and_upstream_names(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text(
        '{"step":0,"data":{"val-core/grpo_mix/reward/mean@1":0.25,"val-aux/num_turns/mean":2.0}}\n'
        '{"step":1,"data":{"critic/score/mean":0.1}}\n{"step":2,"data":{"critic/score/mean":9.0}}\n{"step":3,"da'
    )
    second.write_text('{"step":2,"data":{"critic/score/mean":0.2,"actor/pg_loss":null}}\n')
    trajectories = [record(0, 0, 1.0), record(0, 1, -1.0), record(1, 0, 0.0), record(1, 1, 0.0), record(2, 0, 0.0)]
    records = {("train", 2): trajectories, ("val", 0): [record(1, 0, 0.0, ability="qa")]}
    rows = merge_logs([first, second], records)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[0]["val/test_score/grpo_mix"] == 0.25 and rows[0]["val/score/qa"] == 0.0
    assert rows[2]["critic/score/mean"] == 0.2 and "actor/pg_loss" not in rows[2]  # values of the later log
    assert (
        rows[2]["train/score/math"] == 0.0
        and rows[2]["train/fault_rate"] == 0.2
        and rows[2]["train/python_calls"] == 1.0
    )
    assert rows[2]["train/zero_variance_share"] == 0.5  # of two groups; one trajectory is no group
    assert "val/zero_variance_share" not in rows[0]
    assert read_log(tmp_path / "absent.jsonl") == []


def test_metrics_say_what_the_trajectories_of_each_ability_do(tmp_path):
    """Also without a shaping term, so that arms can be compared."""
    texts = ("<think>abc</think><python>1</python>", "<result>1</result>", "<think>no</think><answer>2</answer>")
    rethought = [{"by": by, "text": text} for by, text in zip(("model", "tool", "model"), texts, strict=True)]
    rows = [
        record(0, 0, 1.0, segments=rethought, response_tokens=20),
        record(0, 1, 0.0, finish="length", response_tokens=10),
        record(1, 0, 0.0, ability="qa"),
    ]
    log = tmp_path / "log.jsonl"
    log.write_text('{"step":1,"data":{"critic/score/mean":0.1}}\n')
    found = merge_logs([log], {("train", 1): rows})[0]
    assert found["train/bigram/python-think/math"] == found["train/bigram/think-python/math"] == 0.5
    assert found["train/bigram/python-answer/math"] == found["train/bigram/python-think/qa"] == 0.0
    assert found["train/calls/math"] == 0.5 and found["train/truncated/math"] == 0.5
    assert found["train/tokens/math"] == 15.0 and found["train/tokens/qa"] == 4.0
    characters = len("<think>abc</think>")
    assert found["train/first_tool/math"] == characters
    assert found["train/first_tool_share/math"] == pytest.approx(characters / (len(texts[0]) + len(texts[2])))
    assert "train/first_tool/qa" not in found  # no question has a tool call


def test_records_of_several_processes_are_merged_and_sorted(tmp_path):
    for process, rows in ((7, [record(2, 1, 0.0), record(2, 0, 1.0)]), (8, [record(1, 0, 1.0)])):
        (tmp_path / f"train_3.{process}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = collect_records(tmp_path)
    assert [(row["index"], row["session"]) for row in found["train", 3]] == [(1, 0), (2, 0), (2, 1)]


# --- policies -------------------------------------------------------------------------------------------------------


def test_a_policy_has_the_files_of_the_starting_model_and_new_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir(), saved.mkdir()
    (source / "config.json").write_text('{"dtype": "bfloat16"}')
    (source / "tokenizer.json").write_text("{}")
    (source / "manifest.json").write_text("{}")
    save_file({"w": torch.zeros(2)}, source / "model.safetensors")
    save_file({"w": torch.ones(2)}, saved / "model.safetensors")
    export_policy(saved, source, tmp_path / "out", "bfloat16")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
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
        # The step that begins at 7,800 s ends at 8,400 s, and the next at 9,000 s, before the limit of 9,100 s.
        assert trainer.config.trainer.save_freq == (15 if now <= 7800 else 1), now
    assert "from step 15 on" in capsys.readouterr().out


# --- real runs of verl ----------------------------------------------------------------------------------------------

SLOW = {
    "device": "cpu",
    "precision": "fp32",
    "rows": 8,
    "steps": 2,
    "save_every": 1,
    "validate_every": 2,
    "batch_prompts": 4,
    "mini_batch_prompts": 4,
    "group_size": 2,
    "learning_rate": 1e-3,
    "entropy_coef": 0.0,
    "max_prompt_tokens": 64,
    "max_response_tokens": 48,
    "tools": Tools(routes={"math": ["python"], "qa": ["python"]}, result_tokens=96, python={"output_chars": 100}),
}


@pytest.mark.slow
def test_two_real_steps_of_grpo_change_the_policy_and_engine_and_trainer_agree(tmp_path):
    """With untied output embeddings, as of Qwen2.5-7B; the other real steps are those of a model with tied ones."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    untrained_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", tie_word_embeddings=False)
    model.lm_head.weight.data.normal_(std=0.02)
    model.save_pretrained(tmp_path / "model")
    data = rows_file(tmp_path / "rows.parquet", *"12345678")
    inputs = launch.RunInputs(tmp_path / "model", data, data, "Use tools.")
    policies = launch.train(rl_run(**SLOW), inputs, tmp_path / "run")
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2] and "val/test_score/grpo_mix" in rows[0]
    # Engine and trainer have the same weights, before and after an update: token probabilities agree in fp32.
    assert all(row["training/rollout_probs_diff_max"] < 1e-4 for row in rows[1:])
    assert all(len(read_jsonl(tmp_path / "run" / "rollouts" / f"train_{step}.jsonl")) == 8 for step in (1, 2))
    before, after = (load_file(path / "model.safetensors") for path in (tmp_path / "model", policies[-1]))
    assert before.keys() == after.keys() and "lm_head.weight" in before
    assert sorted(path.name for path in policies[-1].iterdir()) == sorted(
        path.name for path in (tmp_path / "model").iterdir() if path.name != "manifest.json"
    )
    scores = {row["score"] for row in read_jsonl(tmp_path / "run" / "rollouts" / "train_1.jsonl")}
    assert scores == {-1.0}  # an untrained model always violates the protocol, so all advantages are 0
    assert all(value.equal(after[name]) or (value - after[name]).abs().max() < 1e-3 for name, value in before.items())


def taught_model(directory):
    """A model that answers every question with 1 or 2, each about as often."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    untrained_model(directory)
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    answers = [rf"<think>t</think><answer>\[ \boxed{{{digit}}} \]</answer>" for digit in (1, 2)]
    rows = [
        (render_prompt(tokenizer, "Use tools.", f"q{row}"), tokenizer.encode(answer, add_special_tokens=False))
        for row in range(8)
        for answer in answers
    ]
    length = max(len(prompt) + len(answer) for prompt, answer in rows) + 1
    ids, labels = torch.full((2, len(rows), length), tokenizer.eos_token_id)
    labels[:] = -100
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt + answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt + answer) + 1] = torch.tensor([*answer, tokenizer.eos_token_id])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    model.save_pretrained(directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "estimator"),
    [
        ("keep", "grpo"),
        ("drop", "aspo"),
        pytest.param(
            "resample",
            "grpo",
            marks=pytest.mark.skipif(
                "TIR_LONG" not in os.environ, reason="takes up to seven minutes; TIR_LONG=1 runs it"
            ),
        ),
    ],
)
def test_real_steps_keep_drop_or_replace_groups_of_equal_rewards(tmp_path, mode, estimator):
    """Two trajectories per group, of which about half have equal rewards. verl fills up a batch of fewer groups."""
    train = rows_file(tmp_path / "train.parquet", *64 * "1", questions=[f"q{row % 8}" for row in range(64)])
    validation = rows_file(tmp_path / "validation.parquet", "1", "1")
    inputs = launch.RunInputs(taught_model(tmp_path / "model"), train, validation, "Use tools.")
    settings = SLOW | {"rows": 64, "batch_prompts": 8, "mini_batch_prompts": 4, "zero_variance_groups": mode}
    run = rl_run(**settings, estimator=estimator)
    launch.train(run, inputs, tmp_path / "run")
    steps = read_jsonl(tmp_path / "run" / "metrics.jsonl")[1:]
    assert len(steps) == 2
    for row in steps:
        trajectories = read_jsonl(tmp_path / "run" / "rollouts" / f"train_{row['step']}.jsonl")
        groups: dict[int, list[float]] = {}
        for each in trajectories:
            groups.setdefault(each["index"], []).append(each["score"])
        differing = [scores for scores in groups.values() if len(set(scores)) > 1]
        assert 0 < len(differing) < len(groups)
        assert row["train/zero_variance_share"] == pytest.approx(1 - len(differing) / len(groups))
        evicted = row.get("training/filter_groups/evicted_samples", 0)
        surplus = row.get("training/filter_groups/discarded_surplus_samples", 0)
        assert evicted == (0 if mode == "keep" else len(groups) - len(differing))
        trained = len(groups) - evicted - surplus
        assert trained < 8 if mode == "drop" else trained == 8
        assert 0 < row["actor/grad_norm"] < 100
        if mode == "drop":
            assert row["critic/score/mean"] == pytest.approx(np.mean(differing))
        if estimator == "aspo":
            assert row["aspo/zero_variance_groups"] == 0  # nor are those counted that verl fills the batch with


@pytest.mark.slow
def test_two_ranks_in_bf16_track_the_divergence_from_the_reference_model(tmp_path):
    """What the paper's scale sets: several ranks, bf16, a reference model. The entropy bonus changes the policy."""
    from safetensors.torch import load_file

    data = rows_file(tmp_path / "rows.parquet", *"12345678")
    inputs = launch.RunInputs(untrained_model(tmp_path / "model"), data, data, "Use tools.")
    settings = SLOW | {"processes": 2, "precision": "bf16", "track_kl": True, "entropy_coef": 0.5}
    policies = launch.train(rl_run(**settings), inputs, tmp_path / "run")
    first, second = (row["actor/kl_loss"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")[1:])
    assert abs(first) < 1e-3 < second < 100  # the first step computes the divergence before it updates
    weights = load_file(policies[-1] / "model.safetensors").values()
    assert all(str(weight.dtype) == "torch.bfloat16" and weight.isfinite().all() for weight in weights)


@pytest.mark.slow
def test_a_real_run_near_its_time_limit_saves_every_step(tmp_path, monkeypatch):
    inputs = launch.RunInputs(
        untrained_model(tmp_path / "model"), *2 * [rows_file(tmp_path / "rows.parquet", *"12345678")], "Use tools."
    )
    collect, saved = launch.collect, []

    def record_and_collect(directory, rl):
        saved[:] = sorted(path.name for path in (directory / "policies").iterdir())
        return collect(directory, rl)

    monkeypatch.setattr(launch, "collect", record_and_collect)

    def train(name):
        run = tmp_path / name
        policies = launch.train(rl_run(**SLOW | {"steps": 3, "save_every": 3, "validate_every": 3}), inputs, run)
        assert policies == list((run / "policies").iterdir()) == [run / "policies" / "step3"]

    started = time.time()
    train("unlimited")
    seconds = time.time() - started
    assert saved == ["step3"]
    # The limit must come after the trainer has begun and before the second step ends. This machine's speed may change.
    for share in (0.75, 0.6, 0.9):
        monkeypatch.setenv("JOB_END_TIME", str(time.time() + share * seconds))
        train(f"limited{share}")
        if saved != ["step3"]:
            break
    assert saved == ["step2", "step3"]


@pytest.mark.slow
@pytest.mark.parametrize("device, estimator", [("cpu", "grpo"), ("cpu", "aspo"), ("cuda", "grpo"), ("cuda", "aspo")])
def test_verl_accepts_every_override(device, estimator):
    """Compose verl's configuration from the overrides and run verl's own check, for CUDA too, without a GPU."""
    run = rl_run(
        device=device,
        estimator=estimator,
        track_kl=True,
        engine={"gpu_memory_utilization": 0.6},
        coefficients={"lam": 0.5, "delta": None} if estimator == "aspo" else {},
    )
    code = (
        "import sys, hydra; from verl.trainer.main_ppo import validate_config, need_critic, need_reference_policy\n"
        "with hydra.initialize_config_module('verl.trainer.config', version_base=None):\n"
        "    lines = [line for line in sys.argv[1:] if not line.startswith('hydra')]\n"
        "    config = hydra.compose('ppo_trainer', lines)\n"
        "reference, critic = need_reference_policy(config), need_critic(config)\n"
        "validate_config(config=config, use_reference_policy=reference, use_critic=critic)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *overrides(run, run_files(Path("/r")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "tir.rl.cpu.platform"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "configuration checks passed" in done.stdout
