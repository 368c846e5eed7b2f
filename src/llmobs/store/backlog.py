"""The spool as the event loop uses it: filled while the database is away, drained when it is back."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import structlog

from llmobs.domain.record import Record
from llmobs.store.database import RowRefused
from llmobs.store.spool import Spool, SpoolFile, as_frames

log = structlog.get_logger("llmobs.backlog")

CHUNK_ROWS = 500

Write = Callable[[Sequence[Record]], Awaitable[object]]
"""Commits records in one transaction; what is there already is left alone."""


class Backlog:
    """Keeps order between those who add to the spool and the one who drains it.

    Draining is exactly once though it may stop anywhere: a record that is offered to the database
    twice is written once, and the file is emptied only after its last record was committed.
    """

    def __init__(self, spool: Spool, write: Write) -> None:
        self._spool = spool
        self._write = write
        self._file_lock = asyncio.Lock()
        self._stopping = False

    @property
    def size(self) -> int:
        """Bytes that wait in this process's spool."""
        return self._spool.size

    async def append(self, records: Sequence[Record]) -> None:
        """Keep records; returns once they are on disk. Raises SpoolFull."""
        async with self._file_lock:
            await asyncio.to_thread(self._spool.append, records)

    async def drain(self) -> int:
        """Give everything to the database, orphans of dead processes first. How many rows.

        StoreUnavailable when the database does not take them: nothing is lost, call again.
        """
        rows = 0
        with contextlib.closing(self._spool.orphans()) as orphans:
            for orphan in orphans:
                drained, at = await self._drain_file(orphan, 0)
                rows += drained
                if at == orphan.size:
                    orphan.remove()
        own = self._spool.own
        at = 0
        while own is not None and own.size and not self._stopping:
            drained, at = await self._drain_file(own, at)
            rows += drained
            async with self._file_lock:  # else it would also forget what is being added now
                if at == own.size:
                    await asyncio.to_thread(own.clear)
        return rows

    async def close(self) -> None:
        """Let go of the file. The caller sees to it that no `drain` runs any more."""
        async with self._file_lock:
            await asyncio.to_thread(self._spool.close)

    def stop(self) -> None:
        """Let a running `drain` end after the chunk at hand."""
        self._stopping = True

    async def _drain_file(self, file: SpoolFile, offset: int) -> tuple[int, int]:
        """Drain what the file holds now; how many rows, and how far we came."""
        rows, end = 0, file.size
        while offset < end and not self._stopping:
            records, offset = await asyncio.to_thread(file.read, offset, end, CHUNK_ROWS)
            await self._give(file, records)
            rows += len(records)
        if rows:
            log.info("spool drained", file=file.path.name, rows=rows)
        return rows, offset

    async def _give(self, file: SpoolFile, records: Sequence[Record]) -> None:
        if not records:
            return
        try:
            await self._write(records)
        except (RowRefused, ValueError, OverflowError) as error:
            # One record that is refused for ever must not hold up all others for ever.
            if len(records) > 1:
                middle = len(records) // 2
                await self._give(file, records[:middle])
                await self._give(file, records[middle:])
                return
            log.error("spooled verdict refused, kept aside", file=file.path.name, reason=type(error).__name__)
            await asyncio.to_thread(file.reject, as_frames(records))
