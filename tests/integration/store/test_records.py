from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from support.store import make_record

from llmobs.domain.access import EVERYTHING
from llmobs.domain.record import Record
from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind
from llmobs.store import records
from llmobs.store.database import Database, to_json
from llmobs.store.records import LogFilter, LoggedRecord, id_of
from llmobs.store.store import EXPORT_ROWS, Store
from llmobs.store.tables import detection_logs, system_metrics

NOW = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)


async def _insert(database: Database, *rows: Record) -> None:
    async with database.transaction() as connection:
        await records.insert_records(connection, rows)


def _as_record(row: LoggedRecord) -> dict[str, Any]:
    fields = msgspec.structs.asdict(row)
    del fields["id"]
    return fields


async def test_every_field_comes_back_as_it_went_in(database: Database, store: Store) -> None:
    given = make_record(
        created_at=NOW,
        llm_response="naïve 🦆 \u202e \x01 \uffff",
        context={"deep": [{"a": [1, 2.5, None, True, 'é\n"\\u0000']}], "": {}, "big": 2**70, "small": 1e-300},
        action=Action.BLOCK,
        kind=Kind.PROMPT,
        blocked=True,
        tier_used=3,
    )
    await _insert(database, given)
    [row] = await store.recent(EVERYTHING, 10)
    assert _as_record(row) == msgspec.structs.asdict(given)
    assert row.created_at.utcoffset() == timedelta(0)


async def test_what_may_be_absent_comes_back_absent(database: Database, store: Store) -> None:
    given = make_record(
        context=None, failure_class=None, severity=None, client_id=None, scores={}, evidence=(), coverage=()
    )
    await _insert(database, given)
    [row] = await store.recent(EVERYTHING, 10)
    assert _as_record(row) == msgspec.structs.asdict(given)


async def test_a_time_of_another_zone_is_the_same_moment(database: Database, store: Store) -> None:
    await _insert(database, make_record(created_at=NOW.astimezone(timezone(timedelta(hours=5)))))
    [row] = await store.recent(EVERYTHING, 1)
    assert row.created_at == NOW


async def test_nul_is_kept_as_its_symbol_everywhere(database: Database, store: Store) -> None:
    context = {"k\0": ["a\0\0b", {"x": "\\\0"}], "plain": "\\u0000 stays"}
    await _insert(database, make_record(llm_response="a\0b", context=context))
    [row] = await store.recent(EVERYTHING, 1)
    assert row.llm_response == "a␀b"
    assert row.context == {"k␀": ["a␀␀b", {"x": "\\␀"}], "plain": "\\u0000 stays"}


def test_deep_json_with_nul_is_no_problem() -> None:
    deep: Any = "\0"
    for _ in range(900):
        deep = [deep]
    assert to_json(deep) == "[" * 900 + '"\\u2400"' + "]" * 900


async def test_the_same_request_is_written_once(database: Database, store: Store) -> None:
    first = make_record(llm_response="first")
    await _insert(database, first)
    await _insert(database, make_record(request_id=first.request_id, llm_response="second"), make_record())
    assert [
        r.llm_response for r in await store.recent(EVERYTHING, 10) if r.request_id == first.request_id
    ] == ["first"]
    assert (await store.counts(EVERYTHING)).total == 2


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        (LogFilter(), [0, 1, 2, 3]),
        (LogFilter(action=Action.BLOCK), [0]),
        (LogFilter(failure_class="bias"), [1]),
        (LogFilter(tier_used=2), [2]),
        (LogFilter(tier_used=10**30), []),
        (LogFilter(blocked=True), [0]),
        (LogFilter(blocked=False, kind=Kind.PROMPT), [3]),
        (LogFilter(since=NOW + timedelta(seconds=2)), [2, 3]),
        (LogFilter(until=NOW + timedelta(seconds=2)), [0, 1]),
        (LogFilter(since=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))), [0, 1, 2, 3]),
        (LogFilter(until=datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=5)))), [0, 1, 2, 3]),
        (LogFilter(request_id="00000000-0000-7000-8000-000000000003"), [3]),
        (LogFilter(request_id="nul\0"), []),
        (LogFilter(failure_class="x" * 5000), []),
    ],
)
async def test_filters_give_what_matches_newest_first(
    database: Database, store: Store, wanted: LogFilter, matching: list[int]
) -> None:
    changes: list[dict[str, Any]] = [
        {"action": Action.BLOCK, "blocked": True},
        {"failure_class": "bias"},
        {"tier_used": 2},
        {"kind": Kind.PROMPT},
    ]
    for n, change in enumerate(changes):
        await _insert(
            database,
            make_record(
                request_id=f"00000000-0000-7000-8000-00000000000{n}",
                created_at=NOW + timedelta(seconds=n),
                **change,
            ),
        )
    rows, cursor = await store.page(EVERYTHING, wanted, None, 10)
    assert [int(row.request_id[-1]) for row in rows] == matching[::-1]
    assert cursor is None


async def test_pages_hold_every_row_once_while_rows_are_added(database: Database, store: Store) -> None:
    old = [make_record() for _ in range(23)]
    await _insert(database, *old)
    seen: list[str] = []
    cursor = None
    while True:
        rows, cursor = await store.page(EVERYTHING, LogFilter(), None if cursor is None else id_of(cursor), 5)
        seen += [row.request_id for row in rows]
        await _insert(database, make_record())
        if cursor is None:
            break
    assert seen == [record.request_id for record in reversed(old)]


@pytest.mark.parametrize("cursor", ["", "@@@", "aWQ6", "aWQ6LTE", "aWQ6eHg", "é", "A" * 400, "aWQ6MQ==x"])
def test_a_cursor_that_we_never_gave_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError):
        id_of(cursor)


async def test_an_export_gives_every_row_in_chunks(database: Database, store: Store) -> None:
    given = [make_record() for _ in range(EXPORT_ROWS + 7)]
    await _insert(database, *given)
    chunks = [chunk async for chunk in store.export(EVERYTHING, LogFilter())]
    assert [len(chunk) for chunk in chunks] == [EXPORT_ROWS, 7]
    assert [row.request_id for chunk in chunks for row in chunk] == [r.request_id for r in reversed(given)]


async def test_counts_are_by_tier_and_a_snapshot_keeps_them(database: Database, store: Store) -> None:
    await _insert(database, *(make_record(tier_used=tier) for tier in (1, 1, 1, 2)))
    counts = await store.counts(EVERYTHING)
    assert (counts.total, counts.tier1, counts.tier2, counts.tier3) == (4, 3, 1, 0)
    await store.snapshot(counts, is_healthy=False, message="odd")
    async with database.transaction() as connection:
        [row] = (await connection.execute(select(system_metrics))).all()
    assert (row.total_detections, row.tier1_count, row.tier2_count, row.tier3_count) == (4, 3, 1, 0)
    assert (row.tier1_pct, row.tier2_pct, row.tier3_pct) == (75.0, 25.0, 0.0)
    assert (row.is_healthy, row.health_message) == (False, "odd")
    assert datetime.now(UTC) - row.recorded_at < timedelta(minutes=1)


async def test_an_empty_log_counts_nothing(store: Store) -> None:
    counts = await store.counts(EVERYTHING)
    await store.snapshot(counts, is_healthy=True, message="")
    assert counts.total == 0


async def test_an_id_is_never_given_twice(database: Database, store: Store) -> None:
    await _insert(database, make_record(created_at=NOW))
    [gone] = await store.recent(EVERYTHING, 1)
    async with database.transaction() as connection:
        await connection.execute(detection_logs.delete())
    await _insert(database, make_record())
    [row] = await store.recent(EVERYTHING, 1)
    assert row.id > gone.id
