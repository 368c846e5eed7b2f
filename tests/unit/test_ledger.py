"""Counts that several processes share."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmobs.telemetry import ledger as ledger_module
from llmobs.telemetry.instruments import Telemetry
from llmobs.telemetry.ledger import Ledger


def _samples(telemetry: Telemetry) -> dict[str, float]:
    lines = telemetry.exposition().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


REQUESTS = 'http_requests_total{method="POST",path="/v1/detect",status="200"}'
SECONDS = 'http_request_duration_seconds_%s{method="POST",path="/v1/detect"}'


def test_each_scrape_shows_the_sum_of_all_workers(tmp_path: Path) -> None:
    one, other = Telemetry(ledger=Ledger(tmp_path)), Telemetry(ledger=Ledger(tmp_path))
    for _ in range(3):
        one.request("POST", "/v1/detect", 200, 0.002)
    for _ in range(4):
        other.request("POST", "/v1/detect", 200, 0.5)
    other.request("GET", "/health", 200, 0.5)
    for telemetry in (one, other):
        found = _samples(telemetry)
        assert found[REQUESTS] == 7
        assert found['http_requests_total{method="GET",path="/health",status="200"}'] == 1
        assert found[SECONDS % "count"] == 7
        assert found[SECONDS % "sum"] == pytest.approx(2.006)
        assert found['http_request_duration_seconds_bucket{le="0.0025",method="POST",path="/v1/detect"}'] == 3
        assert found['detection_tier_total{tier="1"}'] == 0
    one.close()
    other.close()


COUNTING = """
import os, signal, sys
from pathlib import Path
from llmobs.telemetry.instruments import Telemetry
from llmobs.telemetry.ledger import Ledger

telemetry = Telemetry(ledger=Ledger(Path(sys.argv[1])))
for _ in range(1000):
    telemetry.request("POST", "/v1/detect", 200, 0.002)
telemetry.gauges["journal_pending"] = lambda: [((), 5)]
telemetry.publish_gauges()
print("counted", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_takes_no_count_and_the_next_worker_goes_on_from_there(tmp_path: Path) -> None:
    survivor = Telemetry(ledger=Ledger(tmp_path))
    survivor.gauges["journal_pending"] = lambda: [((), 2)]
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", COUNTING, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    found = _samples(survivor)
    assert found[REQUESTS] == 2000
    assert found[SECONDS % "count"] == 2000
    assert found["journal_pending"] == 2  # what dead workers had waiting is no more
    assert len(list(tmp_path.iterdir())) == 2  # the second took the first one's slot
    successor = Telemetry(ledger=Ledger(tmp_path))
    successor.request("POST", "/v1/detect", 200, 0.002)
    assert _samples(successor)[REQUESTS] == 2001
    assert _samples(survivor)[SECONDS % "count"] == 2001
    survivor.close()
    successor.close()


@pytest.mark.parametrize(("metric", "expected"), [("journal_pending", 7), ("configuration_refused", 5)])
def test_gauges_of_living_workers_add_up_or_show_the_worst(
    tmp_path: Path, metric: str, expected: float
) -> None:
    one, other = Telemetry(ledger=Ledger(tmp_path)), Telemetry(ledger=Ledger(tmp_path))
    labels = ("rules",) if metric == "configuration_refused" else ()
    one.gauges[metric] = lambda: [(labels, 2)]
    other.gauges[metric] = lambda: [(labels, 5)]
    one.publish_gauges()
    other.publish_gauges()
    shown = {name.partition("{")[0]: value for name, value in _samples(one).items()}
    assert shown[metric] == expected
    other.gauges[metric] = list
    other.publish_gauges()
    assert {name.partition("{")[0]: value for name, value in _samples(one).items()}[metric] == 2
    one.close()
    other.close()


def test_a_full_ledger_counts_on_for_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "SIZE", 4096)
    one, other = Telemetry(ledger=Ledger(tmp_path)), Telemetry(ledger=Ledger(tmp_path))
    for number in range(200):
        one.request("GET", f"/path-{number}", 200, 0.1)
    assert _samples(one)['http_requests_total{method="GET",path="/path-199",status="200"}'] == 1
    assert 'http_requests_total{method="GET",path="/path-199",status="200"}' not in _samples(other)
    one.close()
    other.close()


def test_the_slot_files_are_for_their_owner_only(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.path.stat().st_mode & 0o077 == 0
    ledger.close()
