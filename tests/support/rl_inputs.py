"""Minimal inputs of an RL run, for tests of the RL modules and the launcher."""

from pathlib import Path

import pyarrow
import pyarrow.parquet

from tir.config.rl import Rl
from tir.config.tools import Tools
from tir.rl.run import RlRun, RunFiles

TOOLS = Tools(result_tokens=96, routes={"math": ["python"], "qa": ["search"]}, python={}, search={})
_CALL = "<think>t</think><python>print(1)</python><result>\n1\n</result>"


def rl_run(*, tools=TOOLS, device="cuda", estimator="grpo", coefficients=None, seed=1, **rl) -> RlRun:
    """A run that differs from the default configuration in some keys of `rl`."""
    return RlRun(
        Rl(**({"processes": 8} if device == "cuda" else {}) | rl), tools, device, estimator, coefficients or {}, seed
    )


def run_files(directory: Path) -> RunFiles:
    """Paths of a run in a directory; nothing is created."""
    return RunFiles(
        *(directory / name for name in ("model", "train.parquet", "val.parquet", "loop.yaml", "run", "scratch"))
    )


def rows_file(path: Path, *golds, questions: list[str] | None = None) -> Path:
    """Write a Parquet file with one math row per gold answer; the questions are q0, q1, ... unless they are given."""
    rows = [
        {
            "data_source": "grpo_mix",
            "question": questions[number] if questions else f"q{number}",
            "ability": "math",
            "reward_model": {"ground_truth": gold, "style": "rule"},
            "extra_info": {"index": None},
        }
        for number, gold in enumerate(golds)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def untrained_model(directory):
    """A directory with a tiny model that knows the tags' tokens."""
    from tir.config.world import TinyModelSettings
    from tir.world.tiny_model import make_tiny_model

    text = [
        f"What is {a} + {b}? " + _CALL + rf"<answer>\[ \boxed{{{a + b}}} \]</answer>"
        for a in range(9)
        for b in range(9)
    ]
    # Exactly one embedding per token. If there were more, verl would mask the extra ones in the engine and not in the
    # trainer, and their probabilities would differ.
    make_tiny_model(text, directory, TinyModelSettings(vocab_size=280, hidden=64, heads=2, intermediate=128, layers=2))
    return directory
