"""What is counted beside the log says what the log says, whatever comes late, is erased or counted twice at once."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update
from support.store import make_record

from llmobs.domain.access import EVERYTHING, View
from llmobs.domain.risk import Action
from llmobs.store import rollup
from llmobs.store.erasure import Erasure
from llmobs.store.records import LogFilter
from llmobs.store.store import Store
from llmobs.store.summary import Summaries
from llmobs.store.tables import detection_logs, rolled_buckets, traffic_buckets

SPANS = [timedelta(days=1), timedelta(days=7), timedelta(days=30)]


def records(count: int, now: datetime, seed: int = 1) -> list[Any]:
    made = random.Random(seed)
    return [
        make_record(
            created_at=now - timedelta(days=29) * made.random(),
            action=made.choice(list(Action)),
            failure_class=made.choice([None, "bias", "toxicity"]),
            tier_used=made.choice([1, 2, 3]),
            processing_time_ms=made.choice([0.05, 0.3, 7.0, 40_000.0]),
            client_id=made.choice([None, "ours", "theirs"]),
        )
        for _ in range(count)
    ]


async def figures(store: Store, span: timedelta, now: datetime, view: View = EVERYTHING) -> list[Any]:
    """As a process that remembers nothing sees them."""
    async with store.database.transaction() as connection:
        return [(one.begins, one.groups) for one in await Summaries().read(connection, view, span, now)]


async def plain(store: Store, span: timedelta, now: datetime, view: View = EVERYTHING) -> list[Any]:
    """The same with nothing counted beforehand."""
    async with store.database.transaction() as connection:
        await connection.execute(delete(rolled_buckets))
        await connection.execute(delete(traffic_buckets))
    return await figures(store, span, now, view)


async def rows_of(store: Store, table: Any) -> int:
    async with store.database.transaction() as connection:
        return int(await connection.scalar(select(func.count()).select_from(table)) or 0)


async def test_what_lies_before_the_first_verdict_is_marked_in_a_few_transactions(store: Store) -> None:
    now = datetime.now(UTC)
    asked: list[tuple[int, int]] = []
    roll_some = store._roll_some

    async def noted(buckets: Any) -> None:
        asked.append((buckets[0], buckets[-1]))
        await roll_some(buckets)

    store._roll_some = noted  # type: ignore[method-assign]
    assert await store.roll(now - timedelta(days=1)) > 1700
    assert asked == []  # there is no verdict at all
    first = make_record(created_at=now - timedelta(hours=5))
    await store._write([first])
    rolled = await store.roll(now)
    assert rolled > 50
    assert min(low for low, _ in asked) == rollup.bucket_of(first.created_at)
    assert await figures(store, SPANS[1], now) == await plain(store, SPANS[1], now)


async def test_a_verdict_that_came_meanwhile_keeps_its_time_from_being_marked_empty(store: Store) -> None:
    now = datetime.now(UTC)
    await store._write([make_record(created_at=now - timedelta(days=2))])
    bucket = rollup.bucket_of(now - timedelta(days=2))
    await store._mark_empty(bucket - 5, bucket + 5)
    assert await rows_of(store, rolled_buckets) == 0
    await store._mark_empty(bucket - 5, bucket - 1)
    assert await rows_of(store, rolled_buckets) == 5


async def test_counted_and_plain_figures_are_the_same(store: Store) -> None:
    now = datetime.now(UTC)
    await store._write(records(400, now))
    assert await store.roll(now) > 1800
    assert await store.roll(now) == 0
    views = (EVERYTHING, View(frozenset({"ours"})), View(frozenset()))
    seen = {(span, view): await figures(store, span, now, view) for span in SPANS for view in views}
    assert sum(sum(groups.values()) for _, groups in seen[SPANS[2], EVERYTHING]) == 400
    for (span, view), found in seen.items():
        assert found == await plain(store, span, now, view)


async def test_what_comes_late_is_counted_again(store: Store) -> None:
    now = datetime.now(UTC)
    await store._write(records(50, now))
    await store.roll(now)
    await store._write(records(30, now, seed=2))  # as the drain of a spool does
    before = await figures(store, SPANS[2], now)
    assert sum(sum(groups.values()) for _, groups in before) == 80
    assert await store.roll(now) > 0
    after = await figures(store, SPANS[2], now)
    assert after == before == await plain(store, SPANS[2], now)


async def test_what_is_erased_is_not_counted_any_more(store: Store) -> None:
    now = datetime.now(UTC)
    made = records(40, now)
    await store._write(made)
    await store.roll(now)
    for one in made[:10]:
        assert await Erasure(store.database).of_request(EVERYTHING, one.request_id, by="test") is not None
    found = await figures(store, SPANS[2], now)
    assert sum(sum(groups.values()) for _, groups in found) == 30
    await store.roll(now)
    assert await figures(store, SPANS[2], now) == found == await plain(store, SPANS[2], now)


async def test_many_who_count_and_change_at_once_leave_the_truth(store: Store) -> None:
    now = datetime.now(UTC)
    await store._write(records(60, now))
    await asyncio.gather(
        store.roll(now),
        store.roll(now),
        *(store._write(records(5, now, seed=seed)) for seed in range(3, 9)),
        store.roll(now),
    )
    await store.roll(now)
    found = await figures(store, SPANS[2], now)
    assert sum(sum(groups.values()) for _, groups in found) == 90
    assert found == await plain(store, SPANS[2], now)


async def test_what_is_not_over_is_not_counted_and_what_is_old_is_dropped(store: Store) -> None:
    now = datetime.now(UTC)
    await store._write(records(20, now))
    await store.roll(now)
    async with store.database.transaction() as connection:
        newest = await connection.scalar(select(func.max(rolled_buckets.c.bucket)))
    assert rollup.begin_of(newest + 1) <= now - rollup.SETTLED
    later = now + timedelta(days=40)
    await store.roll(later)
    assert await rows_of(store, traffic_buckets) == 0
    async with store.database.transaction() as connection:
        oldest = await connection.scalar(select(func.min(rolled_buckets.c.bucket)))
    assert rollup.begin_of(oldest) > now


@pytest.mark.parametrize("most_late", [1000, 0])
async def test_pages_before_a_time_are_whole_though_some_came_late(
    store: Store, most_late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmobs.store.records.MOST_LATE", most_late)
    now = datetime.now(UTC)
    begins = now - timedelta(hours=10)
    made = [make_record(created_at=begins + timedelta(minutes=n)) for n in range(600)]
    late = [make_record(created_at=begins + timedelta(minutes=n * 7, seconds=3)) for n in range(40)]
    await store._write([*made[:400]])
    await store._write(late)
    await store._write(made[400:])
    for until in (begins - timedelta(hours=1), begins + timedelta(minutes=90), now + timedelta(hours=1)):
        wanted = Counter(one.request_id for one in [*made, *late] if one.created_at < until)
        found: Counter[str] = Counter()
        ids: list[int] = []
        before = None
        while True:
            rows, cursor = await store.page(EVERYTHING, LogFilter(until=until), before, 17)
            found.update(row.request_id for row in rows)
            ids += [row.id for row in rows]
            if cursor is None:
                break
            before = int(cursor)
        assert found == wanted
        assert ids == sorted(ids, reverse=True)
    assert await rows_of(store, detection_logs) == 640


async def test_the_rows_kept_are_known_without_a_walk_through_the_log(store: Store) -> None:
    now = datetime.now(UTC)
    old = [make_record(created_at=now - timedelta(days=days)) for days in (32, 50, 80)]
    made = records(60, now)
    await store._write([*old, *made])
    assert store.kept is None
    await store.count_kept(now)  # nothing is counted beside the log yet
    assert store.kept == 63
    await store.roll(now)
    await store.count_kept(now)
    assert store.kept == 63
    await store._write(records(7, now, seed=2))  # as the drain of a spool does
    await store.count_kept(now)
    assert store.kept == 70
    for one in made[:10]:
        await Erasure(store.database).of_request(EVERYTHING, one.request_id, by="test")
    await store.count_kept(now)
    assert store.kept == 60
    await store.roll(now)
    async with store.database.transaction() as connection:  # which shows where it is read from
        await connection.execute(update(traffic_buckets).values(verdicts=traffic_buckets.c.verdicts + 1))
    lines = await rows_of(store, traffic_buckets)
    await store.count_kept(now)
    assert store.kept == 60 + lines


async def test_old_rows_that_are_deleted_are_not_kept_for_long(store: Store) -> None:
    now = datetime.now(UTC)
    old = make_record(created_at=now - timedelta(days=50))
    await store._write([old, make_record(created_at=now)])
    await store.count_kept(now)
    await Erasure(store.database).of_request(EVERYTHING, old.request_id, by="test")
    for hours, kept in ((0.5, 2), (2, 1)):
        then = now + timedelta(hours=hours)
        await store.roll(then)
        await store.count_kept(then)
        assert store.kept == kept
