import asyncio
import sqlite3
from typing import Any

import msgspec
import pytest
from support.store import Heard, make_record

from llmobs.domain.access import EVERYTHING
from llmobs.domain.record import Record
from llmobs.domain.urgency import CAN_WAIT
from llmobs.errors import Overloaded, RecordUnavailable
from llmobs.settings import Settings
from llmobs.store.database import Database, RowRefused
from llmobs.store.journal import RIDE_SECONDS
from llmobs.store.store import Kept, Store

BODY, OTHER_BODY = b"\1" * 32, b"\2" * 32


def _keyed(**changes: Any) -> Record:
    return make_record(**({"idempotency_key": "key", "body_sha256": BODY} | changes))


async def test_an_appended_record_is_there_when_append_returns(store: Store, database: Database) -> None:
    record = make_record()
    assert await store.append(record) == Kept(recorded=True)
    # Another connection sees it, so it was committed.
    async with database.transaction() as connection:
        found = await connection.exec_driver_sql("SELECT request_id FROM detection_logs")
        assert found.scalars().all() == [record.request_id]


async def test_records_that_come_together_share_a_commit(store: Store, heard: Heard) -> None:
    given = [make_record() for _ in range(200)]
    await asyncio.gather(*(store.append(record) for record in given))
    assert sum(heard.batches) == 200
    assert len(heard.batches) <= 3
    assert [row.request_id for row in reversed(await store.recent(EVERYTHING, 500))] == [
        r.request_id for r in given
    ]


async def test_a_caller_who_leaves_harms_nobody(store: Store) -> None:
    given = [make_record() for _ in range(10)]
    tasks = [asyncio.create_task(store.append(record)) for record in given]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in done[::2]] == [asyncio.CancelledError] * 5
    assert done[1::2] == [Kept(recorded=True)] * 5
    assert await store.append(make_record()) == Kept(recorded=True)
    written = {row.request_id for row in await store.recent(EVERYTHING, 50)}
    assert {record.request_id for record in given[1::2]} <= written


async def test_the_writer_goes_on_after_what_waited_for_a_ride_had_one(store: Store, heard: Heard) -> None:
    async def item() -> Kept:
        CAN_WAIT.set(True)  # of this task
        return await store.append(make_record())

    assert await store.append(make_record()) == Kept(recorded=True)
    single, ridden = await asyncio.gather(store.append(make_record()), asyncio.create_task(item()))
    assert single == ridden == Kept(recorded=True)
    assert heard.batches == [1, 2]
    await asyncio.sleep(2 * RIDE_SECONDS)  # nobody waits when the ride's time is up
    async with asyncio.timeout(5):
        assert await store.append(make_record()) == Kept(recorded=True)


async def test_more_than_may_wait_is_overload_at_once(settings: Settings, heard: Heard) -> None:
    async with Store(msgspec.structs.replace(settings, journal_max_pending=3), heard) as store:
        done = await asyncio.gather(*(store.append(make_record()) for _ in range(5)), return_exceptions=True)
        assert [type(one) for one in done] == [Kept, Kept, Kept, Overloaded, Overloaded]
        assert await store.append(make_record()) == Kept(recorded=True)
        assert store.pending == 0


async def test_what_waits_at_the_end_is_written(settings: Settings, heard: Heard) -> None:
    store = Store(settings, heard)
    async with store:
        tasks = [asyncio.create_task(store.append(make_record())) for _ in range(20)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [Kept(recorded=True)] * 20
    with pytest.raises(RecordUnavailable):
        await store.append(make_record())


async def test_the_second_with_a_key_gets_the_first_verdict(store: Store) -> None:
    first = _keyed(llm_response="first")
    assert await store.append(first) == Kept(recorded=True)
    for body in (BODY, OTHER_BODY):
        kept = await store.append(_keyed(llm_response="second", body_sha256=body))
        assert kept.duplicate_of is not None
        assert kept.duplicate_of.request_id == first.request_id
        assert kept.duplicate_of.body_sha256 == BODY  # which tells a repeat from a reuse
    assert (await store.counts(EVERYTHING)).total == 1
    found = await store.by_idempotency_key("client-1", "key")
    assert found is not None
    assert found.llm_response == "first"
    assert await store.by_idempotency_key("client-2", "key") is None


async def test_keys_of_different_clients_do_not_meet(store: Store) -> None:
    for client in ("a", "b", None):
        assert await store.append(_keyed(client_id=client)) == Kept(recorded=True)
    assert (await store.counts(EVERYTHING)).total == 3


async def test_of_many_at_once_with_one_key_one_wins(settings: Settings, heard: Heard) -> None:
    async with Store(settings, heard) as one, Store(settings, heard) as other:
        given = [_keyed() for _ in range(20)]
        done = await asyncio.gather(*((one, other)[n % 2].append(r) for n, r in enumerate(given)))
        winners = [r.request_id for r, kept in zip(given, done, strict=True) if kept.duplicate_of is None]
        assert len(winners) == 1
        assert {k.duplicate_of.request_id for k in done if k.duplicate_of is not None} == set(winners)
        assert [row.request_id for row in await one.recent(EVERYTHING, 50)] == winners


async def test_crossing_keys_of_two_processes_do_not_block_each_other(
    settings: Settings, heard: Heard
) -> None:
    async with Store(settings, heard) as one, Store(settings, heard) as other:
        for turn in range(8):
            keys = [f"{turn}-{n:03}" for n in range(150)]
            done = await asyncio.gather(
                *(one.append(_keyed(idempotency_key=key)) for key in keys),
                *(other.append(_keyed(idempotency_key=key)) for key in reversed(keys)),
            )
            assert sum(kept.duplicate_of is None for kept in done) == 150
    assert heard.failures == []


@pytest.mark.parametrize("poison", [{"tier_used": 2**80}, {"context": {"a": object()}}])
async def test_a_bad_row_is_refused_alone(store: Store, heard: Heard, poison: dict[str, Any]) -> None:
    given = [make_record() for _ in range(9)]
    given.insert(4, make_record(**poison))
    done = await asyncio.gather(*(store.append(record) for record in given), return_exceptions=True)
    assert isinstance(done.pop(4), RecordUnavailable)
    assert done == [Kept(recorded=True)] * 9
    assert (await store.counts(EVERYTHING)).total == 9
    assert len(heard.failures) == 1


async def test_a_row_that_the_database_refuses_is_refused_alone(store: Store, database: Database) -> None:
    given = [make_record() for _ in range(9)]
    given.insert(4, make_record(method=None))
    done = await asyncio.gather(*(store.append(record) for record in given), return_exceptions=True)
    assert isinstance(done.pop(4), RecordUnavailable)
    assert done == [Kept(recorded=True)] * 9


async def test_names_of_any_length_are_kept(store: Store) -> None:
    long = "x" * 1000
    record = make_record(failure_class=long, policy_id=long, method=long, client_id=long)
    assert await store.append(record) == Kept(recorded=True)
    [row] = await store.recent(EVERYTHING, 1)
    assert (row.failure_class, row.policy_id, row.method, row.client_id) == (long,) * 4


async def test_a_busy_journal_writes_one_statement_a_batch(store: Store) -> None:
    statements: list[str] = []
    await store.append(make_record())
    connection = store._writer._connection
    if isinstance(connection, sqlite3.Connection):
        connection.set_trace_callback(statements.append)
    else:
        connection.add_query_logger(lambda query: statements.append(query.query))
    await asyncio.gather(*(store.append(make_record()) for _ in range(100)))
    assert 1 <= len([one for one in statements if one.startswith("INSERT")]) <= 3


@pytest.mark.parametrize("size", [1, 63, 64, 65, 130, 500])
async def test_batches_of_any_size_are_written_in_order_and_repeats_left_alone(
    store: Store, size: int
) -> None:
    given = [make_record() for _ in range(size)]
    await store._writer.write(given)
    await store._writer.write(given[: size // 2 + 1])
    assert [row.request_id for row in reversed(await store.recent(EVERYTHING, 500))] == [
        r.request_id for r in given
    ]


@pytest.mark.parametrize("size", [3, 100])
async def test_a_refused_row_leaves_nothing_of_its_batch(store: Store, size: int) -> None:
    given = [make_record() for _ in range(size)]
    with pytest.raises(RowRefused):
        await store._writer.write([*given, make_record(method=None)])
    assert (await store.counts(EVERYTHING)).total == 0
    await store._writer.write(given)
    assert (await store.counts(EVERYTHING)).total == size


async def test_plain_and_keyed_verdicts_of_one_batch_are_both_kept(store: Store) -> None:
    given = [make_record() if n % 2 else _keyed(idempotency_key=f"key {n // 4}") for n in range(20)]
    done = await asyncio.gather(*(store.append(record) for record in given))
    assert sum(kept.duplicate_of is None for kept in done) == 15
    assert (await store.counts(EVERYTHING)).total == 15
