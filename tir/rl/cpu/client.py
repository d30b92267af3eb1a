"""verl on a CPU, part 4: the client of verl's rollout servers asks only once which server to use.

verl asks an actor (its load balancer) before each turn, and tells it after the turn. A CPU run has one server, so the
answer is always the same.
"""

from __future__ import annotations

from typing import Any

from verl.workers.rollout.llm_server import LLMServerClient

_ask = LLMServerClient._acquire_server


async def _acquire_server(self: LLMServerClient, request_id: str, **extra: Any) -> tuple[str, Any]:
    if not hasattr(self, "_only_server"):
        self._only_server = await _ask(self, request_id, **extra)
    return self._only_server


def _release_server(self: LLMServerClient, server_id: str, request_id: str | None = None) -> None:
    """Nothing to say: the load balancer was not told that a request began."""


LLMServerClient._acquire_server, LLMServerClient._release_server = _acquire_server, _release_server
