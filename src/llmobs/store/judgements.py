"""Statements about the judge's decisions. They hold digests and places, no text."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from llmobs.store.tables import judgements


async def first_of(
    connection: AsyncConnection, keys: Sequence[str], now: datetime
) -> tuple[str, bytes, str | None] | None:
    """The first of the keys with an unexpired value, with the value and the person it is of."""
    rows = await connection.execute(
        select(judgements.c.key, judgements.c.value, judgements.c.subject_key).where(
            judgements.c.key.in_(keys), judgements.c.expires_at > now
        )
    )
    found = {row.key: (row.key, row.value, row.subject_key) for row in rows}
    return next((found[key] for key in keys if key in found), None)


async def put(
    connection: AsyncConnection, key: str, value: bytes, expires_at: datetime, person: str | None = None
) -> None:
    """Keep a value, replacing an older one under the key."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(judgements).values(
        key=key, value=value, expires_at=expires_at, subject_key=person
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["key"],
            set_={name: statement.excluded[name] for name in ("value", "expires_at", "subject_key")},
        )
    )


async def delete_expired(connection: AsyncConnection, now: datetime, limit: int) -> int:
    """Delete up to `limit` expired values. How many."""
    old = select(judgements.c.key).where(judgements.c.expires_at <= now).limit(limit)
    return (await connection.execute(delete(judgements).where(judgements.c.key.in_(old)))).rowcount
