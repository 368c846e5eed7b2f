"""The audit log: appended to in the transaction of what it tells of, listed, and verified."""

from typing import Any

import msgspec
from sqlalchemy import LargeBinary, Row, Select, cast, delete, false, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmobs.domain.audit import START, Deed, Entry, Verified, digest_of, first_fault
from llmobs.store.database import Database, retried, without_nul
from llmobs.store.records import cursor_of
from llmobs.store.tables import audit_log

CHUNK = 1000
_LOCK = 727_002
"""Key of the PostgreSQL advisory lock under which the chain grows."""


async def append(connection: AsyncConnection, done: Deed) -> None:
    """Add a deed to the chain, in the caller's transaction: it is told if and only if it was done."""
    await _alone(connection)
    await _append(connection, done)


async def append_if_new(connection: AsyncConnection, done: Deed) -> bool:
    """Add it unless the latest deed of that action on that target has the same details. Whether it was."""
    await _alone(connection)
    columns = audit_log.c
    latest = await connection.scalar(
        select(columns.details)
        .where(columns.action == done.action, columns.target == done.target)
        .order_by(columns.id.desc())
        .limit(1)
    )
    if latest == done.details:
        return False
    await _append(connection, done)
    return True


async def _alone(connection: AsyncConnection) -> None:
    """Keep all others from appending until the transaction ends."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    else:  # a statement that writes takes SQLite's one write lock, even where it finds nothing to do
        await connection.execute(delete(audit_log).where(false()))


async def _append(connection: AsyncConnection, done: Deed) -> None:
    columns = audit_log.c
    newest = select(columns.id, columns.digest).order_by(columns.id.desc()).limit(1)
    last = (await connection.execute(newest)).one_or_none()
    entry_id, previous = (1, START) if last is None else (last.id + 1, bytes(last.digest))
    kept = msgspec.structs.replace(
        done, **{name: without_nul(getattr(done, name)) for name in ("actor", "action", "target", "details")}
    )
    await connection.execute(
        insert(audit_log).values(
            id=entry_id,
            **msgspec.structs.asdict(kept),
            previous=previous,
            digest=digest_of(entry_id, previous, kept),
        )
    )


class Audit:
    """The log as endpoints and the command line use it. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retried
    async def tell(self, done: Deed) -> None:
        """Add a deed that has no transaction of its own."""
        async with self._database.transaction() as connection:
            await append(connection, done)

    @retried
    async def tell_if_new(self, *deeds: Deed) -> int:
        """Add those whose details differ from the latest on their target. How many that were."""
        async with self._database.transaction() as connection:
            return sum([await append_if_new(connection, done) for done in deeds])

    async def page(self, before_id: int | None, limit: int) -> tuple[list[Entry], str | None]:
        """Entries, newest first, and the cursor of the next page, None at the end."""
        async with self._database.transaction() as connection:
            query = _select(connection).order_by(audit_log.c.id.desc()).limit(limit + 1)
            if before_id is not None:
                query = query.where(audit_log.c.id < before_id)
            entries = [_entry(row) for row in await connection.execute(query)]
        more = len(entries) > limit
        entries = entries[:limit]
        return entries, cursor_of(entries[-1].id) if more else None

    async def entry(self, entry_id: int) -> Entry | None:
        """One entry."""
        async with self._database.transaction() as connection:
            row = (
                await connection.execute(_select(connection).where(audit_log.c.id == entry_id))
            ).one_or_none()
        return None if row is None else _entry(row)

    async def verify(self) -> Verified:
        """Look at the whole chain, in chunks. Entries added meanwhile may be looked at as well."""
        found = Verified(entries=0, broken_at=None, reason="", head=START)
        after = -(2**62)  # an entry moved to where none belongs is to be seen as well
        while True:
            async with self._database.transaction() as connection:
                query = (
                    _select(connection).where(audit_log.c.id > after).order_by(audit_log.c.id).limit(CHUNK)
                )
                entries = [_entry(row) for row in await connection.execute(query)]
            found = first_fault(entries, found.entries, found.head)
            if found.broken_at is not None or len(entries) < CHUNK:
                return found
            after = entries[-1].id


def _select(connection: AsyncConnection) -> Select[Any]:
    """All columns, from SQLite as bytes.

    It keeps any value in any column, and one that somebody put there is to be told of, not to end the look.
    """
    if connection.dialect.name == "postgresql":
        return select(audit_log)
    return select(
        audit_log.c.id,
        *(cast(column, LargeBinary).label(column.name) for column in audit_log.c if column.name != "id"),
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _entry(row: Row[Any]) -> Entry:
    values = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's documented name for it
    texts = {name: _text(values[name]) for name in ("at", "actor", "action", "target", "details")}
    return Entry(id=row.id, **texts, previous=bytes(row.previous), digest=bytes(row.digest))
