"""Group commit: verdicts of many requests in one transaction, each answered after its commit.

An idle journal writes at once. A busy one gathers: while a transaction runs, verdicts wait for the
next, and when the last held more than one the next lingers a moment to hold more.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Protocol

import msgspec
import structlog

from llmobs.domain.record import Record
from llmobs.errors import Overloaded, RecordUnavailable, StoreUnavailable
from llmobs.settings import Settings, StoreOnFailure
from llmobs.store.backlog import Backlog
from llmobs.store.database import Disconnected, RowRefused
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
        self._backlog = Backlog(spool, write)
        self._observer = observer
        self._on_failure = settings.store_on_failure
        self._linger = settings.journal_linger_ms / 1000
        self._max_pending = settings.journal_max_pending
        self._waiting: list[Waiting] = []
        self._wanted = 1
        """How many must wait for the writer to wake up."""
        self._writing = 0
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._away = False
        self._retry_at = 0.0
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
        self._closing.set()
        self._backlog.stop()
        self._wake.set()
        await asyncio.gather(*self._tasks)
        await self._backlog.close()

    async def append(self, record: Record) -> Receipt:
        """Keep a record; returns after the commit (or the flush of the spool) that holds it.

        Overloaded when too many wait, RecordUnavailable when it could not be kept.
        """
        if self._closing.is_set():
            raise RecordUnavailable("The service is shutting down; try again.")
        if self.pending >= self._max_pending:
            raise Overloaded(f"{self.pending} verdicts wait for the database; try again.")
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        if len(self._waiting) >= self._wanted:
            self._wake.set()
        return await future

    async def _run(self) -> None:
        last = 0
        while True:
            await self._gather(1, None)
            if last > 1:
                # They come again about as many as before: no use in waiting for more.
                await self._gather(min(last, MAX_ROWS), self._linger)
            batch, self._waiting = self._waiting[:MAX_ROWS], self._waiting[MAX_ROWS:]
            if not batch:
                return
            last = self._writing = len(batch)
            try:
                await self._keep(batch)
            except Exception:
                # The writer must outlive a bug: without it every request would hang.
                log.exception("journal")
                _fail(batch, "The verdict could not be recorded; the log has the details.")
            finally:
                self._writing = 0

    async def _gather(self, wanted: int, seconds: float | None) -> None:
        """Wait until so many verdicts wait, at most so long, and not at all when closing."""
        if len(self._waiting) >= wanted or self._closing.is_set():
            return
        self._wanted = wanted
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _keep(self, batch: Sequence[Waiting]) -> None:
        try:
            lost = await self._commit([record for record, _ in batch])
        except StoreUnavailable as error:
            await self._keep_elsewhere(batch, str(error))
        except Exception as error:
            # Whatever is wrong with one verdict, its mates are written: halve until it stands alone.
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._keep(batch[:middle])
                await self._keep(batch[middle:])
                return
            self._observer.commit_failed(type(error).__name__)
            log.error("verdict refused", reason=str(error), exc_info=not isinstance(error, RowRefused))
            _fail(batch, "The database refuses this verdict.")
        else:
            for record, future in batch:
                if not future.done():
                    future.set_result(Receipt(recorded=True, taken_by=lost.get(record.request_id)))

    async def _commit(self, records: Sequence[Record]) -> dict[str, str]:
        loop = asyncio.get_running_loop()
        # While verdicts wait in the spool it is the drain that tries, so that no request waits for that.
        if self._away and (self._backlog.size or loop.time() < self._retry_at):
            raise StoreUnavailable("the database failed a moment ago")
        started = perf_counter()
        try:
            try:
                lost = await self._write(records)
            except Disconnected:
                lost = await self._write(records)
        except StoreUnavailable as error:
            self._away = True
            self._retry_at = loop.time() + RETRY_SECONDS
            self._observer.commit_failed(str(error))
            raise
        self._away = False
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
                    await self._backlog.append([record for record, _ in plain])
                except SpoolFull as error:
                    log.error("spool takes no more", reason=str(error))
                    _fail(plain, "The database does not answer and the spool is full; try again.")
                    return
                for _, future in plain:
                    if not future.done():
                        future.set_result(Receipt(recorded=True))

    async def _drain_always(self) -> None:
        while not self._closing.is_set():
            try:
                if await self._backlog.drain():
                    self._away = False
            except (StoreUnavailable, OSError) as error:
                log.warning("spool not drained", reason=str(error))
            except Exception:
                # The drain must outlive a bug: without it the spool would only fill.
                log.exception("drain")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._closing.wait()


def _fail(batch: Sequence[Waiting], detail: str) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(RecordUnavailable(detail))
