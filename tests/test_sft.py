"""Fine-tuning: rendering, step arithmetic, recipe, the supervised run with its kills, and selection."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from qwen_like import qwen_like_tokenizer

from tir.errors import CheckpointError, ConfigError, DataError, InfrastructureFault
from tir.protocol import encode_tool_text, split_output
from tir.records import read_json, read_jsonl, write_json, write_jsonl
from tir.sft import train as training
from tir.model_files import weights_fault
from tir.sft.checkpoints import is_whole, whole_checkpoints
from tir.sft.log import keep_until, log_records, read_trainer_log, seconds
from tir.sft.recipe import SftSettings, deepspeed_config, plan_steps, render_recipe
from tir.sft.render import IGNORE, RenderSettings, prompt_text, read_alpaca, render_rows, split_holdout, write_tokenized
from tir.sft.select import select_checkpoint

ROOT = Path(__file__).parents[1]
SFT_PYTHON = ROOT / ".venv/sft/bin/python"
ROW = {"instruction": "Use tools.", "input": "2+3?", "output": "<think>add</think><python>print(2+3)</python><result>\n5\n"
       "</result><think>so</think><answer>\\[ \\boxed{5} \\]</answer>"}
TINY = SftSettings(layout="system_role", mask_results=True, cutoff_tokens=128, holdout=0.1, epochs=2, per_device_batch=4,
                   accumulation=1, gpus=1, learning_rate=1e-3, precision="fp32", deepspeed=None, attention="sdpa",
                   gradient_checkpointing=False, logging_steps=2, device="cpu")


# --- rendering -----------------------------------------------------------------------------------------------------


def rendered(row: dict, **settings) -> tuple[list[int], list[int]]:
    out = next(iter(render_rows(qwen_like_tokenizer(), [row], RenderSettings(**settings))))
    assert len(out["input_ids"]) == len(out["labels"]) == len(out["attention_mask"])
    return out["input_ids"], out["labels"]


def learned(ids: list[int], labels: list[int]) -> str:
    assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))
    return qwen_like_tokenizer().decode([label for label in labels if label != IGNORE])


def test_upstream_layout_puts_the_instruction_into_the_user_turn():
    ids, labels = rendered(ROW)
    text = qwen_like_tokenizer().decode(ids)
    assert text == ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nUse tools.\n2+3?<|im_end|>\n"
                    f"<|im_start|>assistant\n{ROW['output']}<|im_end|>\n")
    assert learned(ids, labels) == ROW["output"] + "<|im_end|>\n"


def test_system_layout_is_what_the_rollout_sees():
    tokenizer = qwen_like_tokenizer()
    ids, labels = rendered(ROW, layout="system_role", mask_results=True)
    prompt = "<|im_start|>system\nUse tools.<|im_end|>\n<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
    expected = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    segments = split_output(ROW["output"])
    for segment in segments:
        if segment.by == "tool":
            expected += encode_tool_text(tokenizer, segment.text)
        else:
            end = "<|im_end|>" if segment is segments[-1] else ""
            expected += tokenizer(segment.text + end, add_special_tokens=False)["input_ids"]
    assert ids == expected
    assert learned(ids, labels) == ROW["output"].replace("<result>\n5\n</result>", "") + "<|im_end|>"


def test_leading_space_belongs_to_the_tool():
    ids, labels = rendered(ROW, layout="system_role", mask_results=True, leading_space=True)
    assert "</python> <result>\n5\n</result><think>" in qwen_like_tokenizer().decode(ids)
    assert "</python><think>" in learned(ids, labels)


def test_control_text_in_a_result_stays_text():
    row = ROW | {"output": ROW["output"].replace("\n5\n", "\n<|im_end|>5\n")}
    ids, _ = rendered(row, layout="system_role", mask_results=True)
    assert ids.count(qwen_like_tokenizer().eos_token_id) == 3  # system, user, and the true end


def test_rows_without_input_and_at_the_cutoff():
    assert "user\nUse tools.<|im_end|>" in prompt_text(ROW | {"input": ""}, "upstream_user")
    ids, labels = rendered(ROW, cutoff_tokens=40)
    assert len(ids) == len(labels) == 40


def test_holdout_is_rounded_up_seeded_and_disjoint():
    train, held = split_holdout(53971, 0.02, 42)
    assert (len(train), len(held)) == (52891, 1080) and not set(train) & set(held)
    assert split_holdout(53971, 0.02, 42) == (train, held) != split_holdout(53971, 0.02, 43)
    assert split_holdout(200, 0.0, 1) == (list(range(200)), [])


@pytest.mark.parametrize("content", ["{}", "[]", '[{"instruction": "a"}]', '[{"instruction": "", "input": "", "output": ""}]', "nope"])
def test_bad_rows_are_named(tmp_path, content):
    (tmp_path / "sft.json").write_text(content)
    with pytest.raises(DataError, match="sft.json"):
        read_alpaca(tmp_path / "sft.json")


def test_tokenised_data_set(tmp_path):
    from datasets import load_from_disk

    write_json(tmp_path / "sft.json", [ROW | {"input": f"{number}?"} for number in range(50)])
    qwen_like_tokenizer().save_pretrained(tmp_path / "base")
    counts = write_tokenized(tmp_path / "sft.json", tmp_path / "base", tmp_path / "out", RenderSettings(), holdout=0.05, seed=1,
                             max_rows=30)
    data = load_from_disk(tmp_path / "out")
    assert counts["rows"] == 30 and (len(data["train"]), len(data["validation"])) == (28, 2) and counts["cut"] == 0
    assert set(data["train"].column_names) == {"input_ids", "attention_mask", "labels"}
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


# --- arithmetic and recipe -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("work, total, boundaries", [
    ((53971, 0.02, 4, 8, 4, 3), 1239, (414, 828, 1239)),
    ((5000, 0.02, 4, 8, 4, 1), 38, (38,)),
    ((200, 0.0, 1, 8, 1, 1), 25, (25,)),
])
def test_steps_of_the_published_runs(work, total, boundaries):
    plan = plan_steps(*work)
    assert (plan.total, plan.boundaries) == (total, boundaries)
    assert plan.eval_rows in (1080, 100, 0)


def test_too_few_steps_for_a_checkpoint_per_epoch():
    with pytest.raises(ConfigError, match="too few steps"):
        plan_steps(20, 0.0, 4, 1, 4, 3)


def test_paper_recipe():
    plan = plan_steps(53971, 0.02, 4, 8, 4, 3)
    recipe = render_recipe(SftSettings(), plan, base="B", tokenized="T", output="O", deepspeed_file="D")
    expected = {"finetuning_type": "full", "stage": "sft", "template": "qwen", "cutoff_len": 4096, "learning_rate": 7e-6,
                "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "lr_scheduler_type": "cosine",
                "num_train_epochs": 3, "max_steps": 1239, "weight_decay": 0.1, "max_grad_norm": 1.0, "bf16": True,
                "flash_attn": "fa2", "deepspeed": "D", "save_strategy": "epoch", "eval_strategy": "epoch", "warmup_steps": 124,
                "tokenized_path": "T", "model_name_or_path": "B", "output_dir": "O"}
    assert {key: recipe[key] for key in expected} == expected and "use_cpu" not in recipe
    assert deepspeed_config("zero3")["zero_optimization"]["stage"] == 3


def test_cpu_recipe_has_no_gpu_in_it():
    recipe = render_recipe(TINY, plan_steps(40, 0.0, 4, 1, 1, 2), base="B", tokenized="T", output="O", resume="R")
    assert recipe["use_cpu"] and not recipe["bf16"] and "deepspeed" not in recipe and "eval_strategy" not in recipe
    assert recipe["resume_from_checkpoint"] == "R"


# --- checkpoints and log -------------------------------------------------------------------------------------------


def write_safetensors(path: Path, values: int = 4) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * values))


def write_checkpoint(output: Path, step: int) -> Path:
    path = output / f"checkpoint-{step}"
    path.mkdir(parents=True)
    write_safetensors(path / "model.safetensors")
    (path / "config.json").write_text("{}")
    write_json(path / "trainer_state.json", {"global_step": step})
    return path


def test_half_written_checkpoints_are_not_taken(tmp_path):
    whole = write_checkpoint(tmp_path, 3)
    broken = [write_checkpoint(tmp_path, step) for step in (5, 7, 9, 11)]
    (broken[0] / "trainer_state.json").unlink()
    (broken[1] / "trainer_state.json").write_text('{"global_step": 7')
    (broken[2] / "model.safetensors").write_bytes((broken[2] / "model.safetensors").read_bytes()[:-3])
    (broken[3] / "model.safetensors").write_bytes(b"\0" * 5)
    assert is_whole(whole) and not any(map(is_whole, broken))
    assert weights_fault(broken[2] / "model.safetensors")
    assert whole_checkpoints(tmp_path) == {3: whole} and not any(path.exists() for path in broken)


def test_log_of_a_resumed_run(tmp_path):
    path = tmp_path / "trainer_log.jsonl"
    first = [{"current_steps": 10, "loss": 2.0, "lr": 1e-3, "epoch": 0.5, "elapsed_time": "0:01:00"},
             {"current_steps": 20, "loss": 1.0, "lr": 1e-3, "epoch": 1.0, "elapsed_time": "0:02:00"},
             {"current_steps": 20, "eval_loss": 1.5, "epoch": 1.0, "elapsed_time": "0:02:05"},
             {"current_steps": 30, "loss": 0.9, "lr": 1e-3, "epoch": 1.5, "elapsed_time": "0:03:00"}]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in first) + '{"current_steps": 4')
    keep_until(path, 20)
    with open(path, "a") as file:
        file.write(json.dumps({"current_steps": 30, "loss": 0.8, "lr": 5e-4, "epoch": 1.5, "elapsed_time": "0:00:30"}) + "\n")
        file.write(json.dumps({"current_steps": 40, "percentage": 100.0, "elapsed_time": "0:01:00"}) + "\n")
    records = log_records(read_trainer_log(path))
    assert [record["step"] for record in records] == [10, 20, 30]
    assert records[1] == {"step": 20, "epoch": 1.0, "loss": 1.0, "lr": 1e-3, "eval_loss": 1.5, "elapsed": 125.0}
    assert records[2]["loss"] == 0.8 and records[2]["elapsed"] == 155.0


def test_clock():
    assert seconds("1:02:03") == 3723 and seconds("2 days, 0:00:01") == 172801 and seconds("1 day, 1:00:00") == 90000


# --- the supervised run --------------------------------------------------------------------------------------------

FAKE = '''
    """Stands in for LLaMA-Factory: same arguments, same files, a step every FAKE_STEP seconds."""
    import json, os, pathlib, struct, sys, time
    import yaml

    recipe = yaml.safe_load(open(sys.argv[2]))
    output = pathlib.Path(recipe["output_dir"])
    output.mkdir(parents=True, exist_ok=True)
    resume = recipe.get("resume_from_checkpoint")
    start = int(resume.rsplit("-", 1)[1]) if resume else 0
    with open(output / "starts.txt", "a") as file:
        file.write(f"{start} {os.getpid()}\\n")
    if os.environ.get("FAKE_FAIL"):
        sys.exit("out of memory, says the fake")
    total, epochs = recipe["max_steps"], recipe["num_train_epochs"]
    for step in range(start + 1, total + 1):
        time.sleep(float(os.environ.get("FAKE_STEP", "0")))
        entries = [{"current_steps": step, "loss": 1 / step, "lr": 1e-3, "epoch": step * epochs / total, "elapsed_time": "0:00:01"}]
        if step % (total // epochs) == 0:
            entries.append({"current_steps": step, "eval_loss": 2 / step, "elapsed_time": "0:00:01"})
            checkpoint = output / f"checkpoint-{step}"
            checkpoint.mkdir()
            header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
            (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", step))
            (checkpoint / "config.json").write_text("{}")
            if os.environ.get("FAKE_HALF") == str(step):
                os.kill(os.getpid(), 9)
            (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        with open(output / "trainer_log.jsonl", "a") as file:
            file.writelines(json.dumps(entry) + "\\n" for entry in entries)
'''


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A base model, data, and a stand-in for LLaMA-Factory on the path of child processes."""
    package = tmp_path / "fake" / "llamafactory"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text(textwrap.dedent(FAKE))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{ROOT}")
    monkeypatch.setattr(training, "_POLL_SECONDS", 0.05)
    qwen_like_tokenizer().save_pretrained(tmp_path / "base")
    write_safetensors(tmp_path / "base" / "model.safetensors")
    write_json(tmp_path / "sft.json", [ROW | {"input": f"{number}?"} for number in range(40)])
    return tmp_path


def run(bench: Path, settings: SftSettings = TINY) -> None:
    training.train(bench / "base", bench / "sft.json", bench / "run", bench / "models", settings)


def test_a_run_leaves_a_model_per_epoch_and_a_log(bench):
    run(bench)
    for epoch, step in ((1, 9), (2, 18)):
        model = bench / "models" / f"sft-epoch{epoch}"
        manifest = read_json(model / "manifest.json")
        assert (manifest["model"], manifest["step"], manifest["epoch"], manifest["base"]) == (f"sft-epoch{epoch}", step, epoch, "base")
        assert (model / "tokenizer.json").read_bytes() == (bench / "base" / "tokenizer.json").read_bytes()
        assert set(manifest["sha256"]) == {"model.safetensors"}
    records = read_jsonl(bench / "run" / "log.jsonl")
    assert [record["step"] for record in records] == list(range(1, 19)) and records[8]["eval_loss"] == 2 / 9
    assert not list((bench / "run" / "checkpoints").glob("checkpoint-*"))


def test_running_again_does_nothing_and_other_settings_start_anew(bench):
    run(bench)
    first = (bench / "run" / "log.jsonl").read_bytes()
    run(bench)
    assert len((bench / "run" / "checkpoints" / "starts.txt").read_text().splitlines()) == 1
    assert (bench / "run" / "log.jsonl").read_bytes() == first
    run(bench, SftSettings(**{**vars(TINY), "epochs": 1}))
    assert read_json(bench / "models" / "sft-epoch1" / "manifest.json")["step"] == 9
    assert len(read_jsonl(bench / "run" / "log.jsonl")) == 9


def test_a_checkpoint_cut_off_by_a_kill_is_not_taken_up(bench, monkeypatch):
    monkeypatch.setenv("FAKE_HALF", "18")
    with pytest.raises(InfrastructureFault, match="LLaMA-Factory failed"):
        run(bench)
    monkeypatch.delenv("FAKE_HALF")
    run(bench)
    starts = [line.split()[0] for line in (bench / "run" / "checkpoints" / "starts.txt").read_text().splitlines()]
    assert starts == ["0", "9"]
    assert [record["step"] for record in read_jsonl(bench / "run" / "log.jsonl")] == list(range(1, 19))


def test_a_failure_names_the_log_and_the_reason(bench, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "1")
    with pytest.raises(InfrastructureFault, match="out of memory, says the fake") as fault:
        run(bench)
    assert "llamafactory.log" in str(fault.value) and not (bench / "models").exists()


def test_a_run_that_ends_without_its_checkpoints_is_an_error(bench, monkeypatch):
    (bench / "fake" / "llamafactory" / "cli.py").write_text("")
    with pytest.raises(CheckpointError, match="checkpoints missing"):
        run(bench)


def test_sigterm_ends_the_child_and_the_next_run_continues(bench):
    command = [sys.executable, "-m", "scripts.train_sft", "--base", bench / "base", "--data", bench / "sft.json",
               "--run-dir", bench / "run", "--models-dir", bench / "models", "--params", json.dumps(vars(TINY))]
    slow = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, FAKE_STEP="0.1"), stderr=subprocess.PIPE, text=True)
    starts = bench / "run" / "checkpoints" / "starts.txt"
    deadline = time.monotonic() + 60
    while not (bench / "run" / "checkpoints" / "checkpoint-9" / "trainer_state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    slow.send_signal(signal.SIGTERM)
    _, errors = slow.communicate(timeout=60)
    assert slow.returncode == 130 and "run the same command to continue" in errors
    child = int(starts.read_text().split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert not (bench / "models").exists()
    subprocess.run(command, cwd=ROOT, check=True, timeout=60, capture_output=True)
    assert [line.split()[0] for line in starts.read_text().splitlines()] == ["0", "9"]
    assert (bench / "models" / "sft-epoch2" / "manifest.json").exists()


# --- selection -----------------------------------------------------------------------------------------------------


def model(directory: Path, name: str, step: int) -> Path:
    path = directory / name
    path.mkdir(parents=True)
    write_safetensors(path / "model.safetensors", step)
    write_json(path / "manifest.json", {"model": name, "step": step, "epoch": step, "sha256": {"model.safetensors": "x"}})
    return path / "manifest.json"


def test_the_lowest_evaluation_loss_is_selected(tmp_path):
    manifests = [model(tmp_path, f"sft-epoch{step}", step) for step in (1, 2, 3)]
    write_jsonl(tmp_path / "log.jsonl", [{"step": step, "eval_loss": loss} for step, loss in ((1, 0.6576), (2, 0.6471), (3, 0.6497))])
    selected = select_checkpoint(tmp_path / "log.jsonl", manifests, tmp_path / "sft")
    assert selected["selected"] == "sft-epoch2" and selected["model"] == "sft" and selected["eval_loss"] == 0.6471
    assert read_json(tmp_path / "sft" / "manifest.json") == selected
    assert (tmp_path / "sft" / "model.safetensors").read_bytes() == (tmp_path / "sft-epoch2" / "model.safetensors").read_bytes()
    select_checkpoint(tmp_path / "log.jsonl", manifests[:1], tmp_path / "sft")
    assert read_json(tmp_path / "sft" / "manifest.json")["selected"] == "sft-epoch1"


def test_an_epoch_without_its_loss_or_weights_is_an_error(tmp_path):
    manifests = [model(tmp_path, f"sft-epoch{step}", step) for step in (1, 2)]
    write_jsonl(tmp_path / "log.jsonl", [{"step": 1, "eval_loss": 0.5}])
    with pytest.raises(DataError, match="sft-epoch2"):
        select_checkpoint(tmp_path / "log.jsonl", manifests, tmp_path / "sft")
    (tmp_path / "sft-epoch1" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="weights missing"):
        select_checkpoint(tmp_path / "log.jsonl", manifests[:1], tmp_path / "sft")


# --- the real LLaMA-Factory ----------------------------------------------------------------------------------------

PARITY = """
    import json, sys
    from llamafactory.data.template import TEMPLATES
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    rows = json.load(open(sys.argv[2]))
    ids = []
    for row in rows:
        user = {"role": "user", "content": row["instruction"] + "\\n" + row["input"]}
        pair = TEMPLATES["qwen"].encode_oneturn(tokenizer, [user, {"role": "assistant", "content": row["output"]}],
                                                system="You are a helpful assistant.")
        ids.append(pair)
    print("IDS" + json.dumps(ids))
"""


@pytest.mark.slow
@pytest.mark.skipif(not SFT_PYTHON.exists(), reason="no .venv/sft")
def test_upstream_layout_gives_llamafactorys_own_ids(tmp_path):
    rows = [ROW, ROW | {"input": "What is <b>?\n\n x "}, ROW | {"output": ROW["output"].replace("</think>", ".</think>\n\n")}]
    qwen_like_tokenizer().save_pretrained(tmp_path / "base")
    write_json(tmp_path / "rows.json", rows)
    done = subprocess.run([SFT_PYTHON, "-c", textwrap.dedent(PARITY), tmp_path / "base", tmp_path / "rows.json"],
                          capture_output=True, text=True, timeout=180, check=True)
    theirs = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("IDS"))[3:])
    ours = list(render_rows(qwen_like_tokenizer(), rows, RenderSettings()))
    assert [row["input_ids"] for row in ours] == [prompt + response for prompt, response in theirs]
    assert [row["labels"] for row in ours] == [[IGNORE] * len(prompt) + response for prompt, response in theirs]


@pytest.mark.slow
@pytest.mark.skipif(not SFT_PYTHON.exists(), reason="no .venv/sft")
def test_real_llamafactory_run_killed_and_continued(tmp_path):
    from transformers import AutoModelForCausalLM

    from tir.tiny_model import TinyModelSettings, make_tiny_model

    rows = [ROW | {"input": f"{number}+3?", "output": ROW["output"].replace("2+3", f"{number}+3")} for number in range(60)]
    write_json(tmp_path / "sft.json", rows)
    make_tiny_model([row["output"] for row in rows], tmp_path / "base",
                    TinyModelSettings(vocab_size=300, hidden=64, layers=2, heads=2, intermediate=64))
    command = [SFT_PYTHON, "-m", "scripts.train_sft", "--base", tmp_path / "base", "--data", tmp_path / "sft.json",
               "--run-dir", tmp_path / "run", "--models-dir", tmp_path / "models", "--params",
               json.dumps(vars(TINY) | {"per_device_batch": 2, "epochs": 3})]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "run").glob("checkpoints/checkpoint-27/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    first.terminate()
    first.wait(timeout=60)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "resuming from step" in done.stderr or first.returncode == 0
    records = read_jsonl(tmp_path / "run" / "log.jsonl")
    assert [record["step"] for record in records if "eval_loss" in record] == [27, 54, 81]
    assert records[-1]["loss"] < records[0]["loss"]
    select_checkpoint(tmp_path / "run" / "log.jsonl", [tmp_path / "models" / f"sft-epoch{n}" for n in (1, 2, 3)], tmp_path / "sft")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "sft").config.hidden_size == 64
