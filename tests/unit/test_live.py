"""A stream of overviews: what is sent, when, and how it ends."""

import asyncio
from collections.abc import Callable

import pytest

from llmobs.errors import Overloaded, StoreUnavailable
from llmobs.http import live


async def _told(seen: list[bytes | Exception], ending: Callable[[], bool] = lambda: False) -> list[bytes]:
    """The events of a stream that sees those one after the other, the last again and again."""
    looks = iter(seen)
    last: bytes | Exception = b""

    async def look() -> bytes:
        nonlocal last
        last = next(looks, last)
        if isinstance(last, Exception):
            raise last
        return last

    return [event async for event in live.events(look, ending)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIFETIME", 0.2)
    monkeypatch.setattr(live, "PERIOD", 0.01)
    monkeypatch.setattr(live, "NOTICE", 0.005)


async def test_what_changed_is_told_once() -> None:
    told = await _told([b"1", b"1", b"2", b"2"])
    assert told == [b"event: overview\ndata: %d\n\n" % n for n in (1, 2)] + [b"event: end\ndata: {}\n\n"]


async def test_a_quiet_stream_shows_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT", 0.03)
    told = await _told([b"1"])
    assert told.count(b": nothing new\n\n") >= 2
    assert sum(b"overview" in event for event in told) == 1


async def test_it_ends_when_the_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIFETIME", 60.0)
    monkeypatch.setattr(live, "PERIOD", 30.0)
    flag: list[bool] = []
    asyncio.get_running_loop().call_later(0.05, flag.append, True)
    async with asyncio.timeout(5):
        told = await _told([b"1"], lambda: bool(flag))
    assert told[-1] == b"event: end\ndata: {}\n\n"


async def test_it_ends_when_the_database_is_away() -> None:
    told = await _told([b"1", StoreUnavailable("away")])
    assert [event.split(b"\n")[0] for event in told] == [b"event: overview", b"event: unavailable"]


def test_no_more_than_so_many_watch_at_once() -> None:
    watchers = live.Watchers(most=2)
    with watchers.one(), watchers.one(), pytest.raises(Overloaded):
        watchers.check()
    watchers.check()
    assert watchers.count == 0
