"""A TCP proxy between the service and its database, which cuts, delays and swallows on demand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Forwards to one address; what is set here holds for connections that are open as well."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay = 0.0
        """Seconds that each piece is held, each way."""
        self.refuse = False
        """Whether new connections are closed at once."""
        self.cut_after_question = 0
        """How many times a connection is cut after the server got something, before its answer passes."""
        self.cut_before_question = 0
        """How many times a connection is cut when half a piece has gone to the server."""
        self.cuts = 0

    def cut(self) -> None:
        """Close every open connection now."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.refuse:
            to_client.transport.abort()
            return
        try:
            server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            to_client.transport.abort()
            return
        pair = {to_client, to_server}
        self._open |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._questions(client, to_server, pair))
                group.create_task(self._answers(server, to_client, pair))
        finally:
            self._open -= pair
            for writer in pair:
                writer.transport.abort()

    async def _questions(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, pair: set[asyncio.StreamWriter]
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await client.read(1 << 16):
                await asyncio.sleep(self.delay)
                if self.cut_before_question and b"INSERT" not in piece and len(piece) > 500:
                    self.cut_before_question -= 1
                    to_server.write(piece[: len(piece) // 2])
                    await to_server.drain()
                    break
                to_server.write(piece)
                await to_server.drain()
        self._abort(pair)

    async def _answers(
        self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter, pair: set[asyncio.StreamWriter]
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await server.read(1 << 16):
                await asyncio.sleep(self.delay)
                if self.cut_after_question and b"INSERT 0 " in piece:  # committed, and nobody is told
                    self.cut_after_question -= 1
                    break
                to_client.write(piece)
                await to_client.drain()
        self._abort(pair)

    def _abort(self, pair: set[asyncio.StreamWriter]) -> None:
        if any(not writer.transport.is_closing() for writer in pair):
            self.cuts += 1
        for writer in pair:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # the end of the test; asyncio's own callback fails on a cancelled task
        finally:
            self._tasks.discard(task)


@asynccontextmanager
async def proxied(host: str, port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(host, port)
    server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        for task in list(proxy._tasks):
            task.cancel()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)
