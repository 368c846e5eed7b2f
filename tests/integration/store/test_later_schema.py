"""While a rolling update or a rollback is under way, the old release meets the schema of the new one."""

import asyncio

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from support.store import Heard, make_record

from llmobs.cli import cli
from llmobs.settings import Settings
from llmobs.store.database import make_engine
from llmobs.store.migrate import current, is_current, upgrade
from llmobs.store.revision import head, serves
from llmobs.store.store import Kept, Store


async def _mark(settings: Settings, revision: str) -> None:
    engine = make_engine(settings, migrating=True)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
    await engine.dispose()


def test_a_later_revision_serves_and_an_earlier_or_foreign_one_does_not() -> None:
    assert [serves(found, "0007") for found in ("0007", "0008", "0100")] == [True] * 3
    assert [serves(found, "0007") for found in (None, "0006", "0001", "f00d", "")] == [False] * 5


async def test_the_old_release_stays_ready_and_records_on_the_schema_of_the_new_one(
    settings: Settings, heard: Heard
) -> None:
    async with Store(settings, heard) as store:
        assert await store.is_at_head()
        await _mark(settings, "9999")
        assert await store.is_at_head()
        assert await store.append(make_record()) == Kept(recorded=True)
        await _mark(settings, "0001")
        assert not await store.is_at_head()


async def test_what_a_later_release_migrated_is_left_as_it_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _mark(settings, "9999")
    await asyncio.to_thread(upgrade, settings)
    assert await asyncio.to_thread(current, settings) == "9999"
    assert await asyncio.to_thread(is_current, settings)
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    done = await asyncio.to_thread(CliRunner().invoke, cli, ["migrate"])
    assert done.exit_code == 0, done.output
    assert f"9999, which a later release made: this one knows {head()}" in done.output
