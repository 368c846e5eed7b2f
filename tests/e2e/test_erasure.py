"""A person is erased from a real service: from two workers, and from spools that a killed service left behind."""

import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.postgres import binaries, new_database, own_server
from support.service import Service

PEPPER = "a pepper that only this test knows, long enough"
ANN, BOB = "ann-4711@customers.example", "bob-0815@customers.example"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Ground:
    """A service, how its database goes away, and what the database holds."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.service = Service(
            folder,
            url,
            {
                "API_WORKERS": "2",
                "LLMOBS_ENCODER": "false",
                "LLMOBS_CANARY_SECONDS": "0",
                "LLMOBS_SUBJECT_PEPPER": PEPPER,
                "LLMOBS_DATABASE_TIMEOUT_SECONDS": "2",
                "STORE_TEXT": "full",
            },
        )

    def away(self) -> None: ...
    def back(self) -> None: ...

    def texts(self) -> list[str]:
        raise NotImplementedError


class OnSqlite(Ground):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "llmobs.db"
        super().__init__(folder, f"sqlite:///{self._path}")

    def away(self) -> None:
        self._locker = sqlite3.connect(self._path, isolation_level=None)
        self._locker.execute("BEGIN IMMEDIATE")

    def back(self) -> None:
        self._locker.close()

    def texts(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            return sorted(row[0] for row in connection.execute("SELECT llm_response FROM detection_logs"))


class OnPostgres(Ground):
    def __init__(self, folder: Path, server: Any) -> None:
        self._server = server
        super().__init__(folder, new_database(server))

    def away(self) -> None:
        self._server.stop()

    def back(self) -> None:
        self._server.start()

    def texts(self) -> list[str]:
        psql = [binaries() / "psql", "-qXAt", "-c", "SELECT llm_response FROM detection_logs"]
        found = subprocess.run([*psql, self.url], check=True, capture_output=True, text=True, cwd="/")
        return sorted(found.stdout.splitlines())


@pytest.fixture(params=["sqlite", "postgresql"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    with contextlib.ExitStack() as stack:
        made: Ground = (
            OnSqlite(tmp_path)
            if request.param == "sqlite"
            else OnPostgres(tmp_path, stack.enter_context(own_server()))
        )
        stack.callback(made.service.kill)
        made.service.migrate()
        made.service.start()
        yield made


def _post(service: Service, name: str, times: int) -> set[bool]:
    """Two texts of each person, over fresh connections so that both workers get some. Whether any was cached."""
    cached = set()
    for number in range(times):
        for person in (ANN, BOB, None):
            told = "nobody" if person is None else person[:3]
            body: dict[str, Any] = {"llm_response": f"{name} {number} of {told}"}
            if person is not None:
                body["context"] = {"subject_id": person}
            with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
                answer = client.post("/v1/detect", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["recorded"]
            if person == ANN:
                cached |= {bool(entry.get("cached")) for entry in answer.json()["coverage"]}
    return cached


def _spooled(service: Service) -> bytes:
    return b"".join(path.read_bytes() for path in service.spool.glob("*.spool"))


def test_nothing_of_a_person_is_left_and_nothing_comes_back_from_a_dead_services_spool(
    ground: Ground,
) -> None:
    service = ground.service
    _post(service, "before", 4)
    assert _post(service, "before", 4) == {False}, (
        "known texts of a person are examined anew by either worker"
    )
    ground.away()
    _post(service, "away", 4)
    assert b"away 3 of ann" in _spooled(service)
    assert ANN.encode() not in _spooled(service)
    service.kill()  # nobody drains what it spooled
    ground.back()
    erased = service.llmobs("erase", "--subject", ANN)
    assert erased.stdout == "Erased: 8 verdicts, 0 feedback, 0 idempotency keys, 0 judgements.\n", erased
    others = sorted([f"before {n} of {who}" for n in range(4) for who in ("bob", "nobody")] * 2)
    assert ground.texts() == others
    service.start()
    deadline = time.monotonic() + 60
    while _spooled(service) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _spooled(service)
    drained = [f"away {n} of {who}" for n in range(4) for who in ("bob", "nobody")]
    assert ground.texts() == sorted(others + drained)
    with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
        again = client.post("/v1/admin/erasures", json={"subject_id": BOB})
        assert again.json() == {"verdicts": 12, "feedback": 0, "idempotency_keys": 0, "judgements": 0}
        assert "rows_deleted_total{" in client.get("/metrics").text
    assert {text.rpartition(" ")[2] for text in ground.texts()} == {"nobody"}
    _post(service, "later", 1)
    assert "later 0 of ann" in ground.texts(), "a person may come again"
    assert service.llmobs("audit", "verify").returncode == 0
    assert ANN.encode() not in service.log_path.read_bytes()
