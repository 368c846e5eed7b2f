"""Two workers as one service: counts, statistics and keys are shared, and a dead worker loses none."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.load import Connection
from support.postgres import Server as Postgres
from support.postgres import new_database
from support.service import Service, command_line

from llmobs.settings import Settings
from llmobs.store.migrate import upgrade

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TEXT = {"llm_response": "The library opens at nine."}


@pytest.fixture
def service(tmp_path: Path, postgres: Postgres) -> Iterator[Service]:
    url = new_database(postgres)
    upgrade(Settings(database_url=url))
    made = Service(tmp_path, url, {"API_WORKERS": "2", "LLMOBS_ENCODER": "false", "STORE_TEXT": "full"})
    made.start()
    _until(lambda: len(made.workers()) == 2)
    try:
        yield made
    finally:
        made.kill()


async def _post(service: Service, count: int, more: bytes = b"") -> list[str]:
    """Request ids of so many answers, over new connections, so that both workers get some."""

    async def some(number: int) -> list[str]:
        found = []
        for _ in range(number):
            connection = Connection(service.port)
            answer = await connection.post("/v1/detect", json.dumps(TEXT).encode(), more)
            connection.close()
            assert answer.status == 200, answer.body
            found.append(answer.json()["request_id"])
        return found

    return [one for ids in await asyncio.gather(*(some(count // 8) for _ in range(8))) for one in ids]


async def _counts(service: Service) -> dict[str, float]:
    connection = Connection(service.port)
    answer = await connection.get("/metrics")
    connection.close()
    samples: Counter[str] = Counter()
    for line in answer.body.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)  # type: ignore[assignment]
    return dict(samples)


def _until(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.1)


POSTS = 'http_requests_total{method="POST",path="/v1/detect",status="200"}'
SECONDS = 'http_request_duration_seconds_count{method="POST",path="/v1/detect"}'


async def test_totals_equal_the_requests_sent_also_when_a_worker_was_killed(service: Service) -> None:
    await _post(service, 400)
    for _ in range(12):  # whichever worker answers
        counts = await _counts(service)
        assert counts[POSTS] == counts[SECONDS] == counts['detection_tier_total{tier="1"}'] == 400
    victim = service.workers()[0]
    os.kill(victim, signal.SIGKILL)
    await asyncio.to_thread(_until, lambda: victim not in service.workers() and len(service.workers()) == 2)
    await asyncio.to_thread(service.wait_ready)
    await _post(service, 200)
    for _ in range(12):
        counts = await _counts(service)
        assert counts[POSTS] == counts[SECONDS] == counts['detection_tier_total{tier="1"}'] == 600
    assert service.get("/metrics/stats")["total_detections"] == 600
    assert service.stop() == 0


async def test_a_key_is_one_verdict_whichever_worker_is_asked(service: Service) -> None:
    ids = await _post(service, 64, b"idempotency-key: the-same\r\n")
    assert len(set(ids)) == 1
    assert service.get("/metrics/stats")["total_detections"] == 1


async def test_workers_end_when_their_supervisor_is_killed(service: Service) -> None:
    assert service.process is not None
    workers = service.workers()
    os.kill(service.process.pid, signal.SIGKILL)
    await asyncio.to_thread(service.process.wait)
    await asyncio.to_thread(_until, lambda: not any(map(command_line, workers)))
