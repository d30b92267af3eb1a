"""Attempts of a rollout: after a fault of the machine, of a tool or of the engine, it is tried again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from tir.common.errors import InfrastructureFault

ATTEMPTS = 3
Result = TypeVar("Result")


async def retried(
    call: Callable[[], Awaitable[Result]], *, but_not: type[InfrastructureFault] | tuple[()] = ()
) -> Result:
    """The result of `call`, which is tried `ATTEMPTS` times in all; raises its last error.

    Args:
        but_not: faults that are raised at once, because the client that met them has its own retries.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, InfrastructureFault) and not isinstance(error, but_not)
        ),
        reraise=True,
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(0.5, 10),
    )

    async def attempt() -> Result:  # tenacity awaits only what is a coroutine function, not a lambda
        return await call()

    return await retrying(attempt)
