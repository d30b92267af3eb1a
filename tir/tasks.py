"""Coroutines side by side, with faults that reach the user as themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def run_all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines at once and wait for all of them.

    The first that fails has the others cancelled and its own exception raised. `asyncio.TaskGroup` alone raises a group,
    whose printed tree hides the paragraph a `TirError` wrote, and early Python 3.11 wraps what an `except*` raises again.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None
