"""The judge's decisions in the database, on both kinds."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.postgres import Server, new_database
from support.store import Heard

from llmobs.settings import Settings
from llmobs.store.migrate import upgrade
from llmobs.store.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/llmobs.db"
    else:
        server: Server = request.getfixturevalue("postgres")
        url = new_database(server)
    made = Settings(database_url=url, spool_dir=str(tmp_path / "spool"))
    upgrade(made)
    return made


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    async with Store(settings, Heard()) as made:
        yield made


async def test_decisions_are_kept_replaced_and_swept(store: Store) -> None:
    now = datetime.now(UTC)
    assert await store.judgement(["a", "b"]) is None
    await store.keep_judgement("a", b"one", now + timedelta(hours=1))
    await store.keep_judgement("b", b"two", now + timedelta(hours=1), "ann")
    assert await store.judgement(["x", "b", "a"]) == ("b", b"two", "ann")
    await store.keep_judgement("b", b"three", now + timedelta(hours=1))
    assert await store.judgement(["b"]) == ("b", b"three", None)
    await store.keep_judgement("b", b"four", now - timedelta(seconds=1))
    assert await store.judgement(["b", "a"]) == ("a", b"one", None)
    assert await store.delete_expired_judgements() == 1
    assert await store.delete_expired_judgements() == 0
