"""Runs migrations on the database of DATABASE_URL. One runner at a time, however many start."""

import asyncio
import os
from time import monotonic, sleep

from alembic import context
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from llmobs.settings import load_settings
from llmobs.store.database import MIGRATION_WAIT_SECONDS, make_engine
from llmobs.store.tables import metadata

ADVISORY_LOCK = 727001
"""Any number, the same in every release: it keeps two upgrades apart."""


# Requests lock some of these in one order and some in another, and a migration that takes them one by one can
# meet a request half-way: a deadlock, and one of the two fails.
BUSY = ("idempotency_keys", "detection_logs", "feedback", "judgements")
HOLD_SECONDS = 10.0
TRY = "200ms"
"""Less than PostgreSQL's deadlock_timeout (one second), so that it is we who step back."""


def hold(connection: Connection) -> None:
    """Lock all busy tables or none, again and again, before anything is changed; OperationalError after a while."""
    there = [name for name in BUSY if inspect(connection).has_table(name)]
    if (
        not there
        or MigrationContext.configure(connection).get_current_revision() == context.script.get_current_head()
    ):
        return
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TRY}'")
    until = monotonic() + HOLD_SECONDS
    while True:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"LOCK TABLE {', '.join(there)} IN ACCESS EXCLUSIVE MODE")
        except DBAPIError:
            if monotonic() >= until:
                raise
            sleep(0.02)
        else:
            return


def run(connection: Connection) -> None:
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        # The driver opens transactions late; taking the write lock first makes the second runner
        # wait here and then find nothing left to do.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{MIGRATION_WAIT_SECONDS:g}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
        hold(connection)
        # From here on we hold up every request that meets a table we wait for: rather fail soon.
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
        connection.exec_driver_sql("SET LOCAL statement_timeout = '15min'")
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=sqlite,
        transaction_per_migration=False,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


async def main() -> None:
    settings = context.config.attributes.get("settings") or load_settings(os.environ)
    engine = make_engine(settings, migrating=True)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations need a database: offline SQL is not supported")
asyncio.run(main())
