"""Schema revisions: Alembic, called from the command line and from tests."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

import llmobs
from llmobs.settings import Settings
from llmobs.store.database import make_engine, told_plainly


def scripts() -> Path:
    """The migrations: inside the installed package, or at the root of a checkout."""
    package = Path(llmobs.__file__).parent
    packed = package / "migrations"
    return packed if packed.is_dir() else package.parents[1] / "migrations"


def config(settings: Settings) -> Config:
    """Alembic's configuration, with no file needed."""
    made = Config()
    made.set_main_option("script_location", str(scripts()))
    made.attributes["settings"] = settings
    return made


def head() -> str:
    """The newest revision."""
    found = ScriptDirectory.from_config(config(Settings())).get_current_head()
    if found is None:
        raise RuntimeError("there are no migrations")
    return found


def serves(revision: str | None, newest: str) -> bool:
    """Whether a release whose newest revision is `newest` works on a database at `revision`.

    A later release's schema counts: while a rolling update or a rollback is under way, the old release works on
    what the new one has migrated. Migrations keep to that (docs/decisions/0010-schemas-grow.md).
    """
    return revision == newest or (revision is not None and _is_later(revision, newest))


def _is_later(revision: str, newest: str) -> bool:
    """Revisions are numbers with leading zeros; what is no number is not ours."""
    return revision.isdigit() and int(revision) > int(newest)


def upgrade(settings: Settings, revision: str = "head") -> None:
    """Go up to a revision. Safe to run at the same time from several processes.

    A database that a later release has migrated is left as it is.
    """
    if revision == "head":
        found = current(settings)
        if found is not None and _is_later(found, head()):
            return
    with told_plainly():
        command.upgrade(config(settings), revision)


def downgrade(settings: Settings, revision: str = "base") -> None:
    """Go down to a revision."""
    with told_plainly():
        command.downgrade(config(settings), revision)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def revision_of(connection: AsyncConnection) -> str | None:
    """The revision that the database is at; None for an empty schema."""
    return await connection.run_sync(_revision)


def current(settings: Settings) -> str | None:
    """The revision that the database of the settings is at."""

    async def ask() -> str | None:
        engine = make_engine(settings, migrating=True)
        try:
            async with engine.connect() as connection:
                return await revision_of(connection)
        finally:
            await engine.dispose()

    with told_plainly():
        return asyncio.run(ask())


def is_current(settings: Settings) -> bool:
    """Whether the database is at the newest revision, or at one of a later release."""
    return serves(current(settings), head())
