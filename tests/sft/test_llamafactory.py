"""Fine-tuning with the real LLaMA-Factory, in one process and in two: token ids, interruptions, resumed runs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml
from support.event_files import scalars
from support.processes import descendants
from support.qwen_like import qwen_like_tokenizer
from support.sft_runs import ROW, on_cpu, sft_run
from support.training_runs import SFT_PYTHON, Training, gone

from tir.common.records import read_json, read_jsonl, write_json
from tir.config.params import operational_params, params
from tir.config.site import Tracking
from tir.sft.checkpoints import complete_checkpoints
from tir.sft.log import log_records, read_trainer_log
from tir.sft.render import IGNORE, render_rows
from tir.sft.select import select_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SFT_PYTHON.exists(), reason="no .venv/sft"),
]

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


def test_upstream_layout_gives_the_ids_of_llamafactory(tmp_path):
    rows = [
        ROW,
        ROW | {"input": "What is <b>?\n\n x "},
        ROW | {"output": ROW["output"].replace("</think>", ".</think>\n\n")},
    ]
    qwen_like_tokenizer().save_pretrained(tmp_path / "base")
    write_json(tmp_path / "rows.json", rows)
    done = subprocess.run(
        [SFT_PYTHON, "-c", textwrap.dedent(PARITY), tmp_path / "base", tmp_path / "rows.json"],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    theirs = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("IDS"))[3:])
    ours = list(render_rows(qwen_like_tokenizer(), rows, sft_run()))
    assert [row["input_ids"] for row in ours] == [prompt + response for prompt, response in theirs]
    assert [row["labels"] for row in ours] == [[IGNORE] * len(prompt) + response for prompt, response in theirs]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A directory with a tiny base model and 120 rows of different lengths."""
    from tir.config.world import TinyModelSettings
    from tir.world.tiny_model import make_tiny_model

    directory = tmp_path_factory.mktemp("inputs")
    rows = [
        ROW
        | {
            "input": f"{number}+3?",
            "output": ROW["output"].replace("2+3", f"{number}+3").replace("add", "add " * (1 + number * 7 % 11)),
        }
        for number in range(120)
    ]
    write_json(directory / "sft.json", rows)
    make_tiny_model(
        [row["output"] for row in rows],
        directory / "base",
        TinyModelSettings(vocab_size=300, hidden=64, layers=2, heads=2, intermediate=64),
    )
    return directory


class FineTuning(Training):
    """Fine-tuning of the tiny model."""

    def __init__(self, inputs: Path, directory: Path, **sft):
        run = on_cpu(**{"epochs": 3, "logging_steps": 1, "cutoff_tokens": 256} | sft)
        self.models = directory / "models"
        arguments = {
            "--base": inputs / "base",
            "--data": inputs / "sft.json",
            "--run-dir": directory / "run",
            "--models-dir": self.models,
            "--params": params(sft=run.sft, device=run.device, leading_space=run.leading_space),
            "--operational": operational_params(sft=run.sft),
            "--tracking": Tracking(directory=str(directory / "tracking")).model_dump_json(),
        }
        super().__init__("scripts.train_sft", directory / "run", arguments)

    def losses(self) -> dict[int, tuple]:
        return {each["step"]: (each.get("loss"), each.get("eval_loss")) for each in read_jsonl(self.run / "log.jsonl")}


def test_steps_have_the_loss_of_llamafactorys_own_batches_however_they_are_divided(inputs, tmp_path):
    """52 steps of 8 rows: padded rows in two passes of four, as LLaMA-Factory does it, and rows laid end to end."""
    settings = {"batch_rows": 8, "epochs": 4}
    single = FineTuning(inputs, tmp_path / "single", **settings)
    assert "1 forward passes" in single.finish()
    two = FineTuning(inputs, tmp_path / "two", processes=2, micro_batch_tokens=250, **settings)
    assert "2 processes with 2 forward passes each" in two.finish()
    padded = FineTuning(inputs, tmp_path / "padded", attention="eager", micro_batch_tokens=200, **settings)
    padded.finish()

    recipe = yaml.safe_load((single.run / "recipe.yaml").read_text())
    recipe |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 4}
    recipe["output_dir"] = str(tmp_path / "theirs")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [SFT_PYTHON, "-m", "llamafactory.cli", "train", tmp_path / "recipe.yaml"]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    theirs = log_records(read_trainer_log(tmp_path / "theirs" / "trainer_log.jsonl"))
    assert len(theirs) == 52
    curve = scalars(tmp_path / "single/tracking/tensorboard/sft-run", "train/loss")
    assert curve == [(each["step"], pytest.approx(each["loss"], abs=1e-4)) for each in theirs if "loss" in each]
    for ours in (single, two, padded):
        found = ours.losses()
        for each in theirs:
            loss, evaluated = found[each["step"]]
            assert loss == pytest.approx(each["loss"], abs=1e-4), each["step"]
            assert evaluated == (pytest.approx(each["eval_loss"], abs=1e-4) if "eval_loss" in each else None)


def test_a_run_in_one_process_resumes_after_sigterm_with_the_same_log(inputs, tmp_path):
    from transformers import AutoModelForCausalLM

    undisturbed = FineTuning(inputs, tmp_path / "undisturbed", logging_steps=4)
    undisturbed.finish()
    training = FineTuning(inputs, tmp_path / "disturbed", logging_steps=4)
    first = training.start()
    training.wait_for(first, 10)
    tree = descendants(first.pid)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=400)
    assert first.returncode == 130 and "saving a checkpoint after the current step" in errors
    assert gone(tree)
    done = training.finish()
    assert int(done.partition("resuming from step ")[2].split()[0]) >= 10
    losses = training.losses()
    assert [step for step, (_, evaluated) in losses.items() if evaluated] == [27, 54, 81]
    assert losses[80][0] < losses[4][0]
    assert losses == undisturbed.losses()  # also the mean of the four steps in which the run was interrupted
    select_checkpoint(training.models, training.run / "log.jsonl", tmp_path / "sft")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "sft").config.hidden_size == 64


def test_two_processes_that_are_warned_and_killed_at_random_give_the_loss_curve_of_an_undisturbed_run(inputs, tmp_path):
    settings = {"processes": 2, "batch_rows": 2}
    undisturbed = FineTuning(inputs, tmp_path / "undisturbed", **settings)
    undisturbed.finish()
    expected = undisturbed.losses()
    assert len(expected) == 162 and [step for step, (_, evaluated) in expected.items() if evaluated] == [54, 108, 162]

    seed = random.randrange(10_000)
    print("seed", seed)
    moments = random.Random(seed)
    training = FineTuning(inputs, tmp_path / "disturbed", **settings)

    # Slurm sends SIGTERM to every process of the job; both processes save at the same step and end.
    warned = training.start()
    training.wait_for(warned, moments.randint(3, 24))
    tree = descendants(warned.pid)
    assert len(tree) == 3  # torch's launcher and two processes
    for process in (warned.pid, *tree):
        os.kill(process, signal.SIGTERM)
    _, errors = warned.communicate(timeout=400)
    assert warned.returncode == 130, errors
    assert gone(tree)
    (saved,) = complete_checkpoints(training.run / "checkpoints", 2)
    assert saved > 3

    # The launcher is killed, as by the kernel when memory runs out: its whole tree ends with it.
    killed = training.start()
    training.wait_for(killed, moments.randint(saved + 1, 70))
    tree = descendants(killed.pid)
    killed.kill()
    assert gone(tree)

    # One of the two processes is killed: the other must not wait for it for ever.
    half = training.start()
    training.wait_for(half, moments.randint(90, 130))
    rank = max(descendants(half.pid))
    os.kill(rank, signal.SIGKILL)
    _, errors = half.communicate(timeout=400)
    assert half.returncode == 1 and "LLaMA-Factory failed: exit status 1: traceback : Signal 9" in errors

    done = training.finish()
    assert int(done.partition("resuming from step ")[2].split()[0]) >= 81  # at most half an epoch is lost
    found = training.losses()
    assert found.keys() == expected.keys()
    for step, (loss, evaluated) in expected.items():
        assert found[step][0] == pytest.approx(loss, abs=1e-4), f"step {step}, seed {seed}"
        assert found[step][1] == (evaluated and pytest.approx(evaluated, abs=1e-4))
    summaries = [read_json(each.run / "checkpoints" / "train_results.json") for each in (undisturbed, training)]
    assert summaries[1]["total_flos"] == summaries[0]["total_flos"]
    assert summaries[1]["train_loss"] == pytest.approx(summaries[0]["train_loss"], abs=1e-4)
