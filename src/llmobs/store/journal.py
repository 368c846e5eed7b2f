"""Group commit: verdicts of many requests in one transaction, each answered after its commit.

An idle journal writes at once. A busy one gathers: while a transaction runs, verdicts wait for the
next, and when the last held more than one the next lingers a moment to hold more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Protocol

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from llmobs.domain.record import Record
from llmobs.errors import Overloaded, RecordUnavailable, StoreUnavailable
from llmobs.settings import Settings, StoreOnFailure
from llmobs.store.spool import Spool, SpoolFull

log = structlog.get_logger("llmobs.journal")

MAX_ROWS = 500
"""Rows of one transaction."""
RETRY_SECONDS = 1.0
"""How long a database that failed is left alone, and how often the spool is offered to it."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a record."""

    recorded: bool
    taken_by: str | None = None
    """Request id of the verdict that had the idempotency key first; ours was not written."""


class Observer(Protocol):
    """Is told what the journal does."""

    def committed(self, rows: int, seconds: float) -> None: ...
    def commit_failed(self, reason: str) -> None: ...


Write = Callable[[Sequence[Record]], Awaitable[dict[str, str]]]
"""Commits records in one transaction; answers who had the idempotency keys of those not written."""

Waiting = tuple[Record, asyncio.Future[Receipt]]


class Journal:
    """The one writer of a process."""

    def __init__(self, settings: Settings, write: Write, spool: Spool, observer: Observer) -> None:
        self._write = write
        self._spool = spool
        self._observer = observer
        self._on_failure = settings.store_on_failure
        self._linger = settings.journal_linger_ms / 1000
        self._max_pending = settings.journal_max_pending
        self._waiting: list[Waiting] = []
        self._writing = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._away_until = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pending(self) -> int:
        """Verdicts that wait for their commit."""
        return len(self._waiting) + self._writing

    async def start(self) -> None:
        """Start writing, and draining what was spooled before."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._drain_always())]

    async def close(self) -> None:
        """Write what waits, then stop."""
        self._closing = True
        self._wake.set()
        if self._tasks:
            writer, drainer = self._tasks
            await writer
            drainer.cancel()
            await asyncio.wait([drainer])
        await asyncio.to_thread(self._spool.close)

    async def append(self, record: Record) -> Receipt:
        """Keep a record; returns after the commit (or the flush of the spool) that holds it.

        Overloaded when too many wait, RecordUnavailable when it could not be kept.
        """
        if self._closing:
            raise RecordUnavailable("The service is shutting down; try again.")
        if self.pending >= self._max_pending:
            raise Overloaded(f"{self.pending} verdicts wait for the database; try again.")
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        self._wake.set()
        return await future

    async def _run(self) -> None:
        last = 0
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
            if last > 1 and self._linger and len(self._waiting) < MAX_ROWS and not self._closing:
                await asyncio.sleep(self._linger)
            batch, self._waiting = self._waiting[:MAX_ROWS], self._waiting[MAX_ROWS:]
            last = self._writing = len(batch)
            try:
                await self._keep(batch)
            except Exception:
                # The writer must outlive a bug: without it every request would hang.
                log.exception("journal")
                _fail(batch, "The verdict could not be recorded; the log has the details.")
            finally:
                self._writing = 0

    async def _keep(self, batch: Sequence[Waiting]) -> None:
        try:
            lost = await self._commit([record for record, _ in batch])
        except StoreUnavailable as error:
            await self._keep_elsewhere(batch, str(error))
            return
        except SQLAlchemyError as error:
            self._observer.commit_failed(type(error).__name__)
            if len(batch) == 1:
                log.error("the database refuses a verdict", reason=type(error).__name__)
                _fail(batch, "The database refuses this verdict.")
                return
            for one in batch:  # one bad row must not take its mates along
                await self._keep([one])
            return
        for record, future in batch:
            if not future.done():
                future.set_result(Receipt(recorded=True, taken_by=lost.get(record.request_id)))

    async def _commit(self, records: Sequence[Record]) -> dict[str, str]:
        loop = asyncio.get_running_loop()
        if loop.time() < self._away_until:
            raise StoreUnavailable("the database failed a moment ago")
        started = perf_counter()
        try:
            try:
                lost = await self._write(records)
            except StoreUnavailable:
                # A server that was restarted leaves dead connections behind: a second try gets a new one.
                lost = await self._write(records)
        except StoreUnavailable as error:
            self._away_until = loop.time() + RETRY_SECONDS
            self._observer.commit_failed(str(error))
            raise
        self._observer.committed(len(records), perf_counter() - started)
        return lost

    async def _keep_elsewhere(self, batch: Sequence[Waiting], reason: str) -> None:
        match self._on_failure:
            case StoreOnFailure.ANSWER:
                log.warning("answered unrecorded", rows=len(batch), reason=reason)
                for _, future in batch:
                    if not future.done():
                        future.set_result(Receipt(recorded=False))
            case StoreOnFailure.REFUSE:
                _fail(batch, "The database does not take verdicts now; try again.")
            case StoreOnFailure.SPOOL:
                # A key is a promise about what the database holds, so it cannot be kept in a spool.
                keyed = [one for one in batch if one[0].idempotency_key is not None]
                _fail(keyed, "The database does not answer, so the Idempotency-Key cannot be honoured now.")
                plain = [one for one in batch if one[0].idempotency_key is None]
                if not plain:
                    return
                try:
                    await asyncio.to_thread(self._spool.append, [record for record, _ in plain])
                except SpoolFull as error:
                    log.error("spool full", reason=str(error))
                    _fail(plain, "The database does not answer and the spool is full; try again.")
                    return
                for _, future in plain:
                    if not future.done():
                        future.set_result(Receipt(recorded=True))

    async def _drain_always(self) -> None:
        while True:
            try:
                await self._drain()
            except (StoreUnavailable, SQLAlchemyError, OSError) as error:
                log.warning("spool not drained", reason=type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)

    async def _drain(self) -> None:
        for orphan in self._spool.orphans():
            records = await asyncio.to_thread(orphan.read)
            await self._drain_records(records)
            orphan.remove()
            log.info("spool of a dead process drained", rows=len(records))
        if self._spool.size:
            records = await asyncio.to_thread(self._spool.read)
            size = self._spool.size
            await self._drain_records(records)
            if self._spool.size == size:  # else more came meanwhile; what is there twice is written once
                self._spool.clear()
                log.info("spool drained", rows=len(records))

    async def _drain_records(self, records: Sequence[Record]) -> None:
        for start in range(0, len(records), MAX_ROWS):
            await self._write(records[start : start + MAX_ROWS])
        self._away_until = 0.0


def _fail(batch: Sequence[Waiting], detail: str) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(RecordUnavailable(detail))
