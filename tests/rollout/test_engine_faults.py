"""Engines: every request of a failed batch gets the fault, the next batch is decoded; vLLM generates the same."""

import asyncio
import time

import pytest

from tir.common.errors import EngineFault
from tir.common.records import write_json
from tir.config.evaluation import EngineConfig
from tir.config.world import TinyModelSettings
from tir.rollout.engines import make_engine
from tir.rollout.engines.base import Sampling
from tir.world.tiny_model import make_tiny_model

PROMPT, WAIT_S = [5, 6, 7], 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "tiny"
    make_tiny_model(
        ["<think>a</think><python>print(1)</python> word " * 50],
        path,
        TinyModelSettings(vocab_size=400, layers=1, hidden=64, heads=2, intermediate=64),
    )
    return path


def generate(engine, prompt_ids):
    return asyncio.wait_for(engine.generate(prompt_ids, max_tokens=4, sampling=Sampling(), request_id="a"), WAIT_S)


def test_an_unknown_token_id_fails_its_batch_and_no_later_one(model):
    async def main():
        engine = make_engine(EngineConfig(kind="transformers", dtype="float32"), model, device="cpu")
        both = await asyncio.gather(generate(engine, [5, 100_000]), generate(engine, PROMPT), return_exceptions=True)
        later = await generate(engine, PROMPT)
        await engine.close()
        return both, later

    both, later = asyncio.run(main())
    assert [type(each) for each in both] == [EngineFault, EngineFault] and "IndexError" in str(both[0])
    assert later.token_ids


def test_the_fault_reaches_a_request_beside_a_cancelled_one(model):
    async def main():
        engine = make_engine(EngineConfig(kind="transformers", dtype="float32"), model, device="cpu")

        def fail(batch):
            time.sleep(0.3)
            raise RuntimeError("out of memory")

        engine._decode = fail
        cancelled, neighbour = (asyncio.create_task(generate(engine, PROMPT)) for _ in range(2))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        with pytest.raises(EngineFault, match="RuntimeError: out of memory"):
            await neighbour
        await engine.close()

    asyncio.run(main())


@pytest.mark.slow
def test_vllm_generates_the_tokens_of_the_transformers_engine(model):
    """And reports the same log-probabilities and reasons to finish; a request that it refuses is a fault."""
    prompts = [[5, 6, 7], [9, 8], list(range(20, 60))]

    async def completions(kind: str):
        engine = make_engine(EngineConfig(kind=kind, dtype="float32"), model, device="cpu")

        def ask(ids, stop=()):
            return engine.generate(ids, max_tokens=12, sampling=Sampling(), stop=stop, request_id="r")

        try:
            free = await asyncio.gather(*map(ask, prompts))
            text = engine.tokenizer.decode(free[0].token_ids[4:6])
            limited = await asyncio.gather(ask(prompts[0], (text,)), ask([5] * engine.max_length))
            return [*free, *limited, *await asyncio.gather(ask([10**6]), return_exceptions=True)]
        finally:
            await engine.close()

    *expected, refused = asyncio.run(completions("transformers"))
    *found, refused_too = asyncio.run(completions("vllm"))
    assert [(each.token_ids, each.finish) for each in found] == [(each.token_ids, each.finish) for each in expected]
    assert [each.finish for each in found] == ["length"] * 3 + ["stop", "length"]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-4)
    assert isinstance(refused, EngineFault) and isinstance(refused_too, EngineFault)


def test_a_very_long_context_is_cut_because_vllm_reserves_memory_for_one_such_sequence(tmp_path):
    from tir.rollout.engines.vllm import longest_context

    for own, given in ((262144, 32768), (32768, None), (2048, None), (None, None)):
        write_json(tmp_path / "config.json", {"max_position_embeddings": own})
        assert longest_context(tmp_path) == given
