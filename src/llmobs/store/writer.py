"""The journal's own connection: many rows in one statement, which is a transaction by itself.

Through the engine a batch costs several hops between threads (SQLite) or round trips (PostgreSQL),
each with the toolkit's work on top, and those were a fifth of a whole request. Here it is one hop,
or one round trip. Only plain inserts take this way; what must read as well goes through the engine.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol

import asyncpg
from sqlalchemy.dialects import postgresql

from llmobs.domain.record import Record
from llmobs.errors import StoreUnavailable
from llmobs.store.database import (
    Database,
    Disconnected,
    RowRefused,
    Transient,
    prepare_sqlite,
    row_at_fault,
    told_plainly,
    undone,
)
from llmobs.store.records import COLUMNS, STANDS, row_of
from llmobs.store.tables import detection_logs

STATEMENT_ROWS = 64
"""Rows of one SQLite statement. SQLite takes 32,766 parameters, and each length is prepared once."""
_KEPT_STATEMENTS = 160
_PERSON = COLUMNS.index("subject_key")

Row = tuple[Any, ...]


class Writer(Protocol):
    """Commits records that carry no idempotency key."""

    async def write(self, records: Sequence[Record]) -> None:
        """All of them, in one transaction; a record that is there already is left as it is.

        StoreUnavailable, Disconnected when another connection may work, Transient when the same again
        may go through, RowRefused when the database refuses what a row holds; then none is written.
        """

    async def close(self) -> None:
        """Let go of the connection."""


def writer_for(database: Database) -> Writer:
    """The writer that suits the database."""
    if database.engine.dialect.name == "sqlite":
        return SqliteWriter(database)
    return PostgresWriter(database)


@lru_cache(maxsize=_KEPT_STATEMENTS)
def _sqlite_insert(rows: int, *, named: bool) -> str:
    """`named`: some rows name a person, so it is looked whether anybody has erased them."""
    names = ", ".join(COLUMNS)
    values = "VALUES " + ", ".join([f"({', '.join('?' * len(COLUMNS))})"] * rows)
    if named:
        given = f"WITH given ({names}) AS ({values})"
        values = f"{given} SELECT {names} FROM given WHERE {STANDS}"  # noqa: S608  # our own column names
    return f"INSERT INTO detection_logs ({names}) {values} ON CONFLICT (request_id) DO NOTHING"


class SqliteWriter:
    """One connection in one thread.

    The thread holds the interpreter's lock only to hand the values over: the statement writes,
    flushes and returns without it, where a statement a row would wait for it once a row.
    """

    def __init__(self, database: Database) -> None:
        dialect, url = database.engine.dialect, database.engine.url
        arguments, options = dialect.create_connect_args(url)
        self._arguments: tuple[Any, ...] = tuple(arguments)
        self._options: dict[str, Any] = {
            **options,
            "timeout": database.seconds,
            "check_same_thread": False,
            "isolation_level": None,
            "cached_statements": _KEPT_STATEMENTS,
        }
        self._synchronous = database.synchronous
        self._seconds = database.seconds
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llmobs-journal")

    async def write(self, records: Sequence[Record]) -> None:
        """See `Writer`. A write that outlasts the timeout may still happen: writing again is harmless."""
        rows = [row_of(record, postgres=False) for record in records]
        try:
            async with asyncio.timeout(self._seconds):
                await asyncio.get_running_loop().run_in_executor(self._thread, self._insert, rows)
        except TimeoutError:
            raise StoreUnavailable("no answer in time") from None

    async def close(self) -> None:
        """See `Writer`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
        self._thread.shutdown()

    def _insert(self, rows: Sequence[Row]) -> None:
        try:
            connection = self._connection or self._opened()
            if len(rows) <= STATEMENT_ROWS:
                _insert_together(connection, rows)
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                for at in range(0, len(rows), STATEMENT_ROWS):
                    _insert_together(connection, rows[at : at + STATEMENT_ROWS])
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        except (sqlite3.IntegrityError, sqlite3.DataError) as error:
            raise RowRefused(_reason(error)) from None
        except sqlite3.Error as error:
            self._drop()
            raise StoreUnavailable(_reason(error)) from None

    def _opened(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(*self._arguments, **self._options)
        prepare_sqlite(connection, self._synchronous)
        self._connection = connection
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _insert_together(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    named = any(row[_PERSON] is not None for row in rows)
    connection.execute(_sqlite_insert(len(rows), named=named), [value for row in rows for value in row])


def _reason(error: sqlite3.Error) -> str:
    """The kind of error, and no more: messages may quote values."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


@lru_cache(maxsize=_KEPT_STATEMENTS)
def _postgres_insert(rows: int) -> str:
    """A parameter a value: the driver looks at each element of an array in Python, which costs more than sending it."""
    width = len(COLUMNS)
    places = ", ".join(
        f"({', '.join(f'${row * width + column}' for column in range(1, width + 1))})" for row in range(rows)
    )
    return f"INSERT INTO detection_logs ({', '.join(COLUMNS)}) VALUES {places} ON CONFLICT (request_id) DO NOTHING"  # noqa: S608  # our own column names


@lru_cache(maxsize=2)
def _postgres_insert_many(*, named: bool) -> str:
    """One array a column, so that one prepared statement serves batches of any size. `named` as above."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = [detection_logs.c[name].type.dialect_impl(dialect).compile(dialect) for name in COLUMNS]
    arrays = ", ".join(
        f"${number}::{'text' if kind == 'JSONB' else kind}[]" for number, kind in enumerate(types, 1)
    )
    names = ", ".join(COLUMNS)
    values = ", ".join(
        f"{name}::jsonb" if kind == "JSONB" else name for name, kind in zip(COLUMNS, types, strict=True)
    )
    return (
        f"INSERT INTO detection_logs ({names}) SELECT {values} "  # noqa: S608  # our own column names
        f"FROM unnest({arrays}) AS given ({names}) {f'WHERE {STANDS} ' if named else ''}"
        "ON CONFLICT (request_id) DO NOTHING"
    )


class PostgresWriter:
    """One connection, made by the engine and then kept out of its pool."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine
        self._seconds = database.seconds
        self._connection: Any = None
        self._turn = (
            asyncio.Lock()
        )  # the spool is drained beside the journal, and a connection does one thing

    async def write(self, records: Sequence[Record]) -> None:
        """See `Writer`."""
        rows = [row_of(record, postgres=True) for record in records]
        try:
            async with asyncio.timeout(self._seconds), self._turn:
                await self._insert(rows)
        except TimeoutError:
            raise StoreUnavailable("no answer in time") from None

    async def close(self) -> None:
        """See `Writer`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=self._seconds)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    async def _insert(self, rows: Sequence[Row]) -> None:
        known = self._connection is not None
        try:
            if self._connection is None:
                self._connection = await self._opened()
            named = any(row[_PERSON] is not None for row in rows)
            if named or len(rows) > STATEMENT_ROWS:
                columns = [list(column) for column in zip(*rows, strict=True)]
                await self._connection.execute(_postgres_insert_many(named=named), *columns)
            else:
                await self._connection.execute(
                    _postgres_insert(len(rows)), *[value for row in rows for value in row]
                )
        except BaseException as error:
            if isinstance(error, asyncpg.DataError) or row_at_fault(getattr(error, "sqlstate", None)):
                raise RowRefused(type(error).__name__) from None
            if undone(getattr(error, "sqlstate", None)):
                raise Transient(type(error).__name__) from None  # the connection is as good as before
            # Whatever state the connection is in, the next batch gets a new one.
            broken, self._connection = self._connection, None
            if broken is not None:
                broken.terminate()
            if isinstance(error, OSError | asyncpg.PostgresError | asyncpg.InterfaceError) and not isinstance(
                error, TimeoutError
            ):
                kind = Disconnected if known else StoreUnavailable
                raise kind(type(error).__name__) from None
            raise

    async def _opened(self) -> Any:
        with told_plainly():
            pooled = await self._engine.raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        return connection
