"""How long rows are kept, by kind and class, and their deletion some at a time, so that requests go on meanwhile."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table, and_, delete, or_, select

from llmobs.errors import SettingsInvalid
from llmobs.settings import Settings
from llmobs.store.database import Database, retried
from llmobs.store.erasure import Count, delete_verdicts
from llmobs.store.tables import detection_logs, erased_subjects, feedback

ROWS = 500
"""Rows that one transaction deletes."""
LEAST_PAUSE = 0.02
"""Seconds between two transactions; after a slow one as long as it took, so that others get their half."""
NO_CLASS = "none"
"""Stands for verdicts in which no class was found."""
_PERIOD = re.compile(r"([a-z][a-z0-9_]{0,63})=([0-9]{1,5})")


class Periods(msgspec.Struct, frozen=True, kw_only=True):
    """Days that rows are kept; 0: for ever."""

    verdicts: int
    by_class: Mapping[str, int]
    """Of verdicts with this class, in place of `verdicts`; NO_CLASS for those without."""
    feedback: int

    @property
    def longest(self) -> int:
        """Days after which nothing that a person was erased from can be left; 0: there may always be."""
        days = (self.verdicts, self.feedback, *self.by_class.values())
        return 0 if 0 in days else max(days)

    @property
    def all_for_ever(self) -> bool:
        """Whether nothing is ever deleted."""
        return not any((self.verdicts, self.feedback, *self.by_class.values()))


def periods_from(settings: Settings) -> Periods:
    """SettingsInvalid names what is no period."""
    by_class: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in settings.retention_classes.split(","))):
        match = _PERIOD.fullmatch(part)
        if match is None or match[1] in by_class:
            raise SettingsInvalid(
                f"LLMOBS_RETENTION_CLASSES: {part!r} is not of the form class=days, or the class stands there twice"
            )
        by_class[match[1]] = int(match[2])
    return Periods(
        verdicts=settings.retention_days, by_class=by_class, feedback=settings.retention_feedback_days
    )


class Retention:
    """Deletes what is older than it may be. Any number of processes may do so at a time. Raises StoreUnavailable."""

    def __init__(self, database: Database, periods: Periods, count: Count = lambda *_: None) -> None:
        self._database = database
        self._periods = periods
        self._count = count

    async def sweep(self, now: datetime | None = None) -> dict[str, int]:
        """Delete what is too old. How many rows of each kind.

        No statement takes a lock on a table that others would notice: rows are picked by an index, those that
        another process is at are passed over, and each transaction is short.
        """
        now = now or datetime.now(UTC)
        gone: Counter[str] = Counter()
        for too_old in self._verdicts_too_old(now):
            await self._repeat(partial(self._some_verdicts, too_old), gone)
        for table, days, at in (
            (feedback, self._periods.feedback, feedback.c.created_at),
            (erased_subjects, self._periods.longest, erased_subjects.c.erased_at),
        ):
            if days:
                before = now - timedelta(days=days)
                await self._repeat(partial(self._some, table, at < before, at), gone)
        return {kind: rows for kind, rows in gone.items() if rows}

    def _verdicts_too_old(self, now: datetime) -> list[ColumnElement[bool]]:
        logs, periods = detection_logs.c, self._periods

        def of(name: str) -> ColumnElement[bool]:
            return logs.failure_class.is_(None) if name == NO_CLASS else logs.failure_class == name

        found = [
            and_(of(name), logs.created_at < now - timedelta(days=days))
            for name, days in sorted(periods.by_class.items())
            if days
        ]
        if periods.verdicts:
            # NULL is in no list, so verdicts without a class are named by themselves.
            named = [name for name in periods.by_class if name != NO_CLASS]
            rest = or_(logs.failure_class.is_(None), logs.failure_class.not_in(named))
            if NO_CLASS in periods.by_class:
                rest = and_(logs.failure_class.is_not(None), logs.failure_class.not_in(named))
            found.append(and_(rest, logs.created_at < now - timedelta(days=periods.verdicts)))
        return found

    async def _repeat(self, some: Callable[[], Awaitable[dict[str, int]]], gone: Counter[str]) -> None:
        while True:
            started = perf_counter()
            deleted = await some()
            gone.update(deleted)
            for table, rows in deleted.items():
                if rows:
                    self._count("rows_deleted", (table, "retention"), rows)
            if max(deleted.values()) < ROWS:
                return
            await asyncio.sleep(max(LEAST_PAUSE, perf_counter() - started))

    @retried
    async def _some_verdicts(self, too_old: ColumnElement[bool]) -> dict[str, int]:
        """Opinions stay: they have a period of their own."""
        logs = detection_logs.c
        query = select(logs.id, logs.request_id).where(too_old).order_by(logs.created_at).limit(ROWS)
        async with self._database.transaction() as connection:
            if connection.dialect.name == "postgresql":
                query = query.with_for_update(skip_locked=True)
            found: Sequence[Any] = (await connection.execute(query)).all()
            gone = await delete_verdicts(
                connection, [row.id for row in found], [row.request_id for row in found], opinions=False
            )
        return {kind: gone[kind] for kind in ("verdicts", "idempotency_keys")}

    @retried
    async def _some(
        self, table: Table, too_old: ColumnElement[bool], order: ColumnElement[Any]
    ) -> dict[str, int]:
        query = select(table.c.id).where(too_old).order_by(order).limit(ROWS)
        async with self._database.transaction() as connection:
            if connection.dialect.name == "postgresql":
                query = query.with_for_update(skip_locked=True)
            ids = list((await connection.execute(query)).scalars())
            if ids:
                await connection.execute(delete(table).where(table.c.id.in_(ids)))
        return {table.name: len(ids)}
