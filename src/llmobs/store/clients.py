"""Statements about clients and their keys. Functions take an open transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from llmobs.domain.access import Client, HeldKey, Key, Scope, View
from llmobs.store.database import without_nul
from llmobs.store.tables import api_keys, client_readers, clients
from llmobs.store.tenancy import visible


async def all_clients(connection: AsyncConnection, client_id: str | None = None) -> list[Client]:
    """Every client in order of its id, or the one asked for."""
    query = select(clients).order_by(clients.c.id)
    readers = select(client_readers).order_by(client_readers.c.reader_id)
    if client_id is not None:
        query = query.where(clients.c.id == without_nul(client_id))
        readers = readers.where(client_readers.c.client_id == without_nul(client_id))
    read_by: dict[str, list[str]] = {}
    for row in await connection.execute(readers):
        read_by.setdefault(row.client_id, []).append(row.reader_id)
    return [_client(row, tuple(read_by.get(row.id, ()))) for row in await connection.execute(query)]


async def insert_client(connection: AsyncConnection, client: Client) -> None:
    """Add a client; RowRefused when the id is taken or a reader is no client."""
    await connection.execute(
        insert(clients).values(
            id=client.id,
            name=without_nul(client.name),
            tier=client.tier,
            policy=client.policy,
            created_at=client.created_at,
            disabled_at=client.disabled_at,
        )
    )
    await _set_readers(connection, client.id, client.readers)


async def update_client(connection: AsyncConnection, client: Client) -> None:
    """Write what may change of a client."""
    await connection.execute(
        update(clients)
        .where(clients.c.id == client.id)
        .values(
            name=without_nul(client.name),
            tier=client.tier,
            policy=client.policy,
            disabled_at=client.disabled_at,
        )
    )
    await _set_readers(connection, client.id, client.readers)


async def _set_readers(connection: AsyncConnection, client_id: str, readers: Sequence[str]) -> None:
    await connection.execute(delete(client_readers).where(client_readers.c.client_id == client_id))
    if readers:
        await connection.execute(
            insert(client_readers),
            [{"client_id": client_id, "reader_id": reader} for reader in sorted(set(readers))],
        )


async def sees(connection: AsyncConnection, client_id: str) -> frozenset[str]:
    """The clients whose rows a client may read: itself, and those that share with it."""
    shared = select(client_readers.c.client_id).where(client_readers.c.reader_id == client_id)
    return frozenset({client_id, *(await connection.scalars(shared))})


async def held_key(connection: AsyncConnection, key_id: str) -> HeldKey | None:
    """All that is needed to judge a key that someone shows."""
    row = (await connection.execute(select(api_keys).where(api_keys.c.id == key_id))).one_or_none()
    if row is None:
        return None
    (owner,) = await all_clients(connection, row.client_id)
    return HeldKey(
        key=_key(row), digest=bytes(row.digest), client=owner, sees=await sees(connection, owner.id)
    )


async def keys(connection: AsyncConnection, view: View, client_id: str | None = None) -> list[Key]:
    """The keys that the view shows, or those of one client, oldest first."""
    query = visible(select(api_keys), api_keys, view).order_by(api_keys.c.created_at, api_keys.c.id)
    if client_id is not None:
        query = query.where(api_keys.c.client_id == without_nul(client_id))
    return [_key(row) for row in await connection.execute(query)]


async def key(connection: AsyncConnection, view: View, key_id: str, *, lock: bool = False) -> Key | None:
    """One key, where the view shows it; `lock` keeps other transactions off it."""
    query = visible(select(api_keys), api_keys, view).where(api_keys.c.id == without_nul(key_id))
    if lock:
        query = query.with_for_update()
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _key(row)


async def insert_key(connection: AsyncConnection, made: Key, digest: bytes) -> None:
    """Add a key; RowRefused when there is no such client."""
    await connection.execute(
        insert(api_keys).values(
            id=made.id,
            client_id=made.client_id,
            name=without_nul(made.name),
            digest=digest,
            scopes=[scope.value for scope in made.scopes],
            created_at=made.created_at,
            created_by=made.created_by,
            expires_at=made.expires_at,
        )
    )


async def revoke(connection: AsyncConnection, key_id: str, at: datetime) -> None:
    """Void a key from this time on; one that is void already keeps its time."""
    await connection.execute(
        update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)).values(revoked_at=at)
    )


async def replace(connection: AsyncConnection, key_id: str, by: str, until: datetime) -> None:
    """Note which key comes in place of this one, and let it work until a time at most."""
    await connection.execute(
        update(api_keys).where(api_keys.c.id == key_id).values(replaced_by=by, expires_at=until)
    )


async def touch(connection: AsyncConnection, used: Mapping[str, datetime]) -> None:
    """Write when keys were last used; an older time never replaces a newer one."""
    for key_id, at in sorted(used.items()):  # one order for all keeps deadlocks away
        await connection.execute(
            update(api_keys)
            .where(
                api_keys.c.id == key_id,
                or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < at),
            )
            .values(last_used_at=at)
        )


def _client(row: Row[Any], readers: tuple[str, ...]) -> Client:
    return Client(
        id=row.id,
        name=row.name,
        tier=row.tier,
        policy=row.policy,
        readers=readers,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        client_id=row.client_id,
        name=row.name,
        scopes=tuple(Scope(scope) for scope in row.scopes),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        replaced_by=row.replaced_by,
    )
