"""Run coroutines concurrently; the first exception is raised unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def run_all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines concurrently and wait for all of them.

    If one fails, the others are cancelled and its exception is raised. `asyncio.TaskGroup` would raise an exception
    group, whose printed tree hides the message of a `TirError`.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
