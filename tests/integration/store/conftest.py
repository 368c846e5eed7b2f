import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.postgres import OwnServer, Server, new_database, own_server
from support.store import Heard

from llmobs.settings import Settings, Synchronous
from llmobs.store.database import Database
from llmobs.store.migrate import upgrade
from llmobs.store.store import Store


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file at head, to be copied."""
    path = tmp_path_factory.mktemp("template") / "llmobs.db"
    upgrade(Settings(database_url=f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def empty_template(postgres: Server) -> str:
    """Name of a PostgreSQL database at head, to be copied."""
    url = new_database(postgres)
    upgrade(Settings(database_url=url))
    return url.rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database at head, on each kind of database in turn."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("empty_file"), tmp_path / "llmobs.db")
        return f"sqlite:///{tmp_path}/llmobs.db"
    return new_database(request.getfixturevalue("postgres"), request.getfixturevalue("empty_template"))


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return Settings(
        database_url=url,
        spool_dir=str(tmp_path / "spool"),
        sqlite_synchronous=Synchronous.NORMAL,
        database_timeout_seconds=2.0,
    )


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def store(settings: Settings, heard: Heard) -> AsyncIterator[Store]:
    async with Store(settings, heard) as made:
        yield made


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    made = Database(settings)
    yield made
    await made.dispose()


@pytest.fixture(scope="session")
def fragile() -> Iterator[OwnServer]:
    """A server that tests may stop and freeze; it is left running and well."""
    with own_server() as server:
        yield server
