"""Erasing a verdict leaves nothing of it, in the tables or in SQLite's files, and is told of."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select
from support.store import make_record

from llmobs.cli import cli
from llmobs.domain.access import EVERYTHING, View
from llmobs.domain.feedback import Opinion
from llmobs.settings import Settings
from llmobs.store.audit import Audit
from llmobs.store.database import Database
from llmobs.store.erasure import ACTION, Erased, Erasure
from llmobs.store.feedback import Opinions
from llmobs.store.records import by_idempotency_key, insert_records
from llmobs.store.tables import detection_logs, feedback, idempotency_keys

WORD = "quetzalcoatlus"
NOTE = "archaeopteryx"


async def _kept(database: Database, client: str = "ours") -> str:
    """A verdict with a word on it and a key, beside one of another's. Its request id."""
    mine = make_record(
        client_id=client, llm_response=f"A {WORD}.", context=None, idempotency_key="k", body_sha256=b"b"
    )
    other = make_record(client_id="theirs", idempotency_key="k", body_sha256=b"b")
    async with database.transaction() as connection:
        await insert_records(connection, [mine, other])
    for record in (mine, other):
        await Opinions(database).keep(
            Opinion(
                request_id=record.request_id,
                client_id=record.client_id,
                created_at=record.created_at,
                given_by="key:abc",
                correct=True,
                true_class=None,
                note=NOTE if record is mine else "",
                action=record.action,
                failure_class=record.failure_class,
            )
        )
    return mine.request_id


async def _rows(database: Database) -> tuple[int, ...]:
    async with database.transaction() as connection:
        tables = (detection_logs, feedback, idempotency_keys)
        return tuple([await connection.scalar(select(func.count()).select_from(t)) or 0 for t in tables])


@pytest.fixture
def database(settings: Settings) -> Database:
    return Database(settings)


async def test_all_that_belongs_to_a_verdict_goes_and_nothing_else(database: Database) -> None:
    request_id = await _kept(database)
    assert await _rows(database) == (2, 2, 2)
    erased = await Erasure(database).of_request(EVERYTHING, request_id, by="key:abc")
    assert erased == Erased(request_id=request_id, verdicts=1, feedback=1, idempotency_keys=1)
    assert await _rows(database) == (1, 1, 1)
    async with database.transaction() as connection:
        assert await by_idempotency_key(connection, "ours", "k") is None
        assert await by_idempotency_key(connection, "theirs", "k") is not None
    assert await Erasure(database).of_request(EVERYTHING, request_id, by="key:abc") is None
    entries, _ = await Audit(database).page(None, 10)
    assert [(e.actor, e.action, e.target) for e in entries] == [("key:abc", ACTION, request_id)]
    assert entries[0].details == '{"feedback":1,"idempotency_keys":1,"verdicts":1}'
    await database.dispose()


async def test_what_a_view_does_not_show_it_cannot_erase(database: Database) -> None:
    request_id = await _kept(database)
    theirs = View(clients=frozenset({"theirs"}))
    assert await Erasure(database).of_request(theirs, request_id, by="key:abc") is None
    assert await _rows(database) == (2, 2, 2)
    assert (await Audit(database).page(None, 10))[0] == []
    await database.dispose()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_no_byte_of_it_is_left_in_sqlites_files(database: Database, tmp_path: Path) -> None:
    request_id = await _kept(database)

    def found(word: str) -> bool:
        return any(word.encode() in path.read_bytes() for path in tmp_path.glob("llmobs.db*"))

    assert found(WORD)
    assert found(NOTE)
    assert await Erasure(database).of_request(EVERYTHING, request_id, by="key:abc") is not None
    assert not found(WORD)
    assert not found(NOTE)
    assert found(request_id), "the audit log tells of it by its id"
    await database.dispose()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_the_command_says_what_was_there_and_what_was_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def keep() -> str:
        database = Database(settings)
        try:
            return await _kept(database)
        finally:
            await database.dispose()

    request_id = asyncio.run(keep())
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    done = CliRunner().invoke(cli, ["erase", request_id, "nobody's"])
    assert done.exit_code == 1
    assert f"{request_id}: erased, with 1 feedback rows and 1 idempotency keys." in done.output
    assert "nobody's: no such verdict." in done.output
    assert CliRunner().invoke(cli, ["erase", request_id]).exit_code == 1
