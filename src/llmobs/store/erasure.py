"""Erasing a verdict: its row, what was said of it, and the key that would answer it again."""

import asyncio
from collections.abc import Mapping

import msgspec
from sqlalchemy import delete, select, text

from llmobs.domain.access import View
from llmobs.domain.audit import deed
from llmobs.store import audit
from llmobs.store.database import Database, retried, told_plainly, without_nul
from llmobs.store.tables import detection_logs, feedback, idempotency_keys
from llmobs.store.tenancy import visible

ACTION = "verdict.erase"


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows of each table are gone."""

    request_id: str
    verdicts: int
    feedback: int
    idempotency_keys: int


class Erasure:
    """Erases by request id. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_request(self, view: View, request_id: str, *, by: str) -> Erased | None:
        """Erase that request's verdict, told in the audit log by its id; None where the view shows none.

        What still waits in a spool is not seen; it can be erased once the database has taken it.
        """
        erased = await self._erase(view, without_nul(request_id), by)
        if erased is not None:
            await self._empty_log()
        return erased

    @retried
    async def _erase(self, view: View, request_id: str, by: str) -> Erased | None:
        async with self._database.transaction() as connection:
            logs = detection_logs.c
            mine = visible(select(logs.id).where(logs.request_id == request_id), detection_logs, view)
            if connection.dialect.name == "postgresql":
                mine = mine.with_for_update()  # of two that erase at once, one finds it gone
            row_id = await connection.scalar(mine)
            if row_id is None:
                return None
            gone: Mapping[str, int] = {
                name: (await connection.execute(delete(table).where(wanted))).rowcount
                for name, table, wanted in (
                    ("feedback", feedback, feedback.c.request_id == request_id),
                    ("idempotency_keys", idempotency_keys, idempotency_keys.c.request_id == request_id),
                    ("verdicts", detection_logs, logs.id == row_id),
                )
            }
            if not gone["verdicts"]:  # SQLite: another was quicker between the look and the deletion
                return None
            await audit.append(connection, deed(by, ACTION, request_id, **gone))
        return Erased(request_id=request_id, **gone)

    async def _empty_log(self) -> None:
        """Have SQLite move its write-ahead log, where old pages stand, into the file, and empty it.

        As far as nobody reads an older state: the next erasure or restart does it otherwise. PostgreSQL
        leaves dead rows to its own vacuum.
        """
        if self._database.engine.dialect.name != "sqlite":
            return
        with told_plainly():
            async with (
                asyncio.timeout(self._database.seconds),
                self._database.engine.connect() as connection,
            ):
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
