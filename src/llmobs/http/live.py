"""GET /v1/overview/stream: the overview again whenever it changed, as server-sent events.

Each process reads the database by itself, so it makes no difference which of them a watcher is connected to.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from litestar import Request, get
from litestar.response import Stream

from llmobs.domain.access import Need
from llmobs.errors import Overloaded, StoreUnavailable
from llmobs.http.access import needs, principal_of
from llmobs.http.overview import SPANS, span_of, written
from llmobs.http.services import services

EVENT_STREAM = "text/event-stream"
LIFETIME = 60.0
"""Seconds after which a stream ends and is asked for anew, with credentials that are looked at anew."""
PERIOD = 2.0
"""Seconds between two looks at the database."""
HEARTBEAT = 15.0
"""Seconds without a change after which a comment shows that the stream is alive."""
NOTICE = 0.25
"""Seconds within which a stream sees that the process is about to end."""
MOST = 32

AnyRequest = Request[Any, Any, Any]


class Watchers:
    """How many streams are open in this process."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self.count = 0

    def check(self) -> None:
        """Overloaded where no more are taken."""
        if self.count >= self._most:
            raise Overloaded(
                f"{self._most} streams are open in this process already; ask for the overview itself."
            )

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counted while inside."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


@get("/v1/overview/stream", opt=needs(Need.LOGS_READ))
async def overview_stream(request: AnyRequest) -> Stream:
    """The overview as it is, and again whenever it changed."""
    span = span_of(request)
    parts, view = services(request), principal_of(request).view
    parts.watchers.check()

    async def look() -> bytes:
        return written(span, await parts.logs.slices(view, SPANS[span], datetime.now(UTC)))

    async def counted() -> AsyncIterator[bytes]:
        with parts.watchers.one():
            async for event in events(look, lambda: parts.lifecycle.ending):
                yield event

    return Stream(
        counted(), media_type=EVENT_STREAM, headers={"cache-control": "no-store", "x-accel-buffering": "no"}
    )


async def events(look: Callable[[], Awaitable[bytes]], ending: Callable[[], bool]) -> AsyncIterator[bytes]:
    """What is seen, whenever it changed, until LIFETIME is over, the process ends or nothing can be seen."""
    clock = asyncio.get_running_loop().time
    ends, told, shown = clock() + LIFETIME, 0.0, b""
    while clock() < ends and not ending():
        try:
            seen = await look()
        except StoreUnavailable:
            yield b"event: unavailable\ndata: {}\n\n"
            return
        if seen != shown:
            shown, told = seen, clock()
            yield b"event: overview\ndata: " + seen + b"\n\n"
        elif clock() - told >= HEARTBEAT:
            told = clock()
            yield b": nothing new\n\n"
        until = min(clock() + PERIOD, ends)
        while clock() < until and not ending():  # noqa: ASYNC110  # a look at two flags; who sets them knows no stream
            await asyncio.sleep(min(NOTICE, PERIOD))
    yield b"event: end\ndata: {}\n\n"
