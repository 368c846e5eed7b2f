"""Open-loop HTTP load: requests leave when they are due, whether or not earlier ones were answered."""

import asyncio
import json
import random
from collections import Counter, deque
from time import perf_counter
from typing import Any

import uvloop

SENTENCES = (
    "Paris is the capital of France. The city lies on the Seine and counts about two million people; "
    "its metro opened in 1900 and now has sixteen lines. The Rhine rises in the Swiss Alps and reaches the "
    "North Sea near Rotterdam. Water boils at a lower temperature on a mountain than at the coast. Bread "
    "dough rises because yeast turns sugar into gas. Saturn has rings of ice and rock. The first printed "
    "books in Europe appeared in the fifteenth century. A violin has four strings, tuned in fifths. Lisbon "
    "is older than Rome by some centuries. Oak trees can live for several hundred years. The Danube flows "
    "through ten countries before it reaches the Black Sea. Copper conducts electricity well and turns "
    "green in the rain. Honey keeps for a long time when the jar is closed. Chess came to Europe by way of "
    "Persia and Spain. The Pacific is larger than all continents together. A marathon is a little over "
    "forty-two kilometres long. Coffee plants grow best in the shade of taller trees. The Baltic holds less "
    "salt than the open ocean. Swallows fly south in September and come back in April. Granite forms when "
    "molten rock cools slowly under the ground."
).split(". ")
TICK = 0.002


class Wire(asyncio.Protocol):
    """One kept connection with one request out at a time."""

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self._held = b""
        self._sent_at = 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._driver.idle.append(self)

    def send(self, request: bytes) -> None:
        self._sent_at = perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._held[:end].lower()
        at = head.find(b"content-length: ")
        length = int(head[at + 16 : head.find(b"\r", at) if head.find(b"\r", at) > 0 else None])
        if len(self._held) < end + 4 + length:
            return
        self._held = b""
        self._driver.answered(int(head[9:12]), b"\nretry-after: " in head, self._sent_at)
        self._driver.idle.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._driver.lost(self)


class Driver:
    """Posts at a rate for a time; answers are told second by second."""

    def __init__(self, port: int, path: str, bodies: list[bytes], connections: int) -> None:
        self._port = port
        self._requests = [
            b"POST %b HTTP/1.1\r\nhost: l\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (path.encode(), len(body), body)
            for body in bodies
        ]
        self._connections = connections
        self.idle: deque[Wire] = deque()
        self.statuses: Counter[str] = Counter()
        self.accepted: list[tuple[float, float]] = []
        """When it was sent and seconds to the answer, of each 200."""
        self.refused: list[float] = []
        self.unsent = 0
        """Due while no connection was free."""
        self._sent = 0
        self._stopping = False

    async def run(self, rate: float, seconds: float) -> dict[str, object]:
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            await loop.create_connection(lambda: Wire(self), "127.0.0.1", self._port)
        started = perf_counter()
        due = 0
        while (now := perf_counter()) - started < seconds:
            target = int((now - started) * rate)
            while due < target:
                due += 1
                if self.idle:
                    self.idle.popleft().send(self._requests[due % len(self._requests)])
                    self._sent += 1
                else:
                    self.unsent += 1
            await asyncio.sleep(TICK)
        await asyncio.sleep(1.0)
        self._stopping = True
        return {
            "seconds": seconds,
            "due": due,
            "sent": self._sent,
            "unsent": self.unsent,
            "statuses": dict(self.statuses),
            "accepted": self.accepted,
            "refused": self.refused,
        }

    def answered(self, status: int, retry_after: bool, sent_at: float) -> None:
        took = perf_counter() - sent_at
        self.statuses[f"{status}{' retry-after' if retry_after else ''}"] += 1
        if status == 200:
            self.accepted.append((sent_at, took))
        else:
            self.refused.append(took)

    def lost(self, wire: Wire) -> None:
        if not self._stopping:
            self.statuses["connection lost"] += 1


def drive(port: int, rate: float, seconds: float, connections: int, given: list[bytes]) -> dict[str, Any]:
    """Run a driver on its own loop; for a process of its own."""
    return uvloop.run(Driver(port, "/v1/detect", given, connections).run(rate, seconds))


def bodies(count: int = 200, chars: int = 500) -> list[bytes]:
    """Different harmless texts of about that many characters."""
    found = []
    for number in range(count):
        text = ""
        for sentence in random.Random(number).sample(SENTENCES, len(SENTENCES)):
            if len(text) + len(sentence) < chars:
                text += sentence.rstrip(".") + ". "
        found.append(json.dumps({"llm_response": text.strip()}).encode())
    return found
