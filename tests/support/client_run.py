"""Many calls of the client against a real server that is restarted and overloaded, all accounted for.

`tests/e2e/test_client.py` asserts on a small run, `bench/client.py` prints and keeps a large one.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import httpx
import msgspec
from support.faults import COMMON
from support.service import Service, memory_bytes

from llmobs.client import AsyncClient, ClientError, DetectAnswer, Retry

BURST_CONNECTIONS = 400
TASKS = 32


class Run(msgspec.Struct, kw_only=True):
    """What became of the calls."""

    calls: int
    verdicts: int = 0
    typed_errors: dict[str, int] = {}
    errors_told: list[str] = []
    neither: int = 0
    """Calls that ended in anything else; must be none."""
    restarts: int = 0
    away_s: list[float] = []
    """From the signal until it answered again, of each restart."""
    tries: int = 0
    """Requests sent, batches counted once."""
    overload_answers: int = 0
    """503 `overloaded` answers on the wire, each one waited out by the client."""
    cut_off: int = 0
    """Tries that got no whole answer."""
    rows: int = 0
    rows_doubled: int = 0
    """Rows beyond the first of one text."""
    verdicts_without_row: int = 0
    rss_growth_mib: float = 0.0
    """Most memory that this process had, over what it had after the first tenth of the calls."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    longest_call_s: float = 0.0
    longest_burst_call_s: float = 0.0
    seconds: float = 0.0


class Wire(httpx.AsyncHTTPTransport):
    """The real transport, counting what comes back."""

    def __init__(self, told: Run, connections: int) -> None:
        super().__init__(
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        )
        self._told = told

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._told.tries += 1
        try:
            answer = await super().handle_async_request(request)
        except httpx.TransportError:
            self._told.cut_off += 1
            raise
        self._told.overload_answers += answer.status_code == 503
        return answer


async def run(folder: Path, calls: int, *, encoder: bool) -> Run:  # noqa: PLR0915  # one story, told in order
    """`calls` in all: four fifths one by one, a tenth in batches, a tenth as one burst."""
    told = Run(calls=calls)
    outcomes: Counter[str] = Counter()
    took: dict[str, list[float]] = {"Reply": [], "Burst": []}
    verdicts: dict[str, str] = {}
    path = folder / "llmobs.db"
    service = Service(
        folder,
        f"sqlite:///{path}",
        {
            **COMMON,
            "LLMOBS_ENCODER": str(encoder).lower(),
            "LLMOBS_DATABASE_TIMEOUT_SECONDS": "10",
            "LLMOBS_JOURNAL_MAX_PENDING": "48",  # ordinary traffic stays below; the burst does not
        },
    )
    await asyncio.to_thread(service.migrate)
    await asyncio.to_thread(service.start)
    started = perf_counter()
    burst, batched = calls // 10, calls // 10
    single = calls - burst - batched
    numbers = iter(range(single))
    steps = {single // 5: "kill", single * 2 // 5: "stop", single * 3 // 5: "burst", single * 4 // 5: "stop"}
    low = high = 0
    patient = Retry(attempts=200, first=0.05, longest=1.0)

    async def call(client: AsyncClient, text: str) -> None:
        begun = perf_counter()
        try:
            verdict = await client.detect(text)
        except ClientError as error:
            outcomes[type(error).__name__] += 1
            told.errors_told.append(repr(error)[:200])
        except Exception as error:  # noqa: BLE001  # this is what the run looks for
            told.neither += 1
            outcomes[f"untyped {type(error).__name__}"] += 1
        else:
            verdicts[verdict.request_id] = text
        took[text.split(maxsplit=1)[0]].append(perf_counter() - begun)

    async def restart(end: Callable[[], object]) -> None:
        begun = perf_counter()
        await asyncio.to_thread(end)
        await asyncio.to_thread(service.start)
        told.away_s.append(round(perf_counter() - begun, 1))
        told.restarts += 1

    try:
        async with (
            AsyncClient(
                f"http://127.0.0.1:{service.port}", deadline=90, retry=patient, transport=Wire(told, TASKS)
            ) as client,
            AsyncClient(
                f"http://127.0.0.1:{service.port}",
                deadline=90,
                retry=patient,
                transport=Wire(told, BURST_CONNECTIONS),
            ) as eager,
            asyncio.TaskGroup() as faults,
        ):

            async def worker() -> None:
                nonlocal low, high
                for number in numbers:
                    match steps.pop(number, None):
                        case "kill":
                            faults.create_task(restart(service.kill))
                        case "stop":
                            faults.create_task(restart(service.stop))
                        case "burst":
                            for other in range(burst):
                                faults.create_task(call(eager, f"Burst {other}: the library opens at nine."))
                        case _:
                            pass
                    await call(client, f"Reply {number}: the library opens at nine.")
                    if number % 50 == 0:
                        now = memory_bytes(os.getpid())
                        high = max(high, now)
                        if not low and number >= single // 10:
                            low = now

            async def batches() -> None:
                texts = [f"Batch {number}: the library opens at nine." for number in range(batched)]
                index = 0
                async for outcome in client.detect_each(iter(texts), size=20, concurrency=2):
                    if isinstance(outcome, DetectAnswer):
                        verdicts[outcome.request_id] = texts[index]
                    else:
                        outcomes[type(outcome).__name__] += 1
                    index += 1
                told.neither += batched - index

            async with asyncio.TaskGroup() as group:
                group.create_task(batches())
                for _ in range(TASKS):
                    group.create_task(worker())
        told.seconds = round(perf_counter() - started, 1)
    finally:
        with contextlib.suppress(Exception):
            await asyncio.to_thread(service.stop)
        service.kill()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT request_id, llm_response FROM detection_logs").fetchall()
    held = dict(rows)
    told.verdicts = len(verdicts)
    told.typed_errors = {name: count for name, count in outcomes.items() if not name.startswith("untyped")}
    told.neither += calls - told.verdicts - sum(outcomes.values())
    told.rows = len(rows)
    told.rows_doubled = sum(count - 1 for count in Counter(text for _, text in rows).values())
    told.verdicts_without_row = sum(held.get(name) != text for name, text in verdicts.items())
    replies = sorted(took["Reply"])
    told.p50_ms, told.p99_ms = (round(replies[int(len(replies) * at)] * 1e3, 1) for at in (0.5, 0.99))
    told.longest_call_s, told.longest_burst_call_s = (round(max(took[of]), 2) for of in ("Reply", "Burst"))
    told.rss_growth_mib = round((high - low) / 2**20, 1)
    return told
