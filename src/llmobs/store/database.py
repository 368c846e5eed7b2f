"""Engines and transactions for SQLite and PostgreSQL."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec
from sqlalchemy import NullPool, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from llmobs.errors import LlmobsError, SettingsInvalid, StoreUnavailable
from llmobs.settings import Settings

DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}

Given = ParamSpec("Given")
Found = TypeVar("Found")
NUL, SHOWN_NUL = "\x00", "\N{SYMBOL FOR NULL}"
"""PostgreSQL cannot hold U+0000 in text, so it is stored as its symbol, on both databases."""
_ESCAPED_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
"""The escape in JSON text; after an odd number of backslashes `u0000` is plain text."""
PAUSES = (0.005, 0.02, 0.08)
"""Seconds before another try at a transaction that the database undid; then it counts as away."""
MIGRATION_WAIT_SECONDS = 60.0
"""How long one upgrade waits for another."""


def database_url(written: str) -> URL:
    """The URL with its async driver; SettingsInvalid when it names no database that we know."""
    try:
        url = make_url(written)
    except ArgumentError:
        raise SettingsInvalid("DATABASE_URL is no database URL") from None
    driver = DRIVERS.get(url.drivername)
    if driver is None:
        raise SettingsInvalid(f"DATABASE_URL: {url.drivername} is not one of sqlite, postgresql")
    return url.set(drivername=driver)


def to_json(value: Any) -> str:
    """JSON text that both databases can hold."""
    encoded = msgspec.json.encode(value)
    if b"\\u0000" in encoded:
        encoded = _ESCAPED_NUL.sub(rb"\1\\u2400", encoded)
    return encoded.decode()


def without_nul(value: str) -> str:
    """Text that both databases can hold."""
    return value.replace(NUL, SHOWN_NUL) if NUL in value else value


def make_engine(settings: Settings, *, migrating: bool = False) -> AsyncEngine:
    """An engine for DATABASE_URL. One for migrations keeps no connections and waits long for locks."""
    url = database_url(settings.database_url)
    options: dict[str, Any] = {
        "json_serializer": to_json,
        "json_deserializer": msgspec.json.decode,
        "hide_parameters": True,  # texts and passwords have no place in error messages
    }
    if migrating:
        options["poolclass"] = NullPool
    seconds = settings.database_timeout_seconds
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise SettingsInvalid("DATABASE_URL: SQLite needs a file, as in sqlite:///var/llmobs.db")
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        wait = MIGRATION_WAIT_SECONDS if migrating else seconds
        engine = create_async_engine(url, connect_args={"timeout": wait}, **options)
        synchronous = settings.sqlite_synchronous.value

        @event.listens_for(engine.sync_engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            prepare_sqlite(connection, synchronous)

        return engine
    arguments: dict[str, Any] = {"timeout": seconds}
    if "sslmode" in url.query:  # libpq's name for what asyncpg calls ssl
        arguments["ssl"] = url.query["sslmode"]
        url = url.difference_update_query(["sslmode"])
    if not migrating:
        arguments["command_timeout"] = seconds
        arguments["server_settings"] = {"application_name": "llmobs"}
        # The journal's own connection is one of them.
        pool_size = max(1, settings.database_pool_size - 1)
        options |= {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": seconds}
        # After a restart of the server the first use of each pooled connection would fail, and with it a request.
        options["pool_pre_ping"] = True
    return create_async_engine(url, connect_args=arguments, **options)


def prepare_sqlite(connection: Any, synchronous: str) -> None:
    """What every connection to SQLite is told first."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute(f"PRAGMA synchronous = {synchronous}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten as well
    cursor.close()


class RowRefused(LlmobsError):
    """The database answers, and refuses what a row holds."""


class Disconnected(StoreUnavailable):
    """The connection broke. A pooled one may have been dead for long, so another may work."""


class Transient(StoreUnavailable):
    """The database undid the transaction for the sake of another; the same again may go through."""


@contextmanager
def told_plainly() -> Iterator[None]:
    """Drivers' errors leave as StoreUnavailable, or as RowRefused when the data are at fault."""
    try:
        yield
    except (TimeoutError, PoolTimeoutError):
        raise StoreUnavailable("no answer in time") from None
    except OSError as error:
        raise StoreUnavailable(type(error).__name__) from None
    except DBAPIError as error:
        reason = _reason(error)
        if error.connection_invalidated:
            raise Disconnected(reason) from None
        if undone(getattr(error.orig, "sqlstate", None)):
            raise Transient(reason) from None
        raise (RowRefused(reason) if _row_at_fault(error) else StoreUnavailable(reason)) from None


def _row_at_fault(error: DBAPIError) -> bool:
    """Whether the same row would be refused again; what we do not know counts as an outage."""
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return isinstance(error, DataError | IntegrityError)
    return row_at_fault(state)


def row_at_fault(state: str | None) -> bool:
    """Whether a PostgreSQL error code blames the row: bad data, broken constraint, over a limit."""
    return state is not None and state[:2] in {"22", "23", "54"}


def undone(state: str | None) -> bool:
    """Whether a PostgreSQL error code says that a conflict undid the transaction: serialisation, deadlock."""
    return state in {"40001", "40P01"}


async def again(work: Callable[[], Awaitable[Found]]) -> Found:
    """What `work` answers, with a few more tries while it fails as Transient. It is one whole transaction."""
    for pause in PAUSES:
        try:
            return await work()
        except Transient:
            # Not all at the same time: they would be in each other's way once more.
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
    return await work()


def retried(
    method: Callable[Given, Coroutine[Any, Any, Found]],
) -> Callable[Given, Coroutine[Any, Any, Found]]:
    """For a method that is one whole transaction and what follows from it: called by way of `again`."""

    @wraps(method)
    async def tried(*arguments: Given.args, **named: Given.kwargs) -> Found:
        return await again(lambda: method(*arguments, **named))

    return tried


def _reason(error: DBAPIError) -> str:
    """The kind of error, and no more: driver messages may quote addresses and values."""
    origin = error.orig or error
    return getattr(origin, "sqlite_errorname", None) or type(origin.__cause__ or origin).__name__


class Database:
    """Connections whose failures come as StoreUnavailable."""

    def __init__(self, settings: Settings) -> None:
        self.engine = make_engine(settings)
        self.seconds = settings.database_timeout_seconds
        """Longest wait for a connection or a commit."""
        self.synchronous = settings.sqlite_synchronous.value

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end of the block. Raises what `told_plainly` says."""
        with told_plainly():
            async with asyncio.timeout(self.seconds), self.engine.begin() as connection:
                yield connection

    async def ping(self) -> None:
        """StoreUnavailable unless the database answers."""
        async with self.transaction() as connection:
            await connection.execute(text("SELECT 1"))

    async def dispose(self) -> None:
        """Close all connections."""
        await self.engine.dispose()
