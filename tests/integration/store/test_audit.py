"""The audit chain: grows with what is done, and tells where it was touched."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from support.access import in_registry, keyed
from support.postgres import Server, new_database

from llmobs.access.registry import ClientChange, Registry
from llmobs.cli import cli
from llmobs.domain.access import EVERYTHING, Scope
from llmobs.domain.audit import deed
from llmobs.policies import load_policies, policy_deeds
from llmobs.settings import Settings
from llmobs.store.audit import Audit
from llmobs.store.database import Database
from llmobs.store.migrate import upgrade


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(database_url=f"sqlite:///{tmp_path}/audit.db")
    upgrade(made)
    return made


@pytest.fixture
async def audit(settings: Settings) -> AsyncIterator[Audit]:
    database = Database(settings)
    yield Audit(database)
    await database.dispose()


def _verify(settings: Settings, monkeypatch: pytest.MonkeyPatch, *more: str) -> tuple[int, str]:
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    done = CliRunner().invoke(cli, ["audit", "verify", *more])
    return done.exit_code, done.output


async def test_what_administrators_do_is_told_in_the_same_transaction(
    settings: Settings, audit: Audit
) -> None:
    async def work(registry: Registry) -> None:
        await registry.create_client("shop", by="key:abc")
        await registry.change_client("shop", ClientChange(tier="pro"), by="key:abc")
        made = await registry.create_key("shop", name="n", scopes=[Scope.DETECT], by="key:abc")
        await registry.revoke_key(EVERYTHING, made.key.id)
        for refused in ("shop", "Not An Id"):
            with pytest.raises(Exception, match="client"):
                await registry.create_client(refused, by="key:abc")

    await in_registry(keyed(settings), work)
    entries, cursor = await audit.page(None, 10)
    assert cursor is None
    assert [(e.id, e.action, e.actor) for e in entries] == [
        (4, "key.revoke", "command line"),
        (3, "key.create", "key:abc"),
        (2, "client.change", "key:abc"),
        (1, "client.create", "key:abc"),
    ]
    assert entries[2].details == '{"tier":"pro"}'
    assert (await audit.verify()).entries == 4


async def test_a_policy_is_told_of_once_until_it_changes(audit: Audit) -> None:
    deeds = policy_deeds(load_policies())
    assert await audit.tell_if_new(*deeds) == len(deeds)
    assert await audit.tell_if_new(*deeds) == 0
    changed = deed("service", "policy.in_force", "default", version=99, sha256="0")
    assert await audit.tell_if_new(changed) == 1


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
async def test_many_at_once_make_one_chain(
    backend: str, settings: Settings, request: pytest.FixtureRequest
) -> None:
    if backend == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        settings = Settings(database_url=new_database(server))
        await asyncio.to_thread(upgrade, settings)
    databases = [Database(settings) for _ in range(3)]
    await asyncio.gather(
        *(Audit(databases[n % 3]).tell(deed("a", "b.c", str(n), number=n)) for n in range(30))
    )
    found = await Audit(databases[0]).verify()
    assert (found.entries, found.broken_at) == (30, None)
    for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log WHERE id = 3"):
        with pytest.raises(Exception, match=r"StoreUnavailable|RowRefused|Error|only grows|SQLITE"):
            async with databases[0].transaction() as connection:
                await connection.execute(text(statement))
    assert (await Audit(databases[1]).verify()).entries == 30
    for database in databases:
        await database.dispose()


CHANGED = {
    "actor": "UPDATE audit_log SET actor = 'b' || substr(actor, 2) WHERE id = 5",
    "details": "UPDATE audit_log SET details = replace(details, '5', '6') WHERE id = 5",
    "space in details": "UPDATE audit_log SET details = details || ' ' WHERE id = 5",
    "no text": "UPDATE audit_log SET actor = CAST(x'ff' AS TEXT) WHERE id = 5",
    "time": "UPDATE audit_log SET at = replace(at, '+00:00', '+00:01') WHERE id = 5",
    "digest": (
        # One digest in 256 begins with a zero byte already: put another byte there.
        "UPDATE audit_log SET digest = CASE substr(digest, 1, 1) WHEN x'00' THEN x'01' ELSE x'00' "
        "END || substr(digest, 2) WHERE id = 5"
    ),
    "previous": "UPDATE audit_log SET previous = zeroblob(32) WHERE id = 5",
    "id": "UPDATE audit_log SET id = -5 WHERE id = 5",
}


@pytest.mark.parametrize("how", CHANGED)
def test_verify_names_the_changed_row(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def fill() -> None:
        database = Database(settings)
        for number in range(9):
            await Audit(database).tell(deed("anna", "key.create", f"k{number}", number=number + 1))
        await database.dispose()

    asyncio.run(fill())
    assert _verify(settings, monkeypatch)[0] == 0
    with sqlite3.connect(tmp_path / "audit.db") as connection:
        # Whoever owns the file can drop the triggers; the chain still tells.
        connection.execute("DROP TRIGGER audit_log_no_update")
        assert connection.execute(CHANGED[how]).rowcount == 1
    status, told = _verify(settings, monkeypatch)
    print(told)
    assert status == 1
    assert ("Entry -5 is broken" if how == "id" else "Entry 5 is broken") in told


def test_one_byte_changed_in_the_file_is_seen(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fill() -> None:
        database = Database(settings)
        for number in range(5):
            await Audit(database).tell(deed("anna", "key.create", f"target-{number}"))
        await database.dispose()

    asyncio.run(fill())
    path = tmp_path / "audit.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # The index holds the same text; without it the table is what is read.
        connection.execute("DROP INDEX ix_audit_log_action_target")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    raw = path.read_bytes()
    assert raw.count(b"target-3") == 1
    path.write_bytes(raw.replace(b"target-3", b"target-7"))
    status, told = _verify(settings, monkeypatch)
    assert (status, told) == (
        1,
        "Entry 4 is broken: it was changed after it was written. 3 before it are whole.\n",
    )


def test_an_end_that_was_cut_off_shows_beside_a_digest_kept_elsewhere(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fill() -> str:
        database = Database(settings)
        for number in range(3):
            await Audit(database).tell(deed("anna", "key.create", f"k{number}"))
        found = await Audit(database).verify()
        await database.dispose()
        return found.head.hex()

    head = asyncio.run(fill())
    assert _verify(settings, monkeypatch, "--head", head, "--entries", "3")[0] == 0
    assert _verify(settings, monkeypatch, "--head", head, "--entries", "2")[0] == 1
    with sqlite3.connect(tmp_path / "audit.db") as connection:
        connection.execute("DROP TRIGGER audit_log_no_delete")
        connection.execute("DELETE FROM audit_log WHERE id = 3")
    assert _verify(settings, monkeypatch)[0] == 0
    assert _verify(settings, monkeypatch, "--head", head)[0] == 1
    assert _verify(settings, monkeypatch, "--entries", "3")[0] == 1
