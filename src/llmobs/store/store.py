"""The record as the rest of the service sees it: append, look up, count."""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, perf_counter
from typing import Self

import msgspec

from llmobs.domain.access import Client, HeldKey, View
from llmobs.domain.record import Record
from llmobs.errors import RecordUnavailable, StoreUnavailable
from llmobs.settings import Settings, StoreOnFailure
from llmobs.store import clients, judgements, records, rollup
from llmobs.store.database import Database, retried
from llmobs.store.journal import Journal, Observer
from llmobs.store.records import DecidedRecord, LogFilter, LoggedRecord, RuleHits, TierCounts
from llmobs.store.revision import head, revision_of, serves
from llmobs.store.spool import Spool
from llmobs.store.summary import Slice, Summaries
from llmobs.store.writer import writer_for

EXPORT_ROWS = 500
SEARCH_SECONDS = 1.0
"""Time after which a search that has found nothing yet answers so, with a cursor to go on from."""
ROLL_SECONDS = 0.1
"""How long a transaction that counts may take before the next is made shorter."""
EMPTY_BUCKETS = 600
"""Buckets older than the first verdict that are marked in one transaction."""
DECIDED_ROWS = 250
"""Rows of a chunk whose scores and evidence are unpacked on the event loop: some milliseconds."""
AGED_BUCKETS = 4
"""How many buckets pass, 96 minutes in all, until the verdicts that no bucket holds any more are counted anew."""
HIT_ROWS = 10_000
"""Newest verdicts in which the hits of rules are counted."""
SEARCHED = 50_000
"""How many of the newest verdicts are looked through for those of one policy."""
SWEEP_ROWS = 5000


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an appended record."""

    recorded: bool
    duplicate_of: LoggedRecord | None = None
    """The verdict that had the idempotency key first; the appended one was not written."""


_KEPT = Kept(recorded=True)


class Store:
    """One per process: `async with store:` starts the journal and at the end flushes it."""

    def __init__(self, settings: Settings, observer: Observer) -> None:
        self._database = Database(settings)
        self._writer = writer_for(self._database)
        self._spool = Spool(Path(settings.spool_dir), settings.spool_max_bytes)
        self._journal = Journal(settings, self._write, self._spool, observer)
        self._head = head()
        self._was_at_head = False
        self._on_failure = settings.store_on_failure
        self._summaries = Summaries()
        self._aged: tuple[int, int] | None = None
        """A bucket, and how many verdicts are older than it."""
        self.kept: int | None = None
        """Verdicts that the log held when they were last counted; None before that."""

    async def __aenter__(self) -> Self:
        await self._journal.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._journal.close()
        await self._writer.close()
        await self._database.dispose()

    @property
    def database(self) -> Database:
        """The connections."""
        return self._database

    @property
    def pending(self) -> int:
        """Verdicts that wait for their commit."""
        return self._journal.pending

    @property
    def is_late(self) -> bool:
        """Whether verdicts wait for their commit longer than they may."""
        return self._journal.is_late

    @property
    def spooled_bytes(self) -> int:
        """Bytes of verdicts that the database has not taken."""
        return self._spool.size

    async def append(self, record: Record) -> Kept:
        """Keep a verdict; returns after the commit that holds it. Raises what Journal.append raises."""
        receipt = await self._journal.append(record)
        if receipt.taken_by is None:
            return _KEPT if receipt.recorded else Kept(recorded=False)
        first = await self.by_idempotency_key(record.client_id, record.idempotency_key or "")
        if first is None:
            raise RecordUnavailable(
                "The first verdict under this Idempotency-Key cannot be read now; try again."
            )
        return Kept(recorded=True, duplicate_of=first)

    async def _write(self, batch: Sequence[Record]) -> dict[str, str]:
        # What waited in a spool changes a stretch of time that may be counted already.
        settled = datetime.now(UTC) - rollup.SETTLED / 2
        late = [record.created_at for record in batch if record.created_at < settled]
        if not late and all(record.idempotency_key is None for record in batch):
            await self._writer.write(batch)
            return {}
        async with self._database.transaction() as connection:
            await rollup.forget(connection, late)
            return await records.insert_records(connection, batch)

    async def by_idempotency_key(self, client_id: str | None, key: str) -> LoggedRecord | None:
        """The verdict that the key got first. RecordUnavailable when nobody can tell now."""
        try:
            async with self._database.transaction() as connection:
                return await records.by_idempotency_key(connection, client_id, key)
        except StoreUnavailable:
            raise RecordUnavailable(
                "The database does not answer, so the Idempotency-Key cannot be honoured now."
            ) from None

    async def recent(self, view: View, limit: int) -> list[LoggedRecord]:
        """The newest verdicts, newest first."""
        async with self._database.transaction() as connection:
            return await records.recent(connection, view, limit)

    async def page(
        self, view: View, filters: LogFilter, before_id: int | None, limit: int
    ) -> tuple[list[LoggedRecord], str | None]:
        """Verdicts that match, newest first, and the cursor of the next page, None at the end.

        A search for a text may end early, even with nothing found, and go on at the cursor.
        """
        if filters.text is not None:
            found, reached = await self._searched(view, filters, before_id, limit + 1)
            if len(found) > limit:
                found = found[:limit]
                reached = found[-1].id
            return found, None if reached is None else records.cursor_of(reached)
        async with self._database.transaction() as connection:
            rows = await records.page(connection, view, filters, before_id, limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        return rows, records.cursor_of(rows[-1].id) if more else None

    async def export(
        self, view: View, filters: LogFilter, before_id: int | None = None
    ) -> AsyncIterator[list[LoggedRecord]]:
        """Every verdict that matches, newest first, in chunks, each read in a transaction of its own."""
        before = before_id
        while filters.text is not None:
            rows, before = await self._searched(view, filters, before, EXPORT_ROWS)
            if rows:
                yield rows
            if before is None:
                return
        while True:
            async with self._database.transaction() as connection:
                rows = await records.page(connection, view, filters, before, EXPORT_ROWS)
            if rows:
                yield rows
            if len(rows) < EXPORT_ROWS:
                return
            before = rows[-1].id

    async def _searched(
        self, view: View, filters: LogFilter, before_id: int | None, limit: int
    ) -> tuple[list[LoggedRecord], int | None]:
        """Look through windows of rows, each in a transaction of its own, until something is found or time is up."""
        until = monotonic() + SEARCH_SECONDS
        while True:
            async with self._database.transaction() as connection:
                rows, before_id = await records.search(connection, view, filters, before_id, limit)
            if rows or before_id is None or monotonic() >= until:
                return rows, before_id

    async def decided(self, view: View, policy_id: str, limit: int) -> AsyncIterator[list[DecidedRecord]]:
        """How the newest verdicts of a policy were decided, newest first, in chunks, each in a transaction of its own.

        Looked for among the newest SEARCHED rows, so that a policy that is seldom used costs no walk through all.
        """
        async with self._database.transaction() as connection:
            before = await records.newest_id(connection) + 1
        after = before - SEARCHED
        while limit > 0:
            async with self._database.transaction() as connection:
                rows = await records.decided(
                    connection, view, policy_id, (after, before), min(limit, DECIDED_ROWS)
                )
            if rows:
                yield rows
            if len(rows) < min(limit, DECIDED_ROWS):
                return
            limit -= len(rows)
            before = rows[-1].id

    async def rule_hits(self, view: View) -> tuple[int, list[RuleHits]]:
        """How many of the newest verdicts were looked through, and how often each rule gave evidence in them."""
        async with self._database.transaction() as connection:
            return await records.rule_hits(connection, view, HIT_ROWS)

    async def counts(self, view: View) -> TierCounts:
        """Verdicts by tier."""
        async with self._database.transaction() as connection:
            return await records.counts(connection, view)

    async def slices(self, view: View, span: timedelta, now: datetime) -> list[Slice]:
        """What came through in the last `span`, by slices, oldest first."""
        async with self._database.transaction() as connection:
            return await self._summaries.read(connection, view, span, now)

    async def roll(self, now: datetime) -> int:
        """Count what is over and not counted, the newest first, in short transactions. How many stretches of time."""
        last = rollup.bucket_of(now - rollup.SETTLED) - 1
        first = rollup.bucket_of(now - rollup.KEPT)
        async with self._database.transaction() as connection:
            waiting = await rollup.uncounted(connection, first, last)
            oldest = await rollup.oldest(connection) if waiting else None
        begun = len(waiting) if oldest is None else bisect_left(waiting, oldest)
        empty, waiting = waiting[:begun], waiting[begun:]
        done, size = 0, 1
        while done < len(waiting):
            some = waiting[max(0, len(waiting) - done - size) : len(waiting) - done]
            started = perf_counter()
            await self._roll_some(some)
            done += len(some)
            took = perf_counter() - started
            size = min(60, size * 2) if took < ROLL_SECONDS else max(1, size // 2)
            await asyncio.sleep(took)  # whoever answers requests comes first
        # A new database has a month of them before its first verdict; counted like the others they kept it busy for seconds.
        for at in range(0, len(empty), EMPTY_BUCKETS):
            some = empty[at : at + EMPTY_BUCKETS]
            await self._mark_empty(some[0], some[-1])
        if waiting or empty:
            await self._prune(first)
        return done + len(empty)

    async def count_kept(self, now: datetime) -> None:
        """Count the verdicts in the log into `kept`, by what `roll` has counted, so that it costs no walk through it.

        Those older than any bucket are counted at times: they change only as they are deleted, or grow old.
        """
        first = rollup.bucket_of(now - rollup.KEPT)
        async with self._database.transaction() as connection:
            if self._aged is None or self._aged[0] <= first:
                edge = first + AGED_BUCKETS
                self._aged = (edge, await rollup.verdicts_before(connection, edge))
            edge, older = self._aged
            self.kept = older + await rollup.verdicts_since(connection, edge, rollup.bucket_of(now))

    @retried
    async def _roll_some(self, buckets: Sequence[int]) -> None:
        async with self._database.transaction() as connection:
            await rollup.count(connection, buckets[0], buckets[-1])

    @retried
    async def _mark_empty(self, first: int, last: int) -> None:
        async with self._database.transaction() as connection:
            await rollup.mark_empty(connection, first, last)

    @retried
    async def _prune(self, before: int) -> None:
        async with self._database.transaction() as connection:
            await rollup.prune(connection, before)

    @retried
    async def snapshot(self, figures: TierCounts, *, is_healthy: bool, message: str) -> None:
        """Write the figures of this moment to `system_metrics`."""
        async with self._database.transaction() as connection:
            await records.insert_snapshot(
                connection, datetime.now(UTC), figures, is_healthy=is_healthy, message=message
            )

    async def judgement(self, keys: Sequence[str]) -> tuple[str, bytes, str | None] | None:
        """The first of the keys under which the judge's decision is kept and holds, with it and its person."""
        async with self._database.transaction() as connection:
            return await judgements.first_of(connection, keys, datetime.now(UTC))

    @retried
    async def keep_judgement(
        self, key: str, value: bytes, expires_at: datetime, person: str | None = None
    ) -> None:
        """Keep a decision of the judge, replacing an older one under the key."""
        async with self._database.transaction() as connection:
            await judgements.put(connection, key, value, expires_at, person)

    async def delete_expired_judgements(self) -> int:
        """Delete decisions that hold no more, in small transactions. How many."""
        deleted = 0
        while True:
            async with self._database.transaction() as connection:
                gone = await judgements.delete_expired(connection, datetime.now(UTC), SWEEP_ROWS)
            deleted += gone
            if gone < SWEEP_ROWS:
                return deleted

    async def held_key(self, key_id: str) -> HeldKey | None:
        """All that is needed to judge a key that someone shows."""
        async with self._database.transaction() as connection:
            return await clients.held_key(connection, key_id)

    async def client_and_view(self, client_id: str) -> tuple[Client, frozenset[str]] | None:
        """A client, and the clients whose rows it may read."""
        async with self._database.transaction() as connection:
            found = await clients.all_clients(connection, client_id)
            return (found[0], await clients.sees(connection, client_id)) if found else None

    @retried
    async def touch_keys(self, used: Mapping[str, datetime]) -> None:
        """Write when keys were last used."""
        if used:
            async with self._database.transaction() as connection:
                await clients.touch(connection, used)

    async def ping(self) -> None:
        """StoreUnavailable unless the database answers."""
        await self._database.ping()

    async def is_at_head(self) -> bool:
        """Whether the schema is the newest, or that of a later release."""
        async with self._database.transaction() as connection:
            found = serves(await revision_of(connection), self._head)
        self._was_at_head = self._was_at_head or found
        return found

    @property
    def does_without(self) -> bool:
        """Whether requests can be answered now with no database: it was there, and another way is open."""
        match self._on_failure:
            case StoreOnFailure.SPOOL:
                return self._was_at_head and self._spool.has_room
            case StoreOnFailure.ANSWER:
                return self._was_at_head
            case StoreOnFailure.REFUSE:
                return False
