import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from support.postgres import Server, new_database

from llmobs.errors import SettingsInvalid, StoreUnavailable
from llmobs.settings import Settings
from llmobs.store.database import make_engine
from llmobs.store.migrate import config, current, downgrade, is_current, upgrade
from llmobs.store.revision import head
from llmobs.store.tables import metadata

UPGRADE = "import sys; from llmobs.settings import *; from llmobs.store.migrate import *; "
UPGRADE += "upgrade(Settings(database_url=sys.argv[1], database_timeout_seconds=1.0))"


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An empty database without a schema."""
    if request.param == "sqlite":
        return Settings(database_url=f"sqlite:///{tmp_path}/new/folder/llmobs.db")
    server: Server = request.getfixturevalue("postgres")
    return Settings(database_url=new_database(server))


def _look(settings: Settings, look: Any) -> Any:
    async def run() -> Any:
        engine = make_engine(settings, migrating=True)
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(look)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def test_the_newest_revision_is_the_one_that_alembic_takes_for_it() -> None:
    assert head() == ScriptDirectory.from_config(config(Settings())).get_current_head()


def test_up_down_and_up_again(settings: Settings) -> None:
    assert current(settings) is None
    upgrade(settings)
    assert current(settings) == head()
    assert is_current(settings)
    assert _look(settings, _tables) == {*metadata.tables, "alembic_version"}
    downgrade(settings)
    assert current(settings) is None
    assert _look(settings, _tables) == {"alembic_version"}
    assert not is_current(settings)
    upgrade(settings)
    upgrade(settings)
    assert is_current(settings)


def test_migrations_make_what_the_tables_say(settings: Settings) -> None:
    upgrade(settings)

    def differences(connection: Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    assert _look(settings, differences) == []


@pytest.mark.parametrize("column", ["action", "tier_used", "blocked", "failure_class", "created_at"])
def test_what_is_searched_for_is_indexed(settings: Settings, column: str) -> None:
    upgrade(settings)
    indexes = _look(settings, lambda connection: inspect(connection).get_indexes("detection_logs"))
    assert column in {index["column_names"][0] for index in indexes}


def test_upgrades_at_the_same_time_all_succeed(settings: Settings) -> None:
    several = [
        subprocess.Popen([sys.executable, "-c", UPGRADE, settings.database_url], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    told = [process.communicate(timeout=50)[1].decode() for process in several]
    assert [process.returncode for process in several] == [0, 0, 0], told
    assert is_current(settings)


def test_an_upgrade_waits_for_another_longer_than_a_request_would(settings: Settings) -> None:
    upgrade(settings)
    downgrade(settings)
    held, free = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        lock = "SELECT pg_advisory_xact_lock(727001)"
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.dialect.name == "sqlite" else lock)
        held.set()
        free.wait()

    holder = threading.Thread(target=_look, args=(settings, hold))
    holder.start()
    held.wait()
    started = time.monotonic()
    threading.Timer(2.0, free.set).start()
    upgrade(Settings(database_url=settings.database_url, database_timeout_seconds=0.5))
    assert time.monotonic() - started >= 1.9
    holder.join()


def test_a_database_that_is_not_there_is_told_as_such() -> None:
    with pytest.raises(StoreUnavailable):
        current(Settings(database_url="postgresql://llmobs:secret@127.0.0.1:1/none"))


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "", "sqlite://", "sqlite:///:memory:"])
def test_a_url_of_no_use_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        make_engine(Settings(database_url=url))
    assert "DATABASE_URL" in str(refused.value)
    assert "secret" not in str(refused.value)
