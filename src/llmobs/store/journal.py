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
from llmobs.domain.urgency import CAN_WAIT
from llmobs.errors import Overloaded, RecordUnavailable, StoreUnavailable
from llmobs.settings import Settings, StoreOnFailure
from llmobs.store.backlog import Backlog
from llmobs.store.database import Disconnected, RowRefused, again
from llmobs.store.spool import Spool, SpoolFull

log = structlog.get_logger("llmobs.journal")

MAX_ROWS = 500
"""Rows of one transaction."""
RIDERS = 32
"""Verdicts of batches that ride in a single text's transaction."""
RIDE_SECONDS = 0.15
"""How long they wait for one."""
CALM_SECONDS = 1.0
"""So long after the last single text batches have the journal to themselves."""
MANY_ROWS = 64
"""So many may wait for a slow database without anybody being refused."""
MAX_CHARS = 8 * 1024 * 1024
"""Characters of text in one transaction, beyond which it is written in several."""
RETRY_SECONDS = 1.0
"""How long a database that failed is left alone, and how often the spool is offered to it."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of a record."""

    recorded: bool
    taken_by: str | None = None
    """Request id of the verdict that had the idempotency key first; ours was not written."""


_RECORDED = Receipt(recorded=True)


class Observer(Protocol):
    """Is told what the journal does."""

    def committed(self, rows: int, seconds: float) -> None: ...
    def commit_failed(self, reason: str) -> None: ...


Write = Callable[[Sequence[Record]], Awaitable[dict[str, str]]]
"""Commits records in one transaction; answers who had the idempotency keys of those not written."""

Waiting = tuple[Record, asyncio.Future[Receipt], float]
"""A verdict, who waits for it, and since when (perf_counter)."""


class Journal:
    """The one writer of a process."""

    def __init__(self, settings: Settings, write: Write, spool: Spool, observer: Observer) -> None:
        self._write = write
        self._backlog = Backlog(spool, write)
        self._observer = observer
        self._on_failure = settings.store_on_failure
        self._linger = settings.journal_linger_ms / 1000
        self._max_pending = settings.journal_max_pending
        self._max_chars = settings.journal_max_chars
        self._max_wait = settings.journal_max_wait_ms / 1000
        self._chars = 0
        """Characters of the texts that wait, about what they weigh."""
        self._waiting: list[Waiting] = []
        self._wanted = 1
        """How many must wait for the writer to wake up."""
        self._writing = 0
        self._riders: list[Waiting] = []
        """Of batches: they ride with the single verdicts' transactions, which else would wait for theirs."""
        self._promotion: asyncio.TimerHandle | None = None
        self._last_urgent = 0.0
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._away = False
        self._retry_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pending(self) -> int:
        """Verdicts that wait for their commit."""
        return len(self._waiting) + len(self._riders) + self._writing

    @property
    def is_late(self) -> bool:
        """Whether many verdicts wait, and the first for longer than it may."""
        waiting = self._waiting
        return len(waiting) > MANY_ROWS and perf_counter() - waiting[0][2] > self._max_wait

    async def start(self) -> None:
        """Start writing, and draining what was spooled before."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._drain_always())]

    async def close(self) -> None:
        """Write what waits, then stop."""
        self._closing.set()
        self._promote()
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
        chars = len(record.llm_response)
        if self._chars and self._chars + chars > self._max_chars:
            raise Overloaded(f"{self._chars} characters wait for the database; try again.")
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        now = perf_counter()
        self._chars += chars
        can_wait = CAN_WAIT.get()
        if not can_wait:
            self._last_urgent = now
        if can_wait and now - self._last_urgent < CALM_SECONDS:
            self._riders.append((record, future, now))
            if self._promotion is None:
                self._promotion = asyncio.get_running_loop().call_later(RIDE_SECONDS, self._promote)
        else:
            self._waiting.append((record, future, now))
            if len(self._waiting) >= self._wanted:
                self._wake.set()
        try:
            return await future
        finally:
            self._chars -= chars

    def _promote(self) -> None:
        """Who found no transaction to ride with gets one."""
        if self._promotion is not None:
            self._promotion.cancel()
            self._promotion = None
        if self._riders or self._closing.is_set():
            self._waiting += self._riders
            self._riders.clear()
            self._wake.set()

    async def _run(self) -> None:
        last = 0
        while True:
            await self._gather(1, None)
            if last > 1:
                # Those answered come again, beside those that wait. Half of them are written while the other half is
                # examined: if all were waited for, the event loop would rest during every commit.
                await self._gather(min((last + len(self._waiting)) // 2, MAX_ROWS), self._linger)
            size = _rows_within(self._waiting, MAX_CHARS)
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
            if batch and size <= RIDERS:
                batch += self._riders[:RIDERS]
                del self._riders[:RIDERS]
            if not batch:
                if self._closing.is_set():
                    return
                continue
            last, self._writing = size, len(batch)
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
            lost = await self._commit([record for record, _, _ in batch])
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
            for record, future, _ in batch:
                if not future.done():
                    taken_by = lost.get(record.request_id) if lost else None
                    future.set_result(
                        _RECORDED if taken_by is None else Receipt(recorded=True, taken_by=taken_by)
                    )

    async def _commit(self, records: Sequence[Record]) -> dict[str, str]:
        loop = asyncio.get_running_loop()
        # While verdicts wait in the spool it is the drain that tries, so that no request waits for that.
        if self._away and (self._backlog.size or loop.time() < self._retry_at):
            raise StoreUnavailable("the database failed a moment ago")
        started = perf_counter()
        try:
            try:
                lost = await again(lambda: self._write(records))
            except Disconnected:
                lost = await again(lambda: self._write(records))
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
                for _, future, _ in batch:
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
                    await self._backlog.append([record for record, _, _ in plain])
                except SpoolFull as error:
                    log.error("spool takes no more", reason=str(error))
                    _fail(plain, "The database does not answer and the spool is full; try again.")
                    return
                for _, future, _ in plain:
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


def _rows_within(waiting: Sequence[Waiting], chars: int) -> int:
    """How many of the first verdicts one transaction takes: at least one."""
    rows = 0
    for record, _, _ in waiting[:MAX_ROWS]:
        chars -= len(record.llm_response)
        if rows and chars < 0:
            break
        rows += 1
    return rows


def _fail(batch: Sequence[Waiting], detail: str) -> None:
    for _, future, _ in batch:
        if not future.done():
            future.set_exception(RecordUnavailable(detail))
