"""What happens to verdicts while the database is away, and after the process dies."""

import asyncio
import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.postgres import OwnServer, new_database
from support.store import Heard, make_record, until

from llmobs.domain.access import EVERYTHING
from llmobs.domain.record import Record
from llmobs.errors import RecordUnavailable, StoreUnavailable
from llmobs.settings import Settings, StoreOnFailure, Synchronous
from llmobs.store.migrate import upgrade
from llmobs.store.records import LogFilter
from llmobs.store.store import Kept, Store

Outage = Callable[[], Any]
RECORDED = Kept(recorded=True)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmobs.store.journal.RETRY_SECONDS", 0.2)


class Locked:
    """Another process holds SQLite's write lock: nothing can be written, though it can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._holder: sqlite3.Connection | None = None
        self.url = f"sqlite:///{path}"

    def begin(self) -> None:
        self._holder = sqlite3.connect(self._path, isolation_level=None)
        self._holder.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        if self._holder is not None:
            self._holder.close()
            self._holder = None


class Stopped:
    """The PostgreSQL server is down."""

    def __init__(self, server: OwnServer) -> None:
        self._server = server
        self.url = new_database(server)
        self._down = False

    def begin(self) -> None:
        self._server.stop()
        self._down = True

    def end(self) -> None:
        if self._down:
            self._server.start()
            self._down = False


class ReadOnly:
    """PostgreSQL answers, but takes no writes: what a fail-over to a standby looks like."""

    def __init__(self, server: OwnServer) -> None:
        self._server = server
        self.url = new_database(server)
        self._name = self.url.rpartition("/")[2]

    def begin(self) -> None:
        self._set("ALTER DATABASE {} SET default_transaction_read_only = on")

    def end(self) -> None:
        self._set("ALTER DATABASE {} RESET default_transaction_read_only")

    def _set(self, statement: str) -> None:
        self._server.sql(statement.format(self._name))
        self._server.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'"
        )


class Frozen:
    """The server's machine hangs: connections stay open and nothing answers."""

    def __init__(self, server: OwnServer) -> None:
        self._server = server
        self.url = new_database(server)

    def begin(self) -> None:
        self._server.signal(signal.SIGSTOP)

    def end(self) -> None:
        self._server.signal(signal.SIGCONT)


@pytest.fixture(params=[Locked, Stopped, ReadOnly, Frozen])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param is Locked:
        shutil.copy(request.getfixturevalue("empty_file"), tmp_path / "llmobs.db")
        made = Locked(tmp_path / "llmobs.db")
    else:
        made = request.param(request.getfixturevalue("fragile"))
        upgrade(Settings(database_url=made.url))
    try:
        yield made
    finally:
        made.end()


def _settings(url: str, tmp_path: Path, **changes: Any) -> Settings:
    settings = Settings(
        database_url=url,
        spool_dir=str(tmp_path / "spool"),
        sqlite_synchronous=Synchronous.NORMAL,
        database_timeout_seconds=0.4,
    )
    return msgspec.structs.replace(settings, **changes)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Store]:
    async with Store(settings, Heard()) as store:
        yield store


async def _ids(store: Store) -> list[str]:
    rows, _ = await store.page(EVERYTHING, LogFilter(), None, 500)
    return [row.request_id for row in reversed(rows)]


async def test_spooled_verdicts_reach_the_log_in_order_and_once(outage: Any, tmp_path: Path) -> None:
    async with _opened(_settings(outage.url, tmp_path)) as store:
        given = [make_record() for _ in range(12)]
        assert await store.append(given[0]) == RECORDED
        outage.begin()
        for record in given[1:4]:
            assert await store.append(record) == RECORDED
        assert await asyncio.gather(*(store.append(record) for record in given[4:])) == [RECORDED] * 8
        assert store.spooled_bytes > 0
        outage.end()
        await until(lambda: store.spooled_bytes == 0)
        assert await _ids(store) == [record.request_id for record in given]
        late = make_record()
        assert await store.append(late) == RECORDED
        assert (await _ids(store))[-1] == late.request_id
    assert list((tmp_path / "spool").iterdir()) == []


async def test_once_away_the_database_costs_no_request_its_timeout_again(outage: Any, tmp_path: Path) -> None:
    async with _opened(_settings(outage.url, tmp_path)) as store:
        await store.append(make_record())
        outage.begin()
        await store.append(make_record())
        for _ in range(8):
            started = time.perf_counter()
            assert await store.append(make_record()) == RECORDED
            assert time.perf_counter() - started < 0.3
            await asyncio.sleep(0.1)
        outage.end()
        await until(lambda: store.spooled_bytes == 0)


async def test_refuse_answers_503_and_recovers(outage: Any, tmp_path: Path) -> None:
    async with _opened(_settings(outage.url, tmp_path, store_on_failure=StoreOnFailure.REFUSE)) as store:
        await store.append(make_record())
        outage.begin()
        started = time.perf_counter()
        with pytest.raises(RecordUnavailable):
            await store.append(make_record())
        assert time.perf_counter() - started < 5
        outage.end()
        assert await _recovered(store) == RECORDED


async def test_answer_says_that_nothing_was_recorded(outage: Any, tmp_path: Path) -> None:
    async with _opened(_settings(outage.url, tmp_path, store_on_failure=StoreOnFailure.ANSWER)) as store:
        await store.append(make_record())
        outage.begin()
        unrecorded = make_record()
        assert await store.append(unrecorded) == Kept(recorded=False)
        outage.end()
        assert await _recovered(store) == RECORDED


async def test_a_keyed_verdict_is_not_spooled_but_refused(outage: Any, tmp_path: Path) -> None:
    async with _opened(_settings(outage.url, tmp_path)) as store:
        await store.append(make_record())
        outage.begin()
        done = await asyncio.gather(
            store.append(make_record(idempotency_key="k", body_sha256=b"\1" * 32)),
            store.append(make_record()),
            return_exceptions=True,
        )
        assert isinstance(done[0], RecordUnavailable)
        assert done[1] == RECORDED


async def test_a_reader_is_told_that_the_database_is_away(fragile: OwnServer, tmp_path: Path) -> None:
    stopped = Stopped(fragile)
    await asyncio.to_thread(upgrade, Settings(database_url=stopped.url))
    async with _opened(_settings(stopped.url, tmp_path)) as store:
        await store.ping()
        assert await store.is_at_head()
        stopped.begin()
        try:
            for question in (
                store.ping,
                store.is_at_head,
                lambda: store.counts(EVERYTHING),
                lambda: store.recent(EVERYTHING, 5),
            ):
                with pytest.raises(StoreUnavailable) as told:
                    await question()
                assert "127.0.0.1" not in str(told.value)
        finally:
            stopped.end()
        await store.ping()


async def test_a_server_that_was_restarted_in_between_costs_nobody_a_verdict(
    fragile: OwnServer, tmp_path: Path
) -> None:
    stopped = Stopped(fragile)
    await asyncio.to_thread(upgrade, Settings(database_url=stopped.url))
    refusing = _settings(stopped.url, tmp_path, store_on_failure=StoreOnFailure.REFUSE)
    async with _opened(refusing) as store:
        await store.append(make_record())
        stopped.begin()
        stopped.end()
        assert await store.append(make_record()) == RECORDED


async def test_a_schema_that_is_missing_is_an_outage_and_not_a_bad_row(
    settings: Settings, tmp_path: Path
) -> None:
    from llmobs.store.migrate import downgrade

    await asyncio.to_thread(downgrade, settings)
    async with _opened(settings) as store:
        assert not await store.is_at_head()
        record = make_record()
        assert await store.append(record) == RECORDED
        assert store.spooled_bytes > 0
        await asyncio.to_thread(upgrade, settings)
        await until(lambda: store.spooled_bytes == 0)
        assert await _ids(store) == [record.request_id]


async def _recovered(store: Store) -> Kept:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(RecordUnavailable):
                kept = await store.append(make_record())
                if kept.recorded:
                    return kept
            await asyncio.sleep(0.05)


# The child acknowledges on standard output what was appended, then dies without a word.
DYING = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[1])
import msgspec
from support.store import Heard, make_record
from llmobs.settings import Settings
from llmobs.store.store import Store

async def main():
    settings = msgspec.json.decode(sys.argv[2], type=Settings)
    async with Store(settings, Heard()) as store:
        given = [make_record() for _ in range(5)]
        assert (await store.append(given[0])).recorded
        kept = await asyncio.gather(*(store.append(record) for record in given[1:]))
        assert all(one.recorded for one in kept)
        print("\\n".join(record.request_id for record in given), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def _acknowledged_by_one_who_dies(settings: Settings) -> list[str]:
    tests = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", DYING, tests, msgspec.json.encode(settings).decode()],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.split()


async def test_an_acknowledged_verdict_survives_kill_9(settings: Settings) -> None:
    acknowledged = await asyncio.to_thread(_acknowledged_by_one_who_dies, settings)
    async with _opened(settings) as store:
        assert await _ids(store) == acknowledged
    assert len(acknowledged) == 5


async def test_a_spooled_verdict_survives_kill_9_and_the_next_process_drains_it(
    empty_file: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_file, tmp_path / "llmobs.db")
    locked = Locked(tmp_path / "llmobs.db")
    settings = _settings(locked.url, tmp_path)
    locked.begin()
    try:
        acknowledged = await asyncio.to_thread(_acknowledged_by_one_who_dies, settings)
    finally:
        locked.end()
    async with _opened(settings) as one, _opened(settings) as other:
        assert len(acknowledged) == 5
        await until(lambda: not list((tmp_path / "spool").iterdir()))
        assert await _ids(one) == await _ids(other) == acknowledged


async def test_a_full_spool_is_503_and_keeps_what_it_has(empty_file: Path, tmp_path: Path) -> None:
    shutil.copy(empty_file, tmp_path / "llmobs.db")
    locked = Locked(tmp_path / "llmobs.db")
    async with _opened(_settings(locked.url, tmp_path, spool_max_bytes=4096)) as store:
        locked.begin()
        kept: list[Record] = []
        with contextlib.suppress(RecordUnavailable):
            for _ in range(20):
                record = make_record()
                await store.append(record)
                kept.append(record)
        assert 1 <= len(kept) < 10
        assert store.spooled_bytes <= 4096
        locked.end()
        await until(lambda: store.spooled_bytes == 0)
        assert await _ids(store) == [record.request_id for record in kept]


async def test_closing_during_an_outage_leaves_everything_in_the_spool(
    empty_file: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_file, tmp_path / "llmobs.db")
    locked = Locked(tmp_path / "llmobs.db")
    settings = _settings(locked.url, tmp_path)
    given = [make_record() for _ in range(30)]
    async with _opened(settings) as store:
        locked.begin()
        tasks = [asyncio.create_task(store.append(record)) for record in given]
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [RECORDED] * 30
    locked.end()
    async with _opened(settings) as store:
        await until(lambda: not list((tmp_path / "spool").iterdir()))
        assert await _ids(store) == [record.request_id for record in given]


async def test_a_lock_that_is_let_go_in_time_is_no_outage(empty_file: Path, tmp_path: Path) -> None:
    shutil.copy(empty_file, tmp_path / "llmobs.db")
    locked = Locked(tmp_path / "llmobs.db")
    async with _opened(_settings(locked.url, tmp_path, database_timeout_seconds=5.0)) as store:
        holder = sqlite3.connect(tmp_path / "llmobs.db", isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        threading.Timer(0.3, holder.rollback).start()
        assert await store.append(make_record()) == RECORDED
        assert store.spooled_bytes == 0
        holder.close()
