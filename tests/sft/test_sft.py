"""Fine-tuning: rendering, number of steps, recipe, interrupted and resumed runs, and selection of a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from support.paths import ROOT
from support.processes import alive
from support.qwen_like import qwen_like_tokenizer
from support.sft_runs import ROW, on_cpu, sft_run

from tir.common.errors import CheckpointError, ConfigError, DataError, InfrastructureFault
from tir.common.model_files import weights_fault
from tir.common.records import read_json, read_jsonl, write_json, write_jsonl
from tir.config.params import params
from tir.rollout.protocol import encode_tool_text, split_output
from tir.sft import launcher
from tir.sft import train as training
from tir.sft.checkpoints import complete_checkpoints, is_complete, prune
from tir.sft.log import keep_until, log_records, read_trainer_log, seconds
from tir.sft.recipe import deepspeed_config, plan_steps, render_recipe
from tir.sft.render import IGNORE, messages, read_alpaca, render_rows, split_holdout, write_tokenized
from tir.sft.run import SftRun
from tir.sft.select import select_checkpoint

# --- rendering -----------------------------------------------------------------------------------------------------


def rendered(row: dict, **settings) -> tuple[list[int], list[int]]:
    out = next(iter(render_rows(qwen_like_tokenizer(), [row], sft_run(**settings))))
    assert len(out["input_ids"]) == len(out["labels"]) == len(out["attention_mask"])
    return out["input_ids"], out["labels"]


def learned(ids: list[int], labels: list[int]) -> str:
    assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))
    return qwen_like_tokenizer().decode([label for label in labels if label != IGNORE])


def test_upstream_layout_puts_the_instruction_into_the_user_turn():
    ids, labels = rendered(ROW)
    text = qwen_like_tokenizer().decode(ids)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nUse tools.\n2+3?<|im_end|>\n"
        f"<|im_start|>assistant\n{ROW['output']}<|im_end|>\n"
    )
    assert learned(ids, labels) == ROW["output"] + "<|im_end|>\n"


def test_system_layout_gives_the_ids_of_the_rollout():
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


def test_the_leading_space_is_not_in_the_loss():
    ids, labels = rendered(ROW, layout="system_role", mask_results=True, leading_space=True)
    assert "</python> <result>\n5\n</result><think>" in qwen_like_tokenizer().decode(ids)
    assert "</python><think>" in learned(ids, labels)


def test_control_tokens_in_a_result_are_encoded_as_text():
    row = ROW | {"output": ROW["output"].replace("\n5\n", "\n<|im_end|>5\n")}
    ids, _ = rendered(row, layout="system_role", mask_results=True)
    assert ids.count(qwen_like_tokenizer().eos_token_id) == 3  # ends of the system, user and assistant turns


def test_rows_without_input_and_rows_longer_than_the_cutoff():
    assert messages(ROW | {"input": ""}, "upstream_user") == ("You are a helpful assistant.", "Use tools.")
    ids, labels = rendered(ROW, cutoff_tokens=40)
    assert len(ids) == len(labels) == 40


def test_holdout_is_rounded_up_seeded_and_disjoint():
    train, held = split_holdout(53971, 0.02, 42)
    assert (len(train), len(held)) == (52891, 1080) and not set(train) & set(held)
    assert split_holdout(53971, 0.02, 42) == (train, held) != split_holdout(53971, 0.02, 43)
    assert split_holdout(200, 0.0, 1) == (list(range(200)), [])


@pytest.mark.parametrize(
    "content", ["{}", "[]", '[{"instruction": "a"}]', '[{"instruction": "", "input": "", "output": ""}]', "nope"]
)
def test_errors_of_invalid_rows_name_the_file(tmp_path, content):
    (tmp_path / "sft.json").write_text(content)
    with pytest.raises(DataError, match="sft.json"):
        read_alpaca(tmp_path / "sft.json")


def test_the_tokenised_data_set_has_splits_and_columns(tmp_path):
    from datasets import load_from_disk

    write_json(tmp_path / "sft.json", [ROW | {"input": f"{number}?"} for number in range(50)])
    qwen_like_tokenizer().save_pretrained(tmp_path / "base")
    counts = write_tokenized(
        tmp_path / "sft.json", tmp_path / "base", tmp_path / "out", sft_run(holdout=0.05, seed=1, max_rows=30)
    )
    data = load_from_disk(tmp_path / "out")
    assert counts["rows"] == 30 and (len(data["train"]), len(data["validation"])) == (28, 2) and counts["cut"] == 0
    assert set(data["train"].column_names) == {"input_ids", "attention_mask", "labels"}
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


# --- steps and recipe ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "work, total, boundaries",
    [
        ((53971, 0.02, 128, 3), 1239, (414, 828, 1239)),
        ((5000, 0.02, 128, 1), 38, (38,)),
        ((200, 0.0, 8, 1), 25, (25,)),
    ],
)
def test_number_of_steps_of_the_papers_runs(work, total, boundaries):
    plan = plan_steps(*work)
    assert (plan.total, plan.boundaries) == (total, boundaries)
    assert plan.within == tuple((begin + end) // 2 for begin, end in zip((0, *boundaries), boundaries))
    assert plan.eval_rows in (1080, 100, 0)


def test_too_few_steps_for_a_checkpoint_per_epoch_are_an_error():
    with pytest.raises(ConfigError, match="too few steps"):
        plan_steps(20, 0.0, 16, 3)


def test_the_default_recipe_is_the_papers():
    plan = plan_steps(53971, 0.02, 128, 3)
    recipe = render_recipe(sft_run(), plan, base="B", tokenized="T", output="O", deepspeed_file="D")
    expected = {
        "finetuning_type": "full",
        "stage": "sft",
        "template": "empty",
        "cutoff_len": 4096,
        "learning_rate": 7e-6,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": 3,
        "max_steps": 1239,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "bf16": True,
        "flash_attn": "sdpa",
        "logging_steps": 1,
        "deepspeed": "D",
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "warmup_steps": 124,
        "tokenized_path": "T",
        "model_name_or_path": "B",
        "output_dir": "O",
    }
    assert {key: recipe[key] for key in expected} == expected and "use_cpu" not in recipe
    assert deepspeed_config("zero3")["zero_optimization"]["stage"] == 3


def test_the_cpu_recipe_needs_no_gpu():
    recipe = render_recipe(on_cpu(), plan_steps(40, 0.0, 4, 2), base="B", tokenized="T", output="O", resume="R")
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


def test_incomplete_checkpoints_are_deleted(tmp_path):
    complete = write_checkpoint(tmp_path, 3)
    broken = [write_checkpoint(tmp_path, step) for step in (5, 7, 9, 11, 13)]
    with zipfile.ZipFile(broken[4] / "optimizer.pt", "w") as archive:
        archive.writestr("data", bytes(1000))
    shutil.copy(broken[4] / "optimizer.pt", complete)
    (broken[4] / "optimizer.pt").write_bytes((broken[4] / "optimizer.pt").read_bytes()[:500])
    (broken[0] / "trainer_state.json").unlink()
    (broken[1] / "trainer_state.json").write_text('{"global_step": 7')
    (broken[2] / "model.safetensors").write_bytes((broken[2] / "model.safetensors").read_bytes()[:-3])
    (broken[3] / "model.safetensors").write_bytes(b"\0" * 5)
    assert is_complete(complete) and not any(map(is_complete, broken))
    assert weights_fault(broken[2] / "model.safetensors")
    assert complete_checkpoints(tmp_path) == {3: complete} and not any(path.exists() for path in broken)


def test_the_log_of_a_resumed_run_has_each_step_once_and_the_total_time(tmp_path):
    path = tmp_path / "trainer_log.jsonl"
    first = [
        {"current_steps": 10, "loss": 2.0, "lr": 1e-3, "epoch": 0.5, "elapsed_time": "0:01:00"},
        {"current_steps": 20, "loss": 1.0, "lr": 1e-3, "epoch": 1.0, "elapsed_time": "0:02:00"},
        {"current_steps": 20, "eval_loss": 1.5, "epoch": 1.0, "elapsed_time": "0:02:05"},
        {"current_steps": 30, "loss": 0.9, "lr": 1e-3, "epoch": 1.5, "elapsed_time": "0:03:00"},
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in first) + '{"current_steps": 4')
    keep_until(path, 20)
    with open(path, "a") as file:
        file.write(
            json.dumps({"current_steps": 30, "loss": 0.8, "lr": 5e-4, "epoch": 1.5, "elapsed_time": "0:00:30"}) + "\n"
        )
        file.write(json.dumps({"current_steps": 40, "percentage": 100.0, "elapsed_time": "0:01:00"}) + "\n")
    records = log_records(read_trainer_log(path))
    assert [record["step"] for record in records] == [10, 20, 30]
    assert records[1] == {"step": 20, "epoch": 1.0, "loss": 1.0, "lr": 1e-3, "eval_loss": 1.5, "elapsed": 125.0}
    assert records[2]["loss"] == 0.8 and records[2]["elapsed"] == 155.0


def test_clock_times_are_converted_to_seconds():
    assert seconds("1:02:03") == 3723 and seconds("2 days, 0:00:01") == 172801 and seconds("1 day, 1:00:00") == 90000


def test_a_checkpoint_of_several_processes_needs_the_state_of_each(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 3)
    for rank in (0, 1):
        assert not is_complete(checkpoint, 2)
        with zipfile.ZipFile(checkpoint / f"rng_state_{rank}.pth", "w") as archive:
            archive.writestr("data", b"")
    assert is_complete(checkpoint, 2) and not is_complete(checkpoint, 3)


def test_only_the_newest_checkpoint_within_an_epoch_is_kept(tmp_path):
    for step in (4, 9, 13, 16):
        write_checkpoint(tmp_path, step)
    prune(tmp_path, (9, 18), 16)
    assert list(complete_checkpoints(tmp_path)) == [9, 16]


# --- the run -------------------------------------------------------------------------------------------------------

FAKE = '''
    """Fake of `tir.sft.entry`: the same arguments and files; a step takes FAKE_STEP seconds."""
    import json, os, pathlib, struct, sys, time
    import yaml

    directory = pathlib.Path(sys.argv[1])
    recipe = yaml.safe_load((directory / "recipe.yaml").read_text())
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
        (directory / "alive").touch()
        if (directory / "stop").exists():
            sys.exit(0)
        if os.environ.get("FAKE_HANG") == str(step):
            time.sleep(600)
        entries = [{"current_steps": step, "loss": 1 / step, "lr": 1e-3, "epoch": step * epochs / total,
                    "elapsed_time": "0:00:01"}]
        if step % (total // epochs) == 0:
            entries.append({"current_steps": step, "eval_loss": 2 / step, "elapsed_time": "0:00:01"})
            checkpoint = output / f"checkpoint-{step}"
            checkpoint.mkdir()
            header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
            weights = struct.pack("<Q", len(header)) + header + struct.pack("<f", step)
            (checkpoint / "model.safetensors").write_bytes(weights)
            (checkpoint / "config.json").write_text("{}")
            if os.environ.get("FAKE_HALF") == str(step):
                os.kill(os.getpid(), 9)
            (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        with open(output / "trainer_log.jsonl", "a") as file:
            file.writelines(json.dumps(entry) + "\\n" for entry in entries)
'''


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A directory with a base model and data; the fake trains."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "fake_trainer.py").write_text(textwrap.dedent(FAKE))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{ROOT}")
    monkeypatch.setattr(training, "ENTRY", "fake_trainer")
    monkeypatch.setattr(launcher, "_POLL_SECONDS", 0.05)
    qwen_like_tokenizer().save_pretrained(tmp_path / "base")
    write_safetensors(tmp_path / "base" / "model.safetensors")
    write_json(tmp_path / "sft.json", [ROW | {"input": f"{number}?"} for number in range(40)])
    return tmp_path


def run(bench: Path, **sft) -> None:
    training.train(bench / "base", bench / "sft.json", bench / "run", bench / "models", on_cpu(**sft))


def test_a_run_writes_a_model_per_epoch_and_a_log(bench):
    run(bench)
    for epoch, step in ((1, 9), (2, 18)):
        model = bench / "models" / f"sft-epoch{epoch}"
        manifest = read_json(model / "manifest.json")
        assert (manifest["model"], manifest["step"], manifest["epoch"], manifest["base"]) == (
            f"sft-epoch{epoch}",
            step,
            epoch,
            "base",
        )
        assert (model / "tokenizer.json").read_bytes() == (bench / "base" / "tokenizer.json").read_bytes()
        assert set(manifest["sha256"]) == {"model.safetensors"}
    records = read_jsonl(bench / "run" / "log.jsonl")
    assert [record["step"] for record in records] == list(range(1, 19)) and records[8]["eval_loss"] == 2 / 9
    assert not list((bench / "run" / "checkpoints").glob("checkpoint-*"))


def test_a_finished_run_is_not_repeated_unless_settings_change(bench):
    run(bench)
    first = (bench / "run" / "log.jsonl").read_bytes()
    run(bench)
    assert len((bench / "run" / "checkpoints" / "starts.txt").read_text().splitlines()) == 1
    assert (bench / "run" / "log.jsonl").read_bytes() == first
    run(bench, epochs=1)
    assert read_json(bench / "models" / "sft-epoch1" / "manifest.json")["step"] == 9
    assert len(read_jsonl(bench / "run" / "log.jsonl")) == 9


def test_a_run_does_not_resume_from_an_incomplete_checkpoint(bench, monkeypatch):
    monkeypatch.setenv("FAKE_HALF", "18")
    with pytest.raises(InfrastructureFault, match="LLaMA-Factory failed"):
        run(bench)
    monkeypatch.delenv("FAKE_HALF")
    run(bench)
    starts = [line.split()[0] for line in (bench / "run" / "checkpoints" / "starts.txt").read_text().splitlines()]
    assert starts == ["0", "9"]
    assert [record["step"] for record in read_jsonl(bench / "run" / "log.jsonl")] == list(range(1, 19))


def test_an_error_of_the_trainer_names_the_log_and_the_reason(bench, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "1")
    with pytest.raises(InfrastructureFault, match="out of memory, says the fake") as fault:
        run(bench)
    assert "llamafactory.log" in str(fault.value) and not (bench / "models").exists()


def test_a_run_that_ends_without_its_checkpoints_is_an_error(bench, monkeypatch):
    (bench / "fake" / "fake_trainer.py").write_text("")
    with pytest.raises(CheckpointError, match="checkpoints are missing"):
        run(bench)


def test_a_run_that_hangs_is_ended(bench, monkeypatch):
    monkeypatch.setenv("FAKE_HANG", "12")
    with pytest.raises(InfrastructureFault, match="training hangs"):
        training.train(
            bench / "base",
            bench / "sft.json",
            bench / "run",
            bench / "models",
            SftRun(on_cpu().sft.model_copy(update={"stall_s": 1}), "cpu", False),
        )
    child = int((bench / "run" / "checkpoints" / "starts.txt").read_text().split()[1])
    assert not alive(child)
    monkeypatch.delenv("FAKE_HANG")
    run(bench)
    assert len(read_jsonl(bench / "run" / "log.jsonl")) == 18


def test_checkpoints_of_another_number_of_processes_are_not_used(bench, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_HALF", "18")
    with pytest.raises(InfrastructureFault):
        run(bench)
    monkeypatch.delenv("FAKE_HALF")
    (bench / "run" / "processes").write_text("2")
    run(bench)
    assert "starting again" in capsys.readouterr().err
    assert (bench / "run" / "checkpoints" / "starts.txt").read_text().startswith("0 ")


def test_sigterm_ends_the_child_and_the_next_run_continues(bench):
    command = [
        sys.executable,
        "-c",
        "from scripts import train_sft; from tir.common import cli; from tir.sft import train; train.ENTRY = "
        "'fake_trainer'; cli.run(train_sft.main)",
        "--base",
        bench / "base",
        "--data",
        bench / "sft.json",
        "--run-dir",
        bench / "run",
        "--models-dir",
        bench / "models",
        "--params",
        params(**vars(on_cpu())),
    ]
    slow = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, FAKE_STEP="0.1"), stderr=subprocess.PIPE, text=True)
    starts = bench / "run" / "checkpoints" / "starts.txt"
    deadline = time.monotonic() + 60
    while (
        not (bench / "run" / "checkpoints" / "checkpoint-9" / "trainer_state.json").exists()
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    slow.send_signal(signal.SIGTERM)
    _, errors = slow.communicate(timeout=60)
    assert slow.returncode == 130 and "run the same command again to continue" in errors
    assert not alive(int(starts.read_text().split()[1]))
    assert not (bench / "models").exists()
    subprocess.run(command, cwd=ROOT, check=True, timeout=60, capture_output=True)
    assert [line.split()[0] for line in starts.read_text().splitlines()] == ["0", "9"]
    assert (bench / "models" / "sft-epoch2" / "manifest.json").exists()


# --- selection -----------------------------------------------------------------------------------------------------


def model(directory: Path, name: str, step: int) -> Path:
    path = directory / name
    path.mkdir(parents=True)
    write_safetensors(path / "model.safetensors", step)
    write_json(
        path / "manifest.json", {"model": name, "step": step, "epoch": step, "sha256": {"model.safetensors": "x"}}
    )
    return path


def test_the_lowest_evaluation_loss_is_selected(tmp_path):
    models = [model(tmp_path / "models", f"sft-epoch{step}", step) for step in (1, 2, 3)]
    write_jsonl(
        tmp_path / "log.jsonl",
        [{"step": step, "eval_loss": loss} for step, loss in ((1, 0.6576), (2, 0.6471), (3, 0.6497))],
    )
    selected = select_checkpoint(tmp_path / "models", tmp_path / "log.jsonl", tmp_path / "sft")
    assert selected["selected"] == "sft-epoch2" and selected["model"] == "sft" and selected["eval_loss"] == 0.6471
    assert read_json(tmp_path / "sft" / "manifest.json") == selected
    assert (tmp_path / "sft" / "model.safetensors").samefile(models[1] / "model.safetensors")
    shutil.rmtree(models[1])
    select_checkpoint(tmp_path / "models", tmp_path / "log.jsonl", tmp_path / "sft")
    assert read_json(tmp_path / "sft" / "manifest.json")["selected"] == "sft-epoch3"


def test_a_given_epoch_is_selected_with_its_manifest(tmp_path):
    first, second = (model(tmp_path / "models", f"sft-epoch{step}", step) for step in (1, 2))
    write_jsonl(tmp_path / "log.jsonl", [{"step": 1, "eval_loss": 0.5}, {"step": 2, "eval_loss": 0.4}])
    select_checkpoint(tmp_path / "models", tmp_path / "log.jsonl", tmp_path / "sft-epoch1", epoch=1)
    selected = tmp_path / "sft-epoch1"
    assert (selected / "manifest.json").read_bytes() == (first / "manifest.json").read_bytes()
    assert (selected / "model.safetensors").samefile(first / "model.safetensors")
    with pytest.raises(DataError, match="no model of epoch 3.*the run has models of epochs 1, 2"):
        select_checkpoint(tmp_path / "models", tmp_path / "log.jsonl", tmp_path / "sft-epoch3", epoch=3)


def test_an_epoch_without_evaluation_loss_or_weights_is_an_error(tmp_path):
    models = [model(tmp_path / "models", f"sft-epoch{step}", step) for step in (1, 2)]
    write_jsonl(tmp_path / "log.jsonl", [{"step": 1, "eval_loss": 0.5}])
    with pytest.raises(DataError, match="sft-epoch2"):
        select_checkpoint(tmp_path / "models", tmp_path / "log.jsonl", tmp_path / "sft")
    (models[0] / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="weights missing"):
        select_checkpoint(tmp_path / "models", tmp_path / "log.jsonl", tmp_path / "sft")
