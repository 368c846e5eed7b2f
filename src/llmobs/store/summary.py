"""What came through in a span of time: counts and latencies by slices.

A slice that is over hardly changes, so it is remembered for a while; only the newest ones are read again. Slices of
long spans are read from what `rollup` keeps, short ones from `detection_logs` itself.
"""

from collections import OrderedDict
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from llmobs.domain.access import View
from llmobs.store.rollup import BUCKET, LIMITS_MS, SETTLED, counted, grouped

SLICES = 60
"""How many slices a span of time is cut into."""
MOST_REMEMBERED = 20_000
REMEMBERED = timedelta(minutes=10)
"""How long a slice that is over is not read again: so late a look sees what came late or was erased."""

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
        self._known: OrderedDict[tuple[frozenset[str] | None, float, datetime], tuple[datetime, Groups]] = (
            OrderedDict()
        )

    async def read(
        self, connection: AsyncConnection, view: View, span: timedelta, now: datetime
    ) -> list[Slice]:
        """The slices of the last `span`, oldest first; the newest one is not over yet."""
        width = span / SLICES
        step = width.total_seconds()
        last = datetime.fromtimestamp((now.timestamp() // step) * step, UTC)
        begins = [last - width * n for n in reversed(range(SLICES))]
        found = {begin: self._recalled((view.clients, step, begin), now) for begin in begins}
        missing = [begin for begin, groups in found.items() if groups is None]
        if missing:
            # What is missing is nearly always the newest few; a gap further back is read with them.
            fresh = await _groups(connection, view, missing[0], width, last + width)
            for begin in missing:
                groups = fresh.get(round((begin - missing[0]) / width), {})
                found[begin] = groups
                if begin + width + SETTLED < now:
                    self._known[view.clients, step, begin] = (now, groups)
            while len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return [Slice(begin, groups or {}) for begin, groups in found.items()]

    def _recalled(self, key: tuple[frozenset[str] | None, float, datetime], now: datetime) -> Groups | None:
        at, groups = self._known.get(key, (None, None))
        return None if at is None or now - at >= REMEMBERED else groups


async def _groups(
    connection: AsyncConnection, view: View, since: datetime, width: timedelta, until: datetime
) -> dict[int, Groups]:
    """Counts by number of the slice from `since` on."""
    read = counted if width % BUCKET == timedelta() else grouped
    found: dict[int, Groups] = {}
    rows = await read(connection, view, since, width, until)
    for (at, _, action, failure_class, tier, slow), verdicts in rows.items():
        groups = found.setdefault(at, {})
        key = (action, failure_class, tier, slow)
        groups[key] = groups.get(key, 0) + verdicts
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
