"""Clients and keys as the command line and the administrators' endpoints handle them."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import msgspec

from llmobs.access.keys import Pepper, new_key
from llmobs.domain.access import Client, Key, Scope, View
from llmobs.domain.audit import Deed, deed
from llmobs.errors import EntryConflict, EntryUnknown, ValueRefused
from llmobs.store import audit, clients
from llmobs.store.database import Database, RowRefused, retried

CLIENT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
LONGEST_NAME = 200
COMMAND_LINE = "command line"
"""Who acts where it is not said: whoever has the database's password at hand."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh key, the only time that it is seen."""

    key: Key
    shown: str


class ClientChange(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be different about a client; UNSET leaves a thing as it is."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    tier: str | msgspec.UnsetType = msgspec.UNSET
    policy: str | msgspec.UnsetType | None = msgspec.UNSET
    readers: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET


class Registry:
    """Keeps clients and keys. Raises EntryUnknown, EntryConflict, ValueRefused, StoreUnavailable."""

    def __init__(
        self,
        database: Database,
        pepper: Pepper | None,
        *,
        tiers: Iterable[str],
        changed: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """`changed` is told the id of a key that is not what it was, or None for many."""
        self._database = database
        self._pepper = pepper
        self._tiers = frozenset(tiers)
        self._changed = changed

    @property
    def tiers(self) -> frozenset[str]:
        """The names of the rate-limit tiers."""
        return self._tiers

    async def clients(self) -> list[Client]:
        """Every client, by id."""
        async with self._database.transaction() as connection:
            return await clients.all_clients(connection)

    async def client(self, client_id: str) -> Client:
        """One client."""
        async with self._database.transaction() as connection:
            found = await clients.all_clients(connection, client_id)
        if not found:
            raise _no_client(client_id)
        return found[0]

    @retried
    async def create_client(
        self,
        client_id: str,
        *,
        name: str = "",
        tier: str = "free",
        policy: str | None = None,
        readers: Iterable[str] = (),
        by: str = COMMAND_LINE,
    ) -> Client:
        """Add a client."""
        if not CLIENT_ID.fullmatch(client_id):
            raise ValueRefused(
                "A client id is 1 to 64 lower-case letters, digits, _ and -, and starts with no sign."
            )
        made = Client(
            id=client_id,
            name=name or client_id,
            tier=tier,
            policy=policy,
            readers=tuple(sorted({*readers} - {client_id})),
            created_at=datetime.now(UTC),
        )
        self._check(made)
        try:
            async with self._database.transaction() as connection:
                if await clients.all_clients(connection, client_id):
                    raise EntryConflict(f"There is a client {client_id} already.")
                await clients.insert_client(connection, made)
                await audit.append(connection, deed(by, "client.create", client_id, **_told(made)))
        except RowRefused:
            raise EntryConflict("The client exists already, or one of its readers does not.") from None
        self._changed(None)
        return made

    @retried
    async def change_client(self, client_id: str, change: ClientChange, *, by: str = COMMAND_LINE) -> Client:
        """Change a client; its keys feel it at once here, and elsewhere when they are next looked up."""
        try:
            async with self._database.transaction() as connection:
                found = await clients.all_clients(connection, client_id)
                if not found:
                    raise _no_client(client_id)
                changed = _changed(found[0], change)
                self._check(changed)
                await clients.update_client(connection, changed)
                await audit.append(connection, deed(by, "client.change", client_id, **_told(changed)))
        except RowRefused:
            raise EntryConflict("One of the readers is no client.") from None
        self._changed(None)
        return changed

    async def keys(self, view: View, client_id: str | None = None) -> list[Key]:
        """The keys that the view shows, or those of one client, oldest first."""
        async with self._database.transaction() as connection:
            return await clients.keys(connection, view, client_id)

    @retried
    async def create_key(
        self,
        client_id: str,
        *,
        name: str,
        scopes: Iterable[Scope],
        by: str,
        expires_at: datetime | None = None,
    ) -> Made:
        """Make a key for a client. It is in the answer and nowhere else."""
        wanted = tuple(sorted(set(scopes)))
        if not wanted:
            raise ValueRefused("A key needs at least one scope.")
        now = datetime.now(UTC)
        if expires_at is not None and expires_at <= now:
            raise ValueRefused("The key would have expired already.")
        if len(name) > LONGEST_NAME:
            raise ValueRefused(f"A name has at most {LONGEST_NAME} characters.")
        made, digest = self._made(
            Key(
                id="",
                client_id=client_id,
                name=name,
                scopes=wanted,
                created_at=now,
                created_by=by,
                expires_at=expires_at,
            )
        )
        async with self._database.transaction() as connection:
            if not await clients.all_clients(connection, client_id):
                raise _no_client(client_id)
            await clients.insert_key(connection, made.key, digest)
            await audit.append(connection, _key_deed(by, "key.create", made.key))
        return made

    @retried
    async def rotate_key(self, view: View, key_id: str, *, overlap: timedelta, by: str) -> Made:
        """Make a key like this one, which works on for the overlap and no longer.

        The new key lasts as long from now as the old one was made to last.
        """
        if overlap < timedelta(0):
            raise ValueRefused("The overlap cannot be negative.")
        now = datetime.now(UTC)
        async with self._database.transaction() as connection:
            old = await clients.key(connection, view, key_id, lock=True)
            if old is None:
                raise _no_key(key_id)
            if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
                raise EntryConflict(f"The key {key_id} is revoked or has expired; make a new one.")
            if old.replaced_by is not None:
                raise EntryConflict(f"The key {key_id} was rotated already; {old.replaced_by} replaces it.")
            made, digest = self._made(
                msgspec.structs.replace(
                    old,
                    created_at=now,
                    created_by=by,
                    expires_at=None if old.expires_at is None else now + (old.expires_at - old.created_at),
                    last_used_at=None,
                )
            )
            until = now + overlap
            await clients.insert_key(connection, made.key, digest)
            await clients.replace(
                connection,
                key_id,
                made.key.id,
                until if old.expires_at is None else min(until, old.expires_at),
            )
            await audit.append(connection, _key_deed(by, "key.rotate", made.key, replaces=key_id))
        self._changed(key_id)
        return made

    @retried
    async def revoke_key(self, view: View, key_id: str, *, by: str = COMMAND_LINE) -> Key:
        """Void a key for good."""
        async with self._database.transaction() as connection:
            if await clients.key(connection, view, key_id) is None:
                raise _no_key(key_id)
            await clients.revoke(connection, key_id, datetime.now(UTC))
            revoked = await clients.key(connection, view, key_id)
            assert revoked is not None  # noqa: S101  # read above in the same transaction
            await audit.append(connection, _key_deed(by, "key.revoke", revoked))
        self._changed(key_id)
        return revoked

    def _made(self, like: Key) -> tuple[Made, bytes]:
        if self._pepper is None:
            raise EntryConflict("This service has no pepper for API keys: set LLMOBS_KEY_PEPPER.")
        key_id, shown = new_key()
        made = Made(key=msgspec.structs.replace(like, id=key_id), shown=shown)
        return made, self._pepper.digest(shown.encode())

    def _check(self, client: Client) -> None:
        if client.tier not in self._tiers:
            raise ValueRefused(
                f"No tier is called {client.tier!r}; there are: {', '.join(sorted(self._tiers))}."
            )
        if not 0 < len(client.name) <= LONGEST_NAME:
            raise ValueRefused(f"A name has 1 to {LONGEST_NAME} characters.")


def _changed(client: Client, change: ClientChange) -> Client:
    given = {
        name: value
        for name in ("name", "tier", "policy")
        if (value := getattr(change, name)) is not msgspec.UNSET
    }
    if change.readers is not msgspec.UNSET:
        given["readers"] = tuple(sorted({*change.readers} - {client.id}))
    if change.disabled is not msgspec.UNSET:
        given["disabled_at"] = (client.disabled_at or datetime.now(UTC)) if change.disabled else None
    return msgspec.structs.replace(client, **given)


def _told(client: Client) -> dict[str, object]:
    """What the audit log says of a client; its name may be a person's and stays out."""
    return {
        "tier": client.tier,
        "policy": client.policy,
        "readers": list(client.readers) or None,
        "disabled": True if client.disabled_at else None,
    }


def _key_deed(by: str, action: str, key: Key, replaces: str | None = None) -> Deed:
    return deed(
        by,
        action,
        key.id,
        client=key.client_id,
        scopes=[scope.value for scope in key.scopes],
        expires=None if key.expires_at is None else key.expires_at.isoformat(timespec="seconds"),
        replaces=replaces,
    )


def _no_client(client_id: str) -> EntryUnknown:
    return EntryUnknown(f"There is no client {client_id[:64]}.")


def _no_key(key_id: str) -> EntryUnknown:
    return EntryUnknown(f"There is no key {key_id[:64]}.")
