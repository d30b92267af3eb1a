"""Concurrent coroutines: exceptions and cancellation."""

import asyncio

import pytest

from tir.common.concurrency import run_all
from tir.common.errors import SearchUnavailable


def test_first_exception_is_raised_unchanged_and_cancels_the_others():
    ended = []

    async def fails():
        await asyncio.sleep(0.01)
        raise SearchUnavailable("gone")

    async def waits():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    with pytest.raises(SearchUnavailable, match="gone"):
        asyncio.run(run_all([waits(), fails(), waits()]))
    assert ended == ["cancelled", "cancelled"]


def test_cancelled_run_all_cancels_all_coroutines_and_waits_for_them():
    ended = []

    async def waits():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("cancelled")

    async def main():
        run = asyncio.ensure_future(run_all([waits(), waits()]))
        await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
    assert ended == ["cancelled", "cancelled"]
