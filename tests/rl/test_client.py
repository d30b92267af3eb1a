"""The client of verl's rollout servers on a CPU: one question to the load balancer, then always the same server."""

import asyncio

import pytest

pytest.importorskip("verl")

from verl.workers.rollout.llm_server import LLMServerClient  # noqa: E402

from tir.rl.cpu import client  # noqa: E402


def test_the_load_balancer_is_asked_once_per_client(monkeypatch):
    asked = []

    async def ask(self, request_id, **extra):
        asked.append(request_id)
        return f"address of {request_id}", object()

    monkeypatch.setattr(client, "_ask", ask)

    async def turns(one: LLMServerClient) -> list:
        found = [await one._acquire_server(name, prompt_ids=[1]) for name in ("a", "b", "c")]
        one._release_server(found[0][0], request_id="a")  # no load balancer: it would fail if it were told
        return found

    first, second = (asyncio.run(turns(LLMServerClient(None))) for _ in range(2))
    assert asked == ["a", "a"]
    assert len(set(first)) == 1 and first[0][0] == "address of a" and first[0][1] is not second[0][1]
