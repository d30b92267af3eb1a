"""DPO with the real LLaMA-Factory: the labels of a batch, the loss and its gradient, interruptions, two processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.event_files import scalars
from support.kills import contents
from support.paths import ROOT
from support.preferences import CALL, RESULT, RIGHT, WRONG, trace
from support.processes import descendants
from support.training_runs import SFT_PYTHON, Training, gone

from tir.common.model_files import read_model_manifest
from tir.common.records import read_jsonl, write_jsonl, write_text
from tir.config.dpo import Dpo, Pairs
from tir.config.params import operational_params, params
from tir.config.rl import RewardRule
from tir.config.site import Tracking
from tir.dpo.pairs import IGNORE, member
from tir.rollout.prompts import render_prompt

PROMPTS, EPOCHS = 12, 20
STEPS = EPOCHS * PROMPTS // 4
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SFT_PYTHON.exists(), reason="no .venv/sft")]

BATCH = """
    import json, sys, yaml
    from llamafactory.data import PairwiseDataCollatorWithPadding, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    arguments = get_train_args(yaml.safe_load(open(sys.argv[1])))
    module = load_tokenizer(arguments[0])
    template = get_template_and_fix_tokenizer(module["tokenizer"], arguments[1])
    rows = get_dataset(template, *arguments[:3], stage="rm", **module)["train_dataset"]
    collate = PairwiseDataCollatorWithPadding(template=template, pad_to_multiple_of=8, **module)
    batch = collate([rows[number] for number in range(3)])
    print("BATCH" + json.dumps({name: batch[name].tolist() for name in ("input_ids", "attention_mask", "labels")}))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A tiny policy, trajectories with calls and results, and the pairs that the script makes of them."""
    from transformers import AutoTokenizer

    from tir.config.world import TinyModelSettings
    from tir.world.tiny_model import make_tiny_model

    directory = tmp_path_factory.mktemp("inputs")
    sizes = TinyModelSettings(vocab_size=300, hidden=64, layers=2, heads=2, intermediate=64)
    make_tiny_model([CALL, RESULT, RIGHT, WRONG], directory / "policy", sizes)
    (directory / "policy/manifest.json").write_text(json.dumps({"model": "grpo-step2-seed1", "arm": "grpo", "step": 2}))
    tokenizer = AutoTokenizer.from_pretrained(directory / "policy")
    traces = []
    for number in range(PROMPTS):
        call = CALL.replace("add", f"add {number} " + "and " * (number % 5))
        good = trace(0, call, RESULT, RIGHT, item=str(number), tokenizer=tokenizer)
        bad = trace(1, CALL, RESULT.replace("5", str(number)), WRONG, item=str(number), tokenizer=tokenizer)
        traces += [good, bad]
    write_jsonl(directory / "math.jsonl", traces)
    write_text(directory / "prompt.txt", "Use tools.")
    given = params(pairs=Pairs(), reward=RewardRule())
    words = ["--model", "policy", "--samples", "math.jsonl", "--system-prompt", "prompt.txt", "--output", "pairs.jsonl"]
    command = [sys.executable, "-m", "scripts.make_pairs", *words, "--params", given]
    subprocess.run(command, cwd=directory, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    return directory


class Preference(Training):
    """DPO of the tiny policy."""

    def __init__(self, inputs: Path, directory: Path, **dpo):
        settings = {"epochs": 2, "batch_pairs": 4, "precision": "fp32", "learning_rate": 1e-3, "warmup_ratio": 0.0}
        section, self.model = Dpo(**settings | dpo), directory / "models/grpo-step2-dpo1-seed1"
        arguments = {
            "--policy": inputs / "policy",
            "--pairs": inputs / "pairs.jsonl",
            "--run-dir": directory / "training",
            "--output": self.model,
            "--seed": 1,
            "--params": params(dpo=section, device="cpu"),
            "--operational": operational_params(dpo=section),
            "--tracking": Tracking(directory=str(directory / "tracking")).model_dump_json(),
        }
        super().__init__("scripts.train_dpo", directory / "training", arguments)

    def log(self, key: str) -> list[float]:
        return [row[key] for row in read_jsonl(self.run / "log.jsonl")]


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory) -> Preference:
    """A run of many steps in one process."""
    single = Preference(inputs, tmp_path_factory.mktemp("undisturbed"), epochs=EPOCHS, pass_pairs=2)
    assert f"{PROMPTS} pairs, {STEPS} steps of at most 4 pairs" in single.finish()
    return single


def load(directory: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def all_model_tokens(inputs: Path) -> list[tuple[list[int], list[bool]]]:
    """(ids, whether the model generated each) of chosen and rejected trajectories in turn; no token is left out."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(inputs / "policy")
    prompt = render_prompt(tokenizer, "Use tools.", "2+3?")
    members = [member(record, RewardRule()) for record in read_jsonl(inputs / "math.jsonl")]
    return [([*prompt, *each.ids], [False] * len(prompt) + list(each.by_model)) for each in members]


def dpo_loss(model, reference, rows, beta: float) -> torch.Tensor:
    """The loss of DPO as its paper states it (equation 7), one response at a time, from all tokens of the model."""

    def log_prob(policy, ids: list[int], by_model: list[bool]) -> torch.Tensor:
        logits = policy(torch.tensor([ids])).logits[0, :-1]
        of_tokens = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        return (of_tokens * torch.tensor(by_model[1:])).sum()

    with torch.no_grad():
        theirs = [log_prob(reference, *row) for row in rows]
    ratios = [log_prob(model, *row) - other for row, other in zip(rows, theirs, strict=True)]
    margins = [chosen - rejected for chosen, rejected in zip(ratios[::2], ratios[1::2], strict=True)]
    return -F.logsigmoid(beta * torch.stack(margins)).mean()


def test_two_full_steps_have_the_loss_and_the_weights_of_a_small_implementation(inputs, tmp_path):
    """Also: leaving the common beginning out of the loss changes nothing, because the small one keeps it."""
    settings = {"method": "full", "batch_pairs": PROMPTS, "schedule": "constant", "pass_pairs": 4}
    training = Preference(inputs, tmp_path, **settings)
    training.finish()
    rows = all_model_tokens(inputs)
    model, reference = load(inputs / "policy"), load(inputs / "policy")
    before = torch.cat([each.detach().flatten() for each in model.parameters()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for _ in range(2):
        loss = dpo_loss(model, reference, rows, beta=0.1)
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] == pytest.approx(0.693147, abs=1e-6) and losses[1] < 0.69
    assert training.log("loss") == pytest.approx(losses, abs=2e-5)
    curve = scalars(tmp_path / "tracking/tensorboard" / training.model.name, "train/loss")
    assert curve == [(step, pytest.approx(loss)) for step, loss in enumerate(training.log("loss"), 1)]
    ours = torch.cat([each.detach().flatten() for each in model.parameters()]) - before
    theirs = torch.cat([each.detach().flatten() for each in load(training.model).parameters()]) - before
    assert F.cosine_similarity(ours, theirs, dim=0) > 0.999
    assert theirs.norm().item() == pytest.approx(ours.norm().item(), rel=1e-3)


def test_a_run_in_two_processes_that_is_ended_and_resumed_is_that_in_one(inputs, undisturbed, tmp_path):
    """Adapters; SIGTERM as Slurm sends it. The order of the pairs and the losses are those of an undisturbed run."""
    losses = undisturbed.log("loss")
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < 0.5 and undisturbed.log("accuracy")[-1] == 1
    assert not (undisturbed.run / "checkpoints").exists()  # optimizer states are large

    two = Preference(inputs, tmp_path, epochs=EPOCHS, processes=2)
    first = two.start()
    two.wait_for(first, 2)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=400)
    assert first.returncode == 130 and "saving a checkpoint after the current step" in errors
    assert "resuming from step" in two.finish()
    assert two.log("loss") == pytest.approx(losses, abs=1e-4) and two.log("step") == list(range(1, STEPS + 1))
    assert "dpo: step" not in two.finish()  # a finished run is not repeated

    rows, reference = all_model_tokens(inputs), load(inputs / "policy")
    with torch.no_grad():
        merged = dpo_loss(load(undisturbed.model), reference, rows, beta=0.1).item()
    assert merged < losses[-1] + 0.05 < 0.693  # the merged weights are those of the adapter
    manifest = read_model_manifest(undisturbed.model)
    assert {"model": "grpo-step2-dpo1-seed1", "policy": "grpo-step2-seed1", "arm": "grpo"}.items() <= manifest.items()


def test_a_run_that_is_killed_twice_writes_the_bytes_of_an_undisturbed_one(inputs, tmp_path):
    """Killed as by the kernel when memory runs out, early and late: the resumed run has the same weights and log.

    Five steps between two logs, so checkpoints lie between them.
    """
    every = Preference(inputs, tmp_path / "every", epochs=EPOCHS, pass_pairs=2, logging_steps=5)
    every.finish()
    killed = Preference(inputs, tmp_path / "killed", epochs=EPOCHS, pass_pairs=2, logging_steps=5)
    for step in (2, STEPS // 2):
        process = killed.start()
        killed.wait_for(process, step)
        tree = descendants(process.pid)
        process.kill()
        assert process.wait() == -signal.SIGKILL and gone(tree)
    assert int(killed.finish().partition("resuming from step ")[2].split()[0]) >= STEPS // 2 - 3  # an epoch at most
    assert (killed.run / "log.jsonl").read_bytes() == (every.run / "log.jsonl").read_bytes()
    assert killed.log("step") == list(range(5, STEPS + 1, 5))
    assert contents(killed.model) == contents(every.model)


def test_llamafactorys_batch_has_our_labels_in_both_members(inputs, tmp_path):
    """It reads the tokenised pairs as they are: in neither member a prompt, a result, or padding has a label."""
    training = Preference(inputs, tmp_path, epochs=1, batch_pairs=PROMPTS)
    training.finish()
    command = [SFT_PYTHON, "-c", textwrap.dedent(BATCH), training.run / "recipe.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    batch = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("BATCH"))[5:])
    pairs = read_jsonl(inputs / "pairs.jsonl")[:3]
    expected = [(pair, side) for side in ("chosen", "rejected") for pair in pairs]
    by_model = dict(zip([(n, s) for n in range(PROMPTS) for s in ("chosen", "rejected")], all_model_tokens(inputs)))
    assert len(batch["labels"]) == 6
    for number, (pair, side) in enumerate(expected):
        ids, labels = pair[f"{side}_input_ids"], pair[f"{side}_labels"]
        assert batch["input_ids"][number][: len(ids)] == ids and sum(batch["attention_mask"][number]) == len(ids)
        assert batch["labels"][number] == labels + [IGNORE] * (len(batch["labels"][number]) - len(labels))
        with_loss = [label != IGNORE for label in labels]
        _, generated = by_model[number % 3, side]
        assert any(with_loss) and all(mine for mine, each in zip(generated, with_loss, strict=True) if each)
        assert False in generated[with_loss.index(True) :]  # a result stands among the tokens with a loss
