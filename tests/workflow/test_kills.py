"""Stages that are killed and run again end with the bytes of an undisturbed run; `make bench-kill` does more of it."""

import json
import random
from pathlib import Path

import pytest
from support.paths import ROOT, SNAKEMAKE

from bench.kill import Round, make_reference
from bench.outputs import contents

COMMAND = [str(SNAKEMAKE), "--quiet", "host", "--profile", "profiles/ci"]
STAGES = {  # outputs of one job of each, how often it is killed, and at most how many seconds after its begin
    "train_sft": (["runs/sft/medium/log.jsonl", "runs/sft/medium/models"], 2, 4),
    "generate_traces": (["traces/sft-medium/gsm8k.jsonl"], 2, 4),
    "train_rl": (["runs/rl/grpo/seed1/metrics.jsonl", "models/grpo-step2-seed1/manifest.json"], 1, 20),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The few-step graph up to these stages; what `make demo PROFILE=profiles/ci` has made is not made again."""
    targets = [output for outputs, *_ in STAGES.values() for output in outputs]
    return make_reference(tmp_path_factory.mktemp("kills") / "reference", [*COMMAND, *targets], results=ROOT)


@pytest.mark.slow
@pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_with_the_same_bytes(reference, stage, capsys):
    outputs, kills, longest_s = STAGES[stage]
    killed = Round(reference, reference.with_name("copy"), COMMAND, stage, outputs, random.Random(stage))
    outcome = killed.play(kills, longest_s)
    with capsys.disabled():
        print(f"\n{stage}: {dict(outcome.kills)}, {outcome.runs} runs, {len(killed.expected)} files compared")
    assert killed.expected and not outcome.different


def test_all_is_compared_but_times_and_paths(tmp_path):
    def write(name, loss, seconds):
        run = tmp_path / name / "runs/sft/full"
        run.mkdir(parents=True)
        (run / "log.jsonl").write_text(json.dumps({"loss": loss, "elapsed": seconds}) + "\n")
        (run / "settings.yaml").write_text(f"path: {tmp_path / name}/models\nscratch: /tmp/tir-rl-{name:_<8}/ray\n")
        (run / "train.log").write_text(str(seconds))
        (run / "recipe.yaml").write_text(f"resume_from_checkpoint: {seconds}\n")
        (run / "table.csv").write_text(f"loss,{loss}\nwall-clock of training,{seconds} s\n")
        return contents(tmp_path / name, ["runs/sft/full", "runs/absent"])

    first = write("first", 0.5, 1)
    assert sorted(first) == [f"runs/sft/full/{name}" for name in ("log.jsonl", "settings.yaml", "table.csv")]
    assert write("second", 0.5, 2) == first
    copied = tmp_path / "second/runs/sft/full/settings.yaml"
    copied.write_text(copied.read_text().replace(f"{tmp_path}/second", "/elsewhere"))
    paths = ["runs/sft/full"]
    assert contents(tmp_path / "second", paths) != first == contents(tmp_path / "second", paths, Path("/elsewhere"))
    third = write("third", 0.25, 1)
    assert {name for name in first if third[name] != first[name]} == {
        "runs/sft/full/log.jsonl",
        "runs/sft/full/table.csv",
    }
