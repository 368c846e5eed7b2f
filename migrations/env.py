"""Runs migrations on the database of DATABASE_URL. One runner at a time, however many start."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection

from llmobs.settings import load_settings
from llmobs.store.database import MIGRATION_WAIT_SECONDS, make_engine
from llmobs.store.tables import metadata

ADVISORY_LOCK = 727001
"""Any number, the same in every release: it keeps two upgrades apart."""


def run(connection: Connection) -> None:
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        # The driver opens transactions late; taking the write lock first makes the second runner
        # wait here and then find nothing left to do.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{MIGRATION_WAIT_SECONDS:g}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
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
