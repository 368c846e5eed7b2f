"""Counts of verdicts by a fraction of an hour, kept beside the log, so that a month costs no walk through it.

A bucket that is over is counted once, by whichever process comes first, and marked as counted. What changes a
counted bucket (a verdict that comes late out of a spool, one that is erased or too old) takes its mark away in the
same transaction, and it is counted again; what bears no mark is read from the log. So the figures are those of the
log at any time, and the tables here can be emptied without loss.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Integer, cast, delete, func, insert, literal, null, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmobs.domain.access import EVERYTHING, View
from llmobs.store.tables import detection_logs, rolled_buckets, traffic_buckets
from llmobs.store.tenancy import visible

BUCKET = timedelta(minutes=24)
"""Divides the slices of a day, a week and a month evenly."""
SETTLED = timedelta(minutes=2)
"""How long a bucket must have been over: nothing that was under way then is written later than this."""
KEPT = timedelta(days=31)
"""How far back buckets are counted."""
LIMITS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)
"""Upper edges of the latency classes; what is above belongs to a last one."""
MOST_RUNS = 8
"""Stretches of the log that are read by themselves; more are read in one go, with what lies between."""

Row = tuple[int, str | None, str, str | None, int, int]
"""Number of the part of time, client, action, failure class, tier, latency class."""
_LOCK = 727_003
"""Key of the PostgreSQL advisory lock under which buckets are counted and marks taken away."""


def bucket_of(when: datetime) -> int:
    """The number of the bucket, counted from 1970 on."""
    return int(when.timestamp() // BUCKET.total_seconds())


def begin_of(bucket: int) -> datetime:
    """When it begins; it ends where the next begins."""
    return datetime.fromtimestamp(bucket * BUCKET.total_seconds(), UTC)


async def uncounted(connection: AsyncConnection, first: int, last: int) -> list[int]:
    """The buckets from `first` to `last` that bear no mark, in order."""
    mark = rolled_buckets.c.bucket
    rows = await connection.execute(select(mark).where(mark >= first, mark <= last))
    known = {row[0] for row in rows}
    return [bucket for bucket in range(first, last + 1) if bucket not in known]


async def count(connection: AsyncConnection, first: int, last: int) -> None:
    """Count the unmarked buckets from `first` to `last` in the caller's transaction, and mark them."""
    await _alone(connection)
    wanted = await uncounted(connection, first, last)
    if not wanted:
        return
    unmarked = set(wanted)
    found = await grouped(
        connection, EVERYTHING, begin_of(wanted[0]), BUCKET, begin_of(wanted[-1] + 1), by_client=True
    )
    rows = [
        {
            "bucket": wanted[0] + at,
            "client_id": client or "",
            "action": action,
            "failure_class": failure_class or "",
            "tier_used": tier,
            "latency": latency,
            "verdicts": verdicts,
        }
        for (at, client, action, failure_class, tier, latency), verdicts in found.items()
        if wanted[0] + at in unmarked
    ]
    if rows:
        await connection.execute(insert(traffic_buckets), rows)
    await connection.execute(insert(rolled_buckets), [{"bucket": bucket} for bucket in wanted])


async def oldest(connection: AsyncConnection) -> int | None:
    """The bucket of the oldest verdict in the log; None where there is none."""
    found = await connection.scalar(select(func.min(detection_logs.c.created_at)))
    return None if found is None else bucket_of(found)


async def mark_empty(connection: AsyncConnection, first: int, last: int) -> None:
    """Mark the buckets from `first` to `last` in the caller's transaction, unless a verdict has come into them."""
    await _alone(connection)
    created = detection_logs.c.created_at
    within = select(1).where(created >= begin_of(first), created < begin_of(last + 1)).limit(1)
    if await connection.scalar(within) is None:
        marks = [{"bucket": bucket} for bucket in await uncounted(connection, first, last)]
        if marks:
            await connection.execute(insert(rolled_buckets), marks)


async def grouped(
    connection: AsyncConnection,
    view: View,
    since: datetime,
    width: timedelta,
    until: datetime,
    *,
    by_client: bool = False,
) -> dict[Row, int]:
    """Counts read from the log, by number of the part of time, each `width` long, from `since` on.

    The client is None unless they are told apart.
    """
    columns = detection_logs.c
    step = width.total_seconds()
    seconds: ColumnElement[Any]
    number: ColumnElement[int]
    latency: ColumnElement[int]
    if connection.dialect.name == "postgresql":
        seconds = func.extract("epoch", columns.created_at)
        number = func.floor((seconds - since.timestamp()) / step)
        latency = func.width_bucket(columns.processing_time_ms, list(LIMITS_MS))
    else:
        # Days since noon of 4714 BC, which SQLite counts in; 2440587.5 is the start of 1970.
        seconds = (func.julianday(columns.created_at) - 2440587.5) * 86400.0
        number = func.floor((seconds - since.timestamp()) / step + 1e-6)
        latency = literal(0)
        for edge in LIMITS_MS:
            latency = latency + cast(columns.processing_time_ms >= edge, Integer)
    client: ColumnElement[Any] = columns.client_id if by_client else null()
    by = (number, columns.action, columns.failure_class, columns.tier_used, latency)
    query = visible(
        select(*by, func.count(), client)
        .where(columns.created_at >= since, columns.created_at < until)
        .group_by(*by, *([client] if by_client else [])),
        detection_logs,
        view,
    )
    found: dict[Row, int] = {}
    for at, action, failure_class, tier, slow, verdicts, whose in await connection.execute(query):
        key = (int(at), whose, action, failure_class, tier, int(slow))
        found[key] = found.get(key, 0) + verdicts
    return found


async def counted(
    connection: AsyncConnection, view: View, since: datetime, width: timedelta, until: datetime
) -> dict[Row, int]:
    """The same from what is counted, and from the log for the buckets that bear no mark.

    `width` is a multiple of BUCKET, and `since` begins a bucket.
    """
    first, last = bucket_of(since), bucket_of(until - timedelta(seconds=1))
    each = round(width / BUCKET)
    missing = await uncounted(connection, first, last)
    kept = traffic_buckets.c
    number = (kept.bucket - first) // each
    by = (number, kept.action, kept.failure_class, kept.tier_used, kept.latency)
    query = (
        select(*by, func.sum(kept.verdicts)).where(kept.bucket >= first, kept.bucket <= last).group_by(*by)
    )
    if missing:  # one that was counted just now is read from the log all the same, and not twice
        query = query.where(kept.bucket.not_in(missing))
    found: dict[Row, int] = {}
    for at, action, failure_class, tier, slow, verdicts in await connection.execute(
        visible(query, traffic_buckets, view)
    ):
        found[at, None, action, failure_class or None, tier, slow] = int(verdicts)
    unmarked = set(missing)
    for begin, end in _runs(missing):
        fresh = await grouped(connection, view, begin_of(begin), BUCKET, begin_of(end + 1))
        for (at, _, action, failure_class, tier, slow), verdicts in fresh.items():
            if begin + at in unmarked:
                key = ((begin + at - first) // each, None, action, failure_class, tier, slow)
                found[key] = found.get(key, 0) + verdicts
    return found


async def verdicts_since(connection: AsyncConnection, first: int, last: int) -> int:
    """How many verdicts the log holds from the bucket `first` on; `last` is one that is not over.

    As far as there is no gap in what is counted they come from there, the rest from the log.
    """
    fresh = (await uncounted(connection, first, last) or [last])[0]
    kept, logs = traffic_buckets.c, detection_logs.c
    older = select(func.sum(kept.verdicts)).where(kept.bucket >= first, kept.bucket < fresh)
    newer = select(func.count()).where(logs.created_at >= begin_of(fresh))
    return int(await connection.scalar(older) or 0) + int(await connection.scalar(newer) or 0)


async def verdicts_before(connection: AsyncConnection, first: int) -> int:
    """How many it holds of the time before that bucket, by the index on the time."""
    query = select(func.count()).where(detection_logs.c.created_at < begin_of(first))
    return int(await connection.scalar(query) or 0)


def _runs(buckets: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last of each stretch without a gap; one stretch over all where there are too many."""
    found: list[tuple[int, int]] = []
    for bucket in buckets:
        if found and found[-1][1] == bucket - 1:
            found[-1] = (found[-1][0], bucket)
        else:
            found.append((bucket, bucket))
    return found if len(found) <= MOST_RUNS else [(found[0][0], found[-1][1])]


async def forget(connection: AsyncConnection, times: Iterable[datetime]) -> None:
    """Take the marks of the buckets in which those times lie, for what they count has changed."""
    buckets = sorted({bucket_of(when) for when in times})
    if buckets:
        await _alone(connection)
        for table in (rolled_buckets, traffic_buckets):
            await connection.execute(delete(table).where(table.c.bucket.in_(buckets)))


async def prune(connection: AsyncConnection, before: int) -> None:
    """Drop what was counted of buckets before that one."""
    await _alone(connection)
    for table in (rolled_buckets, traffic_buckets):
        await connection.execute(delete(table).where(table.c.bucket < before))


async def times_of(connection: AsyncConnection, ids: Sequence[int]) -> list[datetime]:
    """When the verdicts of those ids were made."""
    logs = detection_logs.c
    return [row[0] for row in await connection.execute(select(logs.created_at).where(logs.id.in_(ids)))]


async def _alone(connection: AsyncConnection) -> None:
    """Without this, one who counts and one who changes what is counted would not see each other."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    else:  # a statement that writes takes SQLite's one write lock
        await connection.execute(delete(rolled_buckets).where(literal(0) == 1))
