"""The live overview of a real service: whichever process answers tells what all of them recorded, and lets it end."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.service import Service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, f"sqlite:///{tmp_path}/l.db", {"API_WORKERS": "2", "LLMOBS_DRAIN_SECONDS": "1"})
    made.start("--migrate")
    yield made
    made.kill()


def watch(service: Service, totals: list[int], ended: list[str]) -> None:
    name = ""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{service.port}/v1/overview/stream?span=1h", timeout=60
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for raw in answer:
            line = raw.decode().rstrip()
            if line.startswith("event: "):
                name = line[7:]
                if name != "overview":
                    ended.append(name)
            elif line.startswith("data: ") and name == "overview":
                totals.append(json.loads(line[6:])["total"])


def until(true: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_watcher_sees_what_any_process_recorded_and_streams_end_with_the_service(
    service: Service,
) -> None:
    watchers = [([], []) for _ in range(4)]  # type: list[tuple[list[int], list[str]]]
    threads = [threading.Thread(target=watch, args=(service, *one), daemon=True) for one in watchers]
    for thread in threads:
        thread.start()
    until(lambda: all(totals for totals, _ in watchers))
    for n in range(10):  # each on a connection of its own, so that both processes get some
        body = json.dumps({"llm_response": f"The library opens at {n}."}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{service.port}/v1/detect", body, {"content-type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()
    until(lambda: all(totals[-1] == 10 for totals, _ in watchers))
    assert service.process is not None
    started = time.monotonic()
    service.process.terminate()
    assert service.process.wait(30) == 0
    assert time.monotonic() - started < 20
    for thread in threads:
        thread.join(10)
    assert [ended for _, ended in watchers] == [["end"]] * 4
