"""A batch that fails: each trajectory in it hears of it, none waits for ever, and the next batch is decoded."""

import asyncio
import time

import pytest

from tir.engines import make_engine
from tir.engines.base import Sampling
from tir.errors import EngineFault
from tir.tiny_model import TinyModelSettings, make_tiny_model

PROMPT, WAIT_S = [5, 6, 7], 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "tiny"
    make_tiny_model(["<think>a</think><python>print(1)</python> word " * 50], path,
                    TinyModelSettings(vocab_size=400, layers=1, hidden=64, heads=2, intermediate=64))
    return path


def generate(engine, prompt_ids):
    return asyncio.wait_for(engine.generate(prompt_ids, max_tokens=4, sampling=Sampling(), request_id="a"), WAIT_S)


def test_an_id_the_model_does_not_know_is_a_fault_for_the_whole_batch_and_for_no_later_one(model):
    async def main():
        engine = make_engine("transformers", model)
        both = await asyncio.gather(generate(engine, [5, 100_000]), generate(engine, PROMPT), return_exceptions=True)
        later = await generate(engine, PROMPT)
        await engine.close()
        return both, later

    both, later = asyncio.run(main())
    assert [type(each) for each in both] == [EngineFault, EngineFault] and "IndexError" in str(both[0])
    assert later.token_ids


def test_a_cancelled_trajectory_does_not_keep_the_fault_from_its_neighbours(model):
    async def main():
        engine = make_engine("transformers", model)

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
