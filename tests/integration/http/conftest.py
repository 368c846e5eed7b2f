from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from support.app import client_for

from llmobs.settings import Settings
from llmobs.store.migrate import upgrade


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file at head, to be copied."""
    path = tmp_path_factory.mktemp("template") / "llmobs.db"
    upgrade(Settings(database_url=f"sqlite:///{path}"), "head")
    return path


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path) -> Settings:
    path = tmp_path / "llmobs.db"
    path.write_bytes(empty_database.read_bytes())
    return Settings(
        database_url=f"sqlite:///{path}",
        spool_dir=str(tmp_path / "spool"),
        log_level="error",
        snapshot_seconds=0,
        retention_days=0,
        reload_seconds=0,
    )


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_for(settings) as made:
        yield made
