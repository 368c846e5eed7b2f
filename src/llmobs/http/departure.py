"""Noticing that a caller has gone away before the answer came."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmobs.http.edge import Receive


class Departure:
    """Awaited, returns when the caller has closed the connection. Use it after the body is read.

    The items of a batch share one: only one of them listens at a time.
    """

    __slots__ = ("_gone", "_listening", "_receive")

    def __init__(self, receive: "Receive") -> None:
        self._receive = receive
        self._gone = False
        self._listening: asyncio.Lock | None = None

    async def __call__(self) -> None:
        """Wait for it; nothing listens unless somebody waits."""
        if self._listening is None:
            self._listening = asyncio.Lock()
        async with self._listening:
            while not self._gone:
                message = await self._receive()
                self._gone = message["type"] == "http.disconnect"
