"""Limits of time that share a timer."""

import asyncio

import pytest

from llmobs.http.deadlines import SWEEP_SECONDS, Deadlines

SOON = 0.03
LONG = 30.0


async def test_what_takes_too_long_is_a_timeout() -> None:
    deadlines = Deadlines()
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError), deadlines.within(SOON):
        await asyncio.sleep(LONG)
    took = asyncio.get_running_loop().time() - began
    assert SOON <= took < LONG / 10
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0  # or an enclosing timeout or group would take it for its own


async def test_what_is_done_in_time_is_left_alone_afterwards() -> None:
    deadlines = Deadlines()
    with deadlines.within(SOON):
        await asyncio.sleep(0)
    await asyncio.sleep(SOON + 3 * SWEEP_SECONDS)


async def test_a_limit_may_be_set_anew() -> None:
    deadlines = Deadlines()
    reached = []

    async def work() -> None:
        with deadlines.within(SOON) as limit:
            limit.when += LONG
            await asyncio.sleep(SOON + 3 * SWEEP_SECONDS)
            reached.append("later")
            limit.when = asyncio.get_running_loop().time()
            await asyncio.sleep(LONG)

    with pytest.raises(TimeoutError):
        await work()
    assert reached == ["later"]


async def test_a_cancellation_from_elsewhere_goes_on() -> None:
    deadlines = Deadlines()

    async def work() -> None:
        with deadlines.within(LONG):
            await asyncio.sleep(LONG)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_inside_stays_what_it_is() -> None:
    deadlines = Deadlines()
    with pytest.raises(ValueError, match="mine"), deadlines.within(LONG):
        raise ValueError("mine")


async def test_only_the_late_ones_of_many_end_and_the_inner_before_the_outer() -> None:
    deadlines = Deadlines()

    async def work(seconds: float) -> str:
        try:
            with deadlines.within(LONG), deadlines.within(seconds):
                await asyncio.sleep(4 * SOON)
        except TimeoutError:
            return "late"
        return "done"

    assert await asyncio.gather(*(work(s) for s in (SOON, LONG, SOON, LONG))) == ["late", "done"] * 2


async def test_there_is_one_timer_however_many_limits_and_none_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    timers: list[object] = []
    plain = loop.call_later

    def counted(delay: float, call: object, *given: object) -> asyncio.TimerHandle:
        if delay == SWEEP_SECONDS:
            timers.append(call)
        return plain(delay, call, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_later", counted)
    for _ in range(50):
        with deadlines.within(LONG), deadlines.within(LONG):
            pass
    assert len(timers) == 1
    await asyncio.sleep(3 * SWEEP_SECONDS)
    assert len(timers) == 1  # nothing is open, so nobody looks
    with deadlines.within(LONG):
        await asyncio.sleep(3 * SWEEP_SECONDS)
    assert len(timers) > 2
