"""Work beside requests is stopped between its calls, never in the midst of one."""

import asyncio

import pytest

from llmobs.app import _every
from llmobs.errors import StoreUnavailable


@pytest.mark.parametrize("ends_badly", [False, True])
async def test_a_call_under_way_is_let_finish(ends_badly: bool) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    ended: list[int] = []

    async def call() -> None:
        begun.set()
        await may_end.wait()
        ended.append(1)
        if ends_badly:
            raise StoreUnavailable("no answer in time")

    task = asyncio.create_task(_every(60.0, call))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]
