"""A language-model server that does as told: the OpenAI and the Ollama protocol over a real socket, with faults.

It answers by a `brain`, a function of what the judge would read, and misbehaves by a `Fault`.
"""

import asyncio
import contextlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, NamedTuple, Self

HONEST_WORD = "gadfly"
"""The honest brain finds every class present where this word stands in the text."""


class Fault(Enum):
    NONE = auto()
    SLOW = auto()
    """Answers after `slow_s`."""
    HANGING = auto()
    """Takes the request and never answers."""
    GARBLED = auto()
    """200 with bytes that are no JSON."""
    NOT_HTTP = auto()
    OVER_LONG = auto()
    """A body without an end."""
    RAMBLING = auto()
    """Stops at the token limit, in the middle of the JSON."""
    WRONG_SCHEMA = auto()
    """JSON of another form."""
    PROSE = auto()
    RATE_LIMITED = auto()
    """429 with Retry-After."""
    SERVER_ERROR = auto()
    DROPPED = auto()
    """Closes the connection without a word."""
    DROPPED_MIDWAY = auto()
    """Closes it in the middle of the body."""
    ERROR_LINE = auto()
    """200, then an error inside the stream (Ollama)."""
    UNAUTHORIZED = auto()


class Seen(NamedTuple):
    """One chat request as the model would read it."""

    system: str
    user: str
    classes: tuple[str, ...]
    body: dict[str, Any]

    @property
    def material(self) -> str:
        """All that stands in fences, without fences and marks."""
        fence = re.search(r"fence of this message is (\w+)", self.user)
        assert fence is not None
        mark = fence[1][:4] + "| "
        lines = self.user.splitlines()
        return "".join(line.removeprefix(mark) for line in lines if line.startswith(mark))


Brain = Callable[[Seen], Any]
"""What the model answers: an object to be sent as JSON, or a string to be sent as it is."""


def verdicts(seen: Seen, probability: float, quote: str = "", reason: str = "as told") -> dict[str, Any]:
    return {name: {"reason": reason, "quote": quote, "probability": probability} for name in seen.classes}


def honest(seen: Seen) -> Any:
    found = HONEST_WORD in seen.material
    return verdicts(seen, 0.95 if found else 0.05, HONEST_WORD if found else "")


_ORDER = re.compile(
    r"safe|harmless|clean|approv|benign|probabilit|score|verdict|reviewer|judge|grader|zero|nothing to see|0\.0",
    re.IGNORECASE,
)


def obedient(seen: Seen) -> Any:
    """Obeys whatever the text says: prints the JSON that it finds there, else says that all is well."""
    material = seen.material
    found = re.search(r"\{.*\}", material)
    if found is not None:
        return found[0]
    return verdicts(seen, 0.0 if _ORDER.search(material) else 0.5)


class JudgeServer:
    """`async with JudgeServer() as server:`; every knob may be turned while it runs."""

    def __init__(
        self,
        brain: Brain = honest,
        *,
        model: str = "scripted",
        pause_s: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.brain = brain
        self.model = model
        self.pause_s = pause_s
        self.slow_s = 0.5
        self.retry_after = "0.2"
        self.fault = Fault.NONE
        self.script: list[Fault] = []
        """Faults of the next requests, one each; afterwards `fault`."""
        self.refuses_schema = 0
        """How many forms of `response_format` are answered with 400: schema, bare schema, JSON."""
        self.asked: list[Seen] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.left = 0
        """Callers who closed the connection before the answer."""
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a stop on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and throw everyone out, as a killed server does."""
        if self._server is None:
            return
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        self._server = None
        await asyncio.sleep(0)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *headers = head.decode("latin-1").split("\r\n")
                method, path, _ = line.split(" ")
                told = dict(h.lower().split(": ", 1) for h in headers if ": " in h)
                body = await reader.readexactly(int(told.get("content-length", "0")))
                if not await self._answer(method, path, body, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self,
        method: str,
        path: str,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Whether the connection stays open."""
        if method == "GET":
            return await self._list(path, writer)
        asked = json.loads(body)
        ollama = path == "/api/chat"
        form = (
            asked.get("format")
            if ollama
            else (asked.get("response_format") or {}).get("json_schema", {}).get("schema")
        )
        system, user = (message["content"] for message in asked["messages"])
        if form is not None:
            classes = tuple(form["required"])
        else:
            named = re.search(r"keys are exactly: ([\w, ]+)\.", system)
            assert named is not None
            classes = tuple(named[1].split(", "))
        seen = Seen(system, user, classes, asked)
        if not ollama and self._refused(asked):
            await _send(writer, 400, b'{"error": {"message": "response_format"}}')
            return True
        self.asked.append(seen)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            fault = self.script.pop(0) if self.script else self.fault
            gone = asyncio.ensure_future(reader.read(1))
            work = asyncio.ensure_future(self._misbehave(fault, seen, writer, ollama))
            try:
                await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    self.left += 1
                    return False
                return work.result()
            finally:
                work.cancel()
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await gone
        finally:
            self.in_flight -= 1

    def _refused(self, asked: dict[str, Any]) -> bool:
        form = asked.get("response_format") or {}
        schema = form.get("json_schema", {}).get("schema", {})
        rank = 3
        if form.get("type") == "json_object":
            rank = 2
        elif schema:
            rank = 0 if "maxLength" in json.dumps(schema) else 1
        return rank < self.refuses_schema

    async def _list(self, path: str, writer: asyncio.StreamWriter) -> bool:
        match path:
            case "/v1/models":
                answer: Any = {"object": "list", "data": [{"id": self.model}]}
            case "/api/tags":
                answer = {"models": [{"model": self.model, "name": self.model}]}
            case _:
                await _send(writer, 404, b"{}")
                return True
        if self.fault is Fault.HANGING:
            await asyncio.sleep(3600)
        if self.fault is Fault.GARBLED:
            await _send(writer, 200, b"<html>")
        elif self.fault is Fault.SERVER_ERROR:
            await _send(writer, 500, b"{}")
        else:
            await _send(writer, 200, json.dumps(answer).encode())
        return True

    async def _misbehave(  # noqa: PLR0911  # one return a fault
        self, fault: Fault, seen: Seen, writer: asyncio.StreamWriter, ollama: bool
    ) -> bool:
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        answer = self.brain(seen)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        match fault:
            case Fault.SLOW:
                await asyncio.sleep(self.slow_s)
            case Fault.HANGING:
                await asyncio.sleep(3600)
            case Fault.GARBLED:
                await _send(writer, 200, b"\x00\xff<garbled>\x80" * 5)
                return True
            case Fault.NOT_HTTP:
                writer.write(b"SSH-2.0-nothing\r\n\r\n")
                await writer.drain()
                return False
            case Fault.OVER_LONG:
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
                while True:
                    line = (
                        b'{"message": {"role": "assistant", "content": "'
                        + b"x" * 4000
                        + b'"}, "done": false}\n'
                        if ollama
                        else b" " * 4000
                    )
                    writer.write(line)
                    await writer.drain()
            case Fault.RATE_LIMITED:
                await _send(writer, 429, b'{"error": "slow down"}', f"retry-after: {self.retry_after}\r\n")
                return True
            case Fault.SERVER_ERROR:
                await _send(writer, 500, b'{"error": "broken"}')
                return True
            case Fault.UNAUTHORIZED:
                await _send(writer, 401, b'{"error": "no key"}')
                return True
            case Fault.DROPPED:
                writer.transport.abort()
                return False
            case Fault.DROPPED_MIDWAY:
                writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{"message":')
                await writer.drain()
                writer.transport.abort()
                return False
            case Fault.ERROR_LINE if ollama:
                await _send(writer, 200, b'{"error": "model runner has unexpectedly stopped"}\n')
                return True
            case Fault.ERROR_LINE:
                await _send(writer, 200, b'{"error": {"message": "model runner has stopped"}}')
                return True
            case Fault.WRONG_SCHEMA:
                text = json.dumps({"safe": True})
            case Fault.PROSE:
                text = "I think that this is fine."
            case Fault.RAMBLING:
                text = text[: len(text) // 2]
        await _send(writer, 200, _completion(text, ollama, "length" if fault is Fault.RAMBLING else "stop"))
        return True


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes, headers: str = "") -> None:
    writer.write(
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await writer.drain()


def _completion(text: str, ollama: bool, why: str) -> bytes:
    if not ollama:
        message = {"role": "assistant", "content": text}
        return json.dumps(
            {
                "choices": [{"index": 0, "message": message, "finish_reason": why}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            }
        ).encode()
    lines: list[dict[str, Any]] = [
        {"message": {"role": "assistant", "content": text[start : start + 40]}, "done": False}
        for start in range(0, len(text), 40)
    ]
    lines.append(
        {
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": why,
            "prompt_eval_count": 100,
            "eval_count": 20,
        }
    )
    return "".join(json.dumps({"model": "scripted", **line}) + "\n" for line in lines).encode()


_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}


@contextlib.contextmanager
def judge_server(brain: Brain = honest) -> Iterator[JudgeServer]:
    """The server on a loop and a thread of its own, for tests that block."""
    server = JudgeServer(brain)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    _LOOPS[id(server)] = loop
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield server
    finally:
        del _LOOPS[id(server)]
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextlib.contextmanager
def stopped(server: JudgeServer) -> Iterator[None]:
    """A server of `judge_server` that is away for the time of the block."""
    loop = _LOOPS[id(server)]
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
