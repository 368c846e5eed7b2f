"""Which schema revision a database is at and which this release knows, without Alembic.

Every process asks at its start and hardly any migrates: to load Alembic takes a seventh of the time to import the service.
"""

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table
from sqlalchemy.ext.asyncio import AsyncConnection

import llmobs

_VERSION = table("alembic_version", column("version_num"))
"""Alembic's own table: no row while the schema is empty, else one."""


def scripts() -> Path:
    """The migrations: inside the installed package, or at the root of a checkout."""
    package = Path(llmobs.__file__).parent
    packed = package / "migrations"
    return packed if packed.is_dir() else package.parents[1] / "migrations"


def head() -> str:
    """The newest revision: revisions are numbers with leading zeros, and the files' names begin with them."""
    found = max(
        (path.name.partition("_")[0] for path in (scripts() / "versions").glob("[0-9]*_*.py")), default=None
    )
    if found is None:
        raise RuntimeError("there are no migrations")
    return found


def serves(revision: str | None, newest: str) -> bool:
    """Whether a release whose newest revision is `newest` works on a database at `revision`.

    A later release's schema counts: while a rolling update or a rollback is under way, the old release works on
    what the new one has migrated. Migrations keep to that (docs/decisions/0010-schemas-grow.md).
    """
    return revision == newest or (revision is not None and is_later(revision, newest))


def is_later(revision: str, newest: str) -> bool:
    """Whether `revision` is a later release's; what is no number is not ours."""
    return revision.isdigit() and int(revision) > int(newest)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSION.name):
        return None
    found: str | None = connection.execute(select(_VERSION.c.version_num)).scalar_one_or_none()
    return found


async def revision_of(connection: AsyncConnection) -> str | None:
    """The revision that the database is at; None for an empty schema."""
    return await connection.run_sync(_revision)
