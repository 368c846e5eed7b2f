"""What came through in a span of time: counts and latencies, read from `detection_logs` by slices.

A slice that is over does not change, so each is read once and remembered; only the newest ones are
read again. A view of a month therefore costs what happened since the last look.
"""

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Integer, cast, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from llmobs.domain.access import View
from llmobs.store.tables import detection_logs
from llmobs.store.tenancy import visible

SLICES = 60
"""How many slices a span of time is cut into."""
MOST_REMEMBERED = 20_000
SETTLED = timedelta(minutes=2)
"""A spooled verdict may come late; a slice is remembered only when it has been over for so long."""
LIMITS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)
"""Upper edges of the latency classes; what is above belongs to a last one."""

Key = tuple[str, str | None, int, int]
"""Action, failure class, tier, latency class."""
Groups = dict[Key, int]


class Slice(msgspec.Struct, frozen=True):
    """Counts of verdicts made in a part of the time."""

    begins: datetime
    groups: Groups


class Summaries:
    """Reads and remembers slices. One per process."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[frozenset[str] | None, float, datetime], Groups] = OrderedDict()

    async def read(
        self, connection: AsyncConnection, view: View, span: timedelta, now: datetime
    ) -> list[Slice]:
        """The slices of the last `span`, oldest first; the newest one is not over yet."""
        width = span / SLICES
        step = width.total_seconds()
        last = datetime.fromtimestamp((now.timestamp() // step) * step, UTC)
        begins = [last - width * n for n in reversed(range(SLICES))]
        found = {begin: self._known.get((view.clients, step, begin)) for begin in begins}
        missing = [begin for begin, groups in found.items() if groups is None]
        if missing:
            # What is missing is nearly always the newest few; a gap further back is read with them.
            fresh = await _groups(connection, view, missing[0], width, last + width)
            for begin in missing:
                groups = fresh.get(round((begin - missing[0]) / width), {})
                found[begin] = groups
                if begin + width + SETTLED < now:
                    self._known[view.clients, step, begin] = groups
            while len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return [Slice(begin, groups or {}) for begin, groups in found.items()]


async def _groups(
    connection: AsyncConnection, view: View, since: datetime, width: timedelta, until: datetime
) -> dict[int, Groups]:
    """Counts by number of the slice from `since` on."""
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
    query = visible(
        select(number, columns.action, columns.failure_class, columns.tier_used, latency, func.count())
        .where(columns.created_at >= since, columns.created_at < until)
        .group_by(number, columns.action, columns.failure_class, columns.tier_used, latency),
        detection_logs,
        view,
    )
    found: dict[int, Groups] = {}
    for at, action, failure_class, tier, slow, count in await connection.execute(query):
        groups = found.setdefault(int(at), {})
        key = (action, failure_class, tier, int(slow))
        groups[key] = groups.get(key, 0) + count
    return found


def quantile_ms(classes: dict[int, int], share: float) -> float | None:
    """The latency that `share` of the verdicts did not exceed, from counts by latency class; None of none.

    Within a class the values are taken as spread evenly, so the answer is true to the class's width.
    """
    total = sum(classes.values())
    if not total:
        return None
    wanted = share * total
    before = 0
    for index in sorted(classes):
        count = classes[index]
        if before + count >= wanted:
            low = 0.0 if index == 0 else LIMITS_MS[index - 1]
            high = LIMITS_MS[min(index, len(LIMITS_MS) - 1)]
            return low + (high - low) * (wanted - before) / count
        before += count
    return None
