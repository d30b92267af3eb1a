"""verl on a CPU, part 4: the client of verl's rollout servers queries the load balancer only once.

verl calls an actor, its load balancer, before each turn to get a server, and again after the turn. A CPU run has one
server, so the answer is always the same.
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
    """Does nothing: the load balancer does not count the requests of this client."""


LLMServerClient._acquire_server, LLMServerClient._release_server = _acquire_server, _release_server
