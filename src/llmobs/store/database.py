"""Engines and transactions for SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from llmobs.errors import SettingsInvalid, StoreUnavailable
from llmobs.settings import Settings

DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}

NUL, SHOWN_NUL = "\x00", "\N{SYMBOL FOR NULL}"
"""PostgreSQL cannot hold U+0000 in text, so it is stored as its symbol, on both databases."""


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
        encoded = msgspec.json.encode(_without_nul(msgspec.to_builtins(value)))
    return encoded.decode()


def without_nul(value: str) -> str:
    """Text that both databases can hold."""
    return value.replace(NUL, SHOWN_NUL) if NUL in value else value


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return without_nul(value)
    if isinstance(value, dict):
        return {without_nul(key): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return value


def make_engine(settings: Settings, **more: Any) -> AsyncEngine:
    """An engine for DATABASE_URL. `more` goes to SQLAlchemy, for example another pool."""
    url = database_url(settings.database_url)
    options: dict[str, Any] = {
        "json_serializer": to_json,
        "json_deserializer": msgspec.json.decode,
        "hide_parameters": True,  # texts and passwords have no place in error messages
    }
    seconds = settings.database_timeout_seconds
    if url.get_backend_name() == "sqlite":
        if url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_async_engine(url, connect_args={"timeout": seconds}, **(options | more))
        synchronous = settings.sqlite_synchronous.value

        @event.listens_for(engine.sync_engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute(f"PRAGMA synchronous = {synchronous}")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.close()

        return engine
    if "poolclass" not in more:
        more |= {"pool_size": settings.database_pool_size, "max_overflow": 0, "pool_timeout": seconds}
    return create_async_engine(
        url, connect_args={"timeout": seconds, "command_timeout": seconds}, **(options | more)
    )


class Database:
    """Connections whose failures come as StoreUnavailable."""

    def __init__(self, settings: Settings) -> None:
        self.engine = make_engine(settings)
        self._seconds = settings.database_timeout_seconds

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end of the block.

        StoreUnavailable when the database does not answer, in time or at all. What the database
        refuses because of the data itself passes through as SQLAlchemy's own errors.
        """
        try:
            async with asyncio.timeout(self._seconds), self.engine.begin() as connection:
                yield connection
        except (TimeoutError, PoolTimeoutError):
            raise StoreUnavailable(f"no answer within {self._seconds:g} s") from None
        except (OperationalError, InterfaceError, OSError) as error:
            raise StoreUnavailable(_reason(error)) from None
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise StoreUnavailable(_reason(error)) from None

    async def ping(self) -> None:
        """StoreUnavailable unless the database answers."""
        async with self.transaction() as connection:
            await connection.execute(text("SELECT 1"))

    async def dispose(self) -> None:
        """Close all connections."""
        await self.engine.dispose()


def _reason(error: Exception) -> str:
    """The kind of error, and no more: driver messages may quote addresses and values."""
    origin = getattr(error, "orig", None) or error
    return type(origin.__cause__ or origin).__name__
