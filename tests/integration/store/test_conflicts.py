"""Transactions that PostgreSQL undoes for the sake of another are tried again, a few times."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.postgres import OwnServer, new_database
from support.store import Heard, make_record

from llmobs.domain.access import EVERYTHING
from llmobs.settings import Settings
from llmobs.store.database import PAUSES, Transient, retried
from llmobs.store.migrate import upgrade
from llmobs.store.records import COLUMNS, row_of
from llmobs.store.store import Kept, Store

RECORDED = Kept(recorded=True)
CLAIM = "INSERT INTO idempotency_keys (client_id, key, request_id, body_sha256, created_at) VALUES ($1, $2, 'x', 'x', now())"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@asynccontextmanager
async def _opened(url: str, folder: Path, heard: Heard) -> AsyncIterator[tuple[Store, Any, Any]]:
    """A store, a connection that gets in its way, and one that looks on."""
    settings = Settings(database_url=url, spool_dir=str(folder / "spool"), database_timeout_seconds=20.0)
    await asyncio.to_thread(upgrade, settings)
    async with Store(settings, heard) as store:
        rival, witness = await asyncpg.connect(url), await asyncpg.connect(url)
        try:
            yield store, rival, witness
        finally:
            await rival.close()
            await witness.close()


async def _until_somebody_waits(witness: Any) -> None:
    async with asyncio.timeout(10):
        while await witness.fetchval(WAITING) == 0:  # noqa: ASYNC110  # the database has no such event
            await asyncio.sleep(0.01)


async def test_a_deadlock_costs_no_verdict(fragile: OwnServer, tmp_path: Path) -> None:
    heard = Heard()
    async with _opened(new_database(fragile), tmp_path, heard) as (store, rival, witness):
        first, second = (
            make_record(client_id="c", idempotency_key=key, body_sha256=bytes(32)) for key in ("a", "b")
        )
        transaction = rival.transaction()
        await transaction.start()
        await rival.execute("SET LOCAL deadlock_timeout = '1h'")  # it is the store that is to be undone
        await rival.execute(CLAIM, "c", "b")
        both = asyncio.gather(store.append(first), store.append(second))
        await _until_somebody_waits(witness)  # the store has claimed `a` and waits for `b`
        await rival.execute(CLAIM, "c", "a")  # returns once the store has been undone
        undone = await witness.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        await transaction.rollback()
        assert await both == [RECORDED, RECORDED]
        async with asyncio.timeout(10):  # the server's figures come late
            while undone == 0:
                await asyncio.sleep(0.2)
                undone = await witness.fetchval(
                    "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
                )
        assert heard.batches == [2]
        assert (heard.failures, store.spooled_bytes) == ([], 0)
        assert len(await store.recent(EVERYTHING, 10)) == 2


async def test_a_serialisation_failure_costs_no_verdict(fragile: OwnServer, tmp_path: Path) -> None:
    url, heard = new_database(fragile), Heard()
    name = url.rpartition("/")[2]
    fragile.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    record = make_record()
    values = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 1))
    async with _opened(url, tmp_path, heard) as (store, rival, witness):
        transaction = rival.transaction(isolation="repeatable_read")
        await transaction.start()
        await rival.execute(
            f"INSERT INTO detection_logs ({', '.join(COLUMNS)}) VALUES ({values})",  # our own column names
            *row_of(record, postgres=True),
        )
        appending = asyncio.create_task(store.append(record))
        await _until_somebody_waits(witness)
        await transaction.commit()  # a row that the store's snapshot does not show is in its way
        assert await appending == RECORDED
        assert (heard.failures, store.spooled_bytes) == ([], 0)
        assert [row.request_id for row in await store.recent(EVERYTHING, 10)] == [record.request_id]


async def test_tries_are_bounded_and_other_failures_are_not_tried_again() -> None:
    tried = 0

    @retried
    async def fails(error: Exception, times: int) -> str:
        nonlocal tried
        tried += 1
        if tried <= times:
            raise error
        return "done"

    assert await fails(Transient("deadlock"), len(PAUSES)) == "done"
    assert tried == len(PAUSES) + 1
    tried = 0
    with pytest.raises(Transient):
        await fails(Transient("deadlock"), 99)
    assert tried == len(PAUSES) + 1
    tried = 0
    with pytest.raises(LookupError):
        await fails(LookupError(), 99)
    assert tried == 1
