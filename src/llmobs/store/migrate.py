"""Schema revisions: Alembic, called from the command line and from tests."""

import asyncio
from typing import TYPE_CHECKING

from llmobs.settings import Settings
from llmobs.store.database import make_engine, told_plainly
from llmobs.store.revision import head, revision_of, scripts, serves

if TYPE_CHECKING:
    from alembic.config import Config


def config(settings: Settings) -> "Config":
    """Alembic's configuration, with no file needed."""
    from alembic.config import Config  # noqa: PLC0415  # loaded where something is to be done; see revision.py

    made = Config()
    made.set_main_option("script_location", str(scripts()))
    made.attributes["settings"] = settings
    return made


def upgrade(settings: Settings, revision: str = "head") -> None:
    """Go up to a revision. Safe to run at the same time from several processes.

    A database that a later release has migrated is left as it is.
    """
    if revision == "head" and is_current(settings):
        return
    from alembic import command  # noqa: PLC0415  # as above

    with told_plainly():
        command.upgrade(config(settings), revision)


def downgrade(settings: Settings, revision: str = "base") -> None:
    """Go down to a revision."""
    from alembic import command  # noqa: PLC0415  # as above

    with told_plainly():
        command.downgrade(config(settings), revision)


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
