"""Statements about the judge's decisions. They hold digests and places, no text."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from llmobs.store.tables import judgements


async def first_of(
    connection: AsyncConnection, keys: Sequence[str], now: datetime
) -> tuple[str, bytes] | None:
    """The first of the keys with an unexpired value, with the value."""
    rows = await connection.execute(
        select(judgements.c.key, judgements.c.value).where(
            judgements.c.key.in_(keys), judgements.c.expires_at > now
        )
    )
    found = {row.key: row.value for row in rows}
    return next(((key, found[key]) for key in keys if key in found), None)


async def put(connection: AsyncConnection, key: str, value: bytes, expires_at: datetime) -> None:
    """Keep a value, replacing an older one under the key."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(judgements).values(key=key, value=value, expires_at=expires_at)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["key"],
            set_={"value": statement.excluded.value, "expires_at": statement.excluded.expires_at},
        )
    )


async def delete_expired(connection: AsyncConnection, now: datetime, limit: int) -> int:
    """Delete up to `limit` expired values. How many."""
    old = select(judgements.c.key).where(judgements.c.expires_at <= now).limit(limit)
    return (await connection.execute(delete(judgements).where(judgements.c.key.in_(old)))).rowcount
