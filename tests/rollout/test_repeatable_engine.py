"""The transformers engine gives a request the same bits in every batch, in the arithmetic that each stage selects."""

import json
import os
import subprocess
import sys

from support.paths import ROOT
from support.repeatable import need_independent_rows

from tir.common.environment import ARITHMETIC
from tir.config.world import TinyModelSettings
from tir.world.tiny_model import make_tiny_model

_COMPLETIONS = """
import asyncio, json, random, sys
from tir.rollout.engines.base import Sampling
from tir.rollout.engines.transformers import TransformersEngine
random.seed(0)
prompts = [[random.randrange(20, 300) for _ in range(length)] for length in (3, 40, 64, 65, 130, 250, 257, 300)]

async def completions(max_batch, order):
    engine = TransformersEngine(sys.argv[1], max_batch=max_batch, device="cpu", dtype="float32")
    async def ask(row):
        sampling = Sampling(1.0 if row % 2 else 0.0, seed=row)
        return row, await engine.generate(prompts[row], max_tokens=20 + 5 * row, sampling=sampling)
    answers = dict(await asyncio.gather(*map(ask, order)))
    await engine.close()
    return [[answers[row].token_ids, [value.hex() for value in answers[row].log_probs]] for row in sorted(answers)]

rows = list(range(len(prompts)))
print(json.dumps([asyncio.run(completions(*each)) for each in ((8, rows), (3, rows[::-1]), (1, rows))]))
"""


def test_tokens_and_log_probabilities_do_not_depend_on_the_batch(tmp_path):
    need_independent_rows()
    shape = TinyModelSettings(vocab_size=400, hidden=192, heads=6, intermediate=384, layers=2)
    make_tiny_model(["<think>a</think><python>print(1)</python> word " * 50], tmp_path / "tiny", shape)
    done = subprocess.run(
        [sys.executable, "-c", _COMPLETIONS, str(tmp_path / "tiny")],
        env={**os.environ, **ARITHMETIC, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    together, in_threes, alone = json.loads(done.stdout)
    assert together == in_threes == alone
