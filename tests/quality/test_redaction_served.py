"""No secret or personal number that was detected is in anything that a real service leaves behind.

Labelled texts are posted to `llmobs serve` while its database answers, while it is away (the spool fills) and when
it is back. Then the raw bytes of every file that the service or its database server wrote are searched, and all
that it tells: metrics, exports, lists, and what its commands print. Run with `-s` to see the figures.
"""

import contextlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import re2
from support.postgres import OwnServer, binaries, new_database, own_server
from support.service import Service

from llmobs.evaluation import inquiry_of, read_rows

DATA = Path(os.environ.get("LLMOBS_DATA", Path(__file__).parents[3] / "shared/data"))
LEAST = 8
"""Characters; shorter pieces stand in other words by chance."""
BATCH = 50
WHOLE = "postgresql, redacted"
"""What every labelled text is posted to, as production has it; the others get every fourth."""
SENSITIVE = {"secret_leak", "pii_leak"}
MARK = "zanzibar-marker-{}"
"""Harmless words that must be found: a search that finds nothing proves nothing."""

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no labelled data at {DATA}; set LLMOBS_DATA"),
]


class Database(Protocol):
    """A database that can go away and come back."""

    url: str

    def away(self) -> None: ...
    def back(self) -> None: ...
    def prepare(self) -> None: ...
    def bytes_of(self) -> dict[str, bytes]: ...


class Sqlite:
    """A file that somebody else locks."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "llmobs.db"
        self.url = f"sqlite:///{self._path}"
        self._locker: sqlite3.Connection | None = None

    def prepare(self) -> None:
        """Nothing: SQLite stores texts as they are."""

    def away(self) -> None:
        self._locker = sqlite3.connect(self._path, isolation_level=None)
        self._locker.execute("BEGIN IMMEDIATE")

    def back(self) -> None:
        assert self._locker is not None
        self._locker.close()

    def bytes_of(self) -> dict[str, bytes]:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            dump = "\n".join(connection.iterdump())
        return {"dump": dump.encode()} | {
            path.name: path.read_bytes() for path in self._path.parent.glob("llmobs.db*")
        }


class Postgres:
    """A server that is stopped; its whole data folder is searched, write-ahead log and server log included."""

    def __init__(self, server: OwnServer) -> None:
        self._server = server
        self.url = new_database(server)

    def prepare(self) -> None:
        """Long values are compressed otherwise, and a search of raw bytes would not see them."""
        for column in ("llm_response", "context", "explanation", "evidence", "coverage", "scores"):
            self._psql(f"ALTER TABLE detection_logs ALTER COLUMN {column} SET STORAGE EXTERNAL")

    def away(self) -> None:
        self._server.stop()

    def back(self) -> None:
        self._server.start()

    def bytes_of(self) -> dict[str, bytes]:
        self._psql("CHECKPOINT")
        dump = subprocess.run(
            [binaries() / "pg_dump", "--dbname", self.url],
            check=True,
            capture_output=True,
            cwd="/",
        ).stdout
        found: dict[str, bytes] = {"dump": dump}
        for path in self._server.folder.rglob("*"):
            if path.is_file():
                place = path.relative_to(self._server.folder).parts
                kind = "wal" if "pg_wal" in place else "server log" if place == ("log",) else "data files"
                found[kind] = found.get(kind, b"") + path.read_bytes()
        return found

    def _psql(self, statement: str) -> None:
        subprocess.run(
            [binaries() / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url],
            check=True,
            capture_output=True,
            cwd="/",
        )


@pytest.fixture(
    params=[("sqlite", "redacted"), ("postgresql", "redacted"), ("postgresql", "hash")],
    ids=["sqlite-redacted", "postgresql-redacted", "postgresql-hash"],
)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Database, Service]]:
    """What is tried, the database, and the service over it."""
    kind, store_text = request.param
    with contextlib.ExitStack() as stack:
        database: Database = (
            Sqlite(tmp_path) if kind == "sqlite" else Postgres(stack.enter_context(own_server()))
        )
        service = Service(
            tmp_path,
            database.url,
            {
                "STORE_TEXT": store_text,
                "LOG_LEVEL": "debug",
                # Texts that are kept as digests are no different for having been seen by tier 2.
                "LLMOBS_ENCODER": "true" if store_text == "redacted" else "false",
                "API_WORKERS": "1" if kind == "sqlite" else "2",
                "LLMOBS_DATABASE_TIMEOUT_SECONDS": "2",
                "LLMOBS_CANARY_SECONDS": "0",
                # Batches wait here as long as they must: what is tried is not the machine's speed.
                "LLMOBS_QUEUE_MS": "60000",
                "LLMOBS_JOURNAL_MAX_WAIT_MS": "60000",
                "LLMOBS_REQUEST_TIMEOUT_SECONDS": "120",
            },
        )
        stack.callback(service.kill)
        service.migrate()
        database.prepare()
        service.start()
        yield f"{kind}, {store_text}", database, service


def _positives() -> list[str]:
    return [
        inquiry_of(row).text
        for task in ("secret", "pii")
        for path in sorted((DATA / task).glob("*.jsonl.gz"))
        for row in read_rows(path)
        if row.label
    ]


class Posted:
    """What was posted, and what the service says that it found."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.pieces_of: dict[str, set[str]] = {}
        self.ids: list[tuple[str, str]] = []
        """Request id and text."""

    def post(self, texts: Sequence[str], phase: str) -> None:
        """Each text also stands in the context, which is kept as well."""
        marked = f"The parcel {MARK.format(phase)} has left the warehouse."
        for start in range(0, len(texts), BATCH):
            part = [*texts[start : start + BATCH], marked]
            answer = self._client.post(
                "/v1/detect/batch",
                json=[{"llm_response": text, "context": {"ticket": {"words": [text]}}} for text in part],
            )
            assert answer.status_code == 200, answer.text
            for text, result in zip(part, answer.json()["results"], strict=True):
                assert result.get("recorded"), result
                self.ids.append((result["request_id"], text))
                self.pieces_of[text] = {
                    text[piece["start"] : piece["end"]].strip()
                    for piece in result["evidence"]
                    if piece["failure_class"] in SENSITIVE and piece["start"] is not None
                }

    def detected(self) -> tuple[set[str], set[str]]:
        """The pieces to look for, and those that stand unseen in another text, where they are a miss."""
        found = {piece for pieces in self.pieces_of.values() for piece in pieces if len(piece) >= LEAST}
        missed = {
            piece
            for piece in found
            if any(
                piece in text and not any(piece in mine for mine in pieces)
                for text, pieces in self.pieces_of.items()
            )
        }
        return found - missed, missed


def _spool(service: Service) -> bytes:
    return b"".join(path.read_bytes() for path in service.spool.rglob("*") if path.is_file())


def _told(client: httpx.Client, service: Service) -> dict[str, bytes]:
    """All that the service and its commands say."""
    paths = (
        "/metrics",
        "/v1/logs?format=jsonl",
        "/v1/logs?limit=500",
        "/logs/recent?limit=500",
        "/v1/feedback",
        "/v1/feedback?format=rows",
        "/v1/admin/audit?limit=500",
        "/metrics/stats",
        "/v1/stats",
        "/health",
        "/v1/overview",
        "/health/ready",
    )
    said = {path: _asked(client, path) for path in paths}
    assert {path: answer.status_code for path, answer in said.items() if answer.status_code != 200} == {}
    commands = (
        ("config", "show"),
        ("audit", "list"),
        ("audit", "verify"),
        ("feedback", "export", "--out", "/dev/stdout"),
    )
    printed = {" ".join(command): service.llmobs(*command) for command in commands}
    assert all(done.returncode == 0 for done in printed.values()), printed
    return {path: answer.content for path, answer in said.items()} | {
        f"llmobs {name}": (done.stdout + done.stderr).encode() for name, done in printed.items()
    }


def _asked(client: httpx.Client, path: str) -> httpx.Response:
    """Again where it says so: the connections of a pool have died with a server that was stopped."""
    for _ in range(10):
        answer = client.get(path)
        if answer.status_code != 503:
            break
    return answer


def _forms(piece: str) -> set[str]:
    """As it is, as JSON holds it, and as JSON in the text of a dump is written."""
    quoted = {json.dumps(piece)[1:-1], json.dumps(piece, ensure_ascii=False)[1:-1]}
    return {piece} | {
        form
        for each in quoted | {piece}
        for form in (each, each.replace("\\", "\\\\"), each.replace("'", "''"))
    }


def _search(pieces: set[str], places: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    """What of the pieces stands in the raw bytes of each place."""
    options = re2.Options()
    options.max_mem = 1 << 30
    options.encoding = re2.Options.Encoding.LATIN1  # bytes are bytes, whatever they mean
    forms = sorted({form.encode() for piece in pieces for form in _forms(piece)})
    pattern = re2.compile(b"|".join(re2.escape(form) for form in forms), options)
    return {name: sorted(set(pattern.findall(held))) for name, held in places.items()}


def test_what_was_detected_is_nowhere_in_what_a_service_leaves(
    ground: tuple[str, Database, Service],
) -> None:
    tried, database, service = ground
    texts = _positives()[:: 1 if tried == WHOLE else 4]
    with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=180) as client:
        posted = Posted(client)
        posted.post(texts[0::3], "before")
        database.away()
        posted.post(texts[1::3], "away")
        spooled = _spool(service)
        database.back()
        posted.post(texts[2::3], "after")
        _until_empty(service)
        for request_id, text in posted.ids[:: len(posted.ids) // 40]:
            answer = client.post(
                "/v1/feedback",
                json={
                    "request_id": request_id,
                    "correct": False,
                    "correct_class": "tone_issue",
                    "note": f"{MARK.format('note')}: {text}"[:2000],
                },
            )
            assert answer.status_code in {200, 201}, answer.text
        while_running = database.bytes_of()
        told = _told(client, service)
    service.stop()
    places: dict[str, bytes] = {
        "spool while away": spooled,
        **{f"{name}, running": held for name, held in while_running.items()},
        **{f"{name}, stopped": held for name, held in database.bytes_of().items()},
        "spool, drained": _spool(service),
        "log": service.log_path.read_bytes(),
        **told,
    }
    hold_marks(places, hashed=tried.endswith("hash"))
    pieces, missed = posted.detected()
    assert len(pieces) > (1000 if tried == WHOLE else 300), len(pieces)
    assert len(missed) <= 0.03 * len(pieces), sorted(missed)
    leaks = _search(pieces, places)
    found = sum(len(each) for each in leaks.values())
    print(  # the figures to be reported
        f"\n{tried}: {len(texts)} texts, {len(pieces)} pieces detected ({len(missed)} missed in another text), "
        f"{len(places)} places with {sum(map(len, places.values())) / 1e6:.0f} MB searched, {found} found: "
        + ", ".join(f"{name} {len(each)}" for name, each in leaks.items() if each)
    )
    assert not found, {name: each[:3] for name, each in leaks.items() if each}


def hold_marks(places: Mapping[str, bytes], *, hashed: bool) -> None:
    """Each place is what it is taken for: harmless words that were posted or noted stand in it."""
    text = [] if hashed else [b"zanzibar-marker-before", b"zanzibar-marker-away", b"zanzibar-marker-after"]
    wanted: dict[str, list[Any]] = {
        "dump, running": [*text, b"zanzibar-marker-note"],
        "/v1/logs?format=jsonl": text,
        "/v1/feedback": [b"zanzibar-marker-note"],
        "spool while away": [] if hashed else [b"zanzibar-marker-away"],
        "log": [b"/v1/detect/batch"],
        "/metrics": [b"detection_tier_total"],
    }
    if "llmobs.db, running" in places:
        wanted["llmobs.db, stopped"] = text
    else:
        wanted |= {"data files, stopped": text, "wal, stopped": text}
    for place, marks in wanted.items():
        for mark in marks:
            assert mark in places[place], (place, mark)
    assert len(places["spool while away"]) > 100_000


def _until_empty(service: Service) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not _spool(service):
            return
        time.sleep(0.2)
    raise AssertionError("the spool was not drained: " + service.log())
