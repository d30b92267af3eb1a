"""The rehearsal at its reduced size: real rows, test sets, passages and vocabulary through every stage."""

import json
import re
import subprocess

import pytest
import yaml
from support.paths import ROOT
from support.shared_data import BENCHMARK_TASKS, SHARED, needs_shared

from tir.common.records import read_jsonl

PASSAGES = 300
QWEN = ROOT / ".venv/qwen/qwen.tiktoken"
pytestmark = [
    pytest.mark.slow,  # four minutes of CPU time
    needs_shared,
    pytest.mark.skipif(not QWEN.exists(), reason=f"no {QWEN}: run `make .venv/qwen/qwen.tiktoken`"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The finished run. Its inputs are files of this machine, because tests do not download."""
    directory = tmp_path_factory.mktemp("rehearsal")
    lines = (SHARED / "corpus/wiki_6k.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:PASSAGES]
    (directory / "passages.jsonl").write_text("".join(lines), encoding="utf-8")

    def local(path) -> dict:
        return {"kind": "local", "path": str(path)}

    inputs = {
        "data": {
            "rl_train": local(SHARED / "rl/train.parquet"),
            "rl_validation": local(SHARED / "rl/test.parquet"),
            "corpus": local(directory / "passages.jsonl") | {"rows": PASSAGES, "sha256": None},
        },
        "benchmarks": {name: {"source": local(SHARED / f"benchmarks/{name}.jsonl")} for name in BENCHMARK_TASKS},
    }
    (directory / "inputs.yaml").write_text(yaml.safe_dump(inputs))
    files = f"profiles/rehearsal/reduced.yaml {directory / 'inputs.yaml'}"
    targets = "results/table5.csv scores/sft/webwalker.jsonl"
    copy = directory / "run"
    done = subprocess.run(
        ["make", "rehearsal", f"COPY={copy}", f"FILES={files}", f"TARGETS={targets}"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return copy


def test_every_trajectory_keeps_the_caps(run):
    settings = yaml.safe_load((ROOT / "profiles/rehearsal/reduced.yaml").read_text())
    cap = settings["evaluation"]["max_response_tokens"]
    rows = [row for path in run.glob("traces/*/*.jsonl") for row in read_jsonl(path)]
    assert len(rows) == 2 * 2 * 2 + 2 and {row["task"] for row in rows} == {"math", "qa", "web"}
    lengths = [sum(len(part["token_ids"]) for part in row["segments"]) for row in rows]
    assert max(lengths) == cap and {row["finish"] for row in rows} <= {"answer", "length", "budget"}


def test_fine_tuning_cuts_long_rows_and_loses_none(run):
    log = (run / "logs/sft/full.log").read_text()
    assert re.search(r"sft: 19 rows, 1 held out, longest 1024 tokens, [1-9]\d* at the cutoff", log)
    first = next(row["loss"] for row in read_jsonl(run / "runs/sft/full/log.jsonl") if "loss" in row)
    assert first == pytest.approx(11.93, abs=0.2)  # ln 151,936: the whole vocabulary is scored


def test_reinforcement_learning_uses_real_rows_and_the_reference_model(run):
    steps = read_jsonl(run / "runs/rl/aspo/seed1/metrics.jsonl")
    assert [row["step"] for row in steps] == [0, 1] and "actor/kl_loss" in steps[1]
    rollouts = read_jsonl(run / "runs/rl/aspo/seed1/rollouts/train_1.jsonl")
    assert len(rollouts) == 4
    assert (run / "models/aspo-step1-seed1/manifest.json").is_file()


def test_chinese_and_latex_reach_the_scores_unchanged(run):
    for model, name in (("sft", "webwalker"), ("sft", "math500")):
        source = [json.loads(line) for line in (SHARED / f"benchmarks/{name}.jsonl").read_text().splitlines()[:2]]
        traces = read_jsonl(run / f"traces/{model}/{name}.jsonl")
        assert [row["gold"] for row in traces] == [[row["answer"]] for row in source]
        assert len(read_jsonl(run / f"scores/{model}/{name}.jsonl")) == 2
