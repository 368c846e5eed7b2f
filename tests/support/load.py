"""Requests over kept connections, and what became of each: for fault tests and benchmarks."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import Any

REQUEST_SECONDS = 30.0


class Answer:
    """A status with headers (lower-case names) and the body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One HTTP/1.1 connection, opened when needed and kept."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._host = host
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes, more: bytes = b"") -> Answer:
        """Post JSON; OSError or EOFError when there is no whole answer. `more`: header lines with CRLF."""
        head = (
            b"POST %b HTTP/1.1\r\nhost: l\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
        )
        return await self._ask(head % (path.encode(), more, len(body)) + body)

    async def get(self, path: str) -> Answer:
        return await self._ask(b"GET %b HTTP/1.1\r\nhost: l\r\n\r\n" % path.encode())

    async def _ask(self, request: bytes) -> Answer:
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(
                    self._host, self.port, limit=1 << 22
                )
            self._writer.write(request)
            return await self._answer()
        except BaseException:
            self.close()
            raise

    async def _answer(self) -> Answer:
        assert self._reader is not None
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        body = await self._reader.readexactly(int(headers.get(b"content-length", b"0")))
        answer = Answer(int(first.split(b" ", 2)[1]), headers, body)
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return answer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Load:
    """Posts distinct texts until told to stop, and remembers what was acknowledged.

    A text is sent once, except by one client in `keyed`: that one uses an Idempotency-Key each time
    and sends again after a failure, as a careful client would, until the text is acknowledged.
    """

    def __init__(self, pick_port: Callable[[int], int], *, connections: int = 12, keyed: int = 4) -> None:
        self._pick_port = pick_port
        self._connections = connections
        self._keyed = keyed
        self._stopping = asyncio.Event()
        self._next = 0
        self.sent = 0
        self.acknowledged: dict[str, str] = {}
        """Text by request id."""
        self.errors: Counter[str] = Counter()
        self.longest = 0.0
        """Longest wait for an answer of any kind, in seconds."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._client(number))

    def stop(self) -> None:
        """Send no more; `run` returns when what is out is answered."""
        self._stopping.set()

    async def reach(self, acknowledged: int, seconds: float) -> None:
        """Return when so many were acknowledged; TimeoutError when that takes too long."""
        async with asyncio.timeout(seconds):
            while len(self.acknowledged) < acknowledged:  # noqa: ASYNC110  # a poll costs the clients less than an event a request
                await asyncio.sleep(0.02)

    async def _client(self, number: int) -> None:
        connection = Connection(self._pick_port(number))
        while not self._stopping.is_set():
            self._next += 1
            text = f"Reply {self._next}: the library opens at nine."
            key = b"idempotency-key: key-%d\r\n" % self._next if number % self._keyed == 0 else b""
            self.sent += 1
            body = json.dumps({"llm_response": text}).encode()
            while not await self._send(connection, body, key, text) and key and not self._stopping.is_set():
                pass
            connection.port = self._pick_port(number)
        connection.close()

    async def _send(self, connection: Connection, body: bytes, key: bytes, text: str) -> bool:
        started = perf_counter()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                answer = await connection.post("/v1/detect", body, key)
        except (OSError, EOFError, TimeoutError) as error:
            self.errors[_kind(error)] += 1
        else:
            told = answer.json()
            if answer.status == 200 and told["recorded"]:
                self.acknowledged[told["request_id"]] = text
                self.longest = max(self.longest, perf_counter() - started)
                return True
            slug = told.get("type", "unrecorded").rpartition(":")[2]
            self.errors[f"{answer.status} {slug}"] += 1
        self.longest = max(self.longest, perf_counter() - started)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):  # a client that hammers a dead server proves nothing
                await self._stopping.wait()
        return False


def _kind(error: BaseException) -> str:
    """The error's name as a reader of the table knows it."""
    return {"IncompleteReadError": "cut off", "ConnectionResetError": "cut off"}.get(
        type(error).__name__,
        {"ConnectionRefusedError": "refused", "TimeoutError": "timeout"}.get(
            type(error).__name__, type(error).__name__
        ),
    )
