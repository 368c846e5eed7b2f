"""All that is kept of a person goes, nothing of it comes back, and nobody else loses anything."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from support.store import make_record

from llmobs.access.persons import PersonKeys
from llmobs.domain.access import EVERYTHING, View
from llmobs.domain.feedback import Opinion
from llmobs.domain.record import Record
from llmobs.settings import Settings
from llmobs.store import erasure, judgements
from llmobs.store.audit import Audit
from llmobs.store.backlog import Backlog
from llmobs.store.database import Database
from llmobs.store.erasure import PERSON_BEGUN, PERSON_DONE, ErasedPerson, Erasure
from llmobs.store.feedback import Opinions
from llmobs.store.records import insert_records
from llmobs.store.spool import Spool
from llmobs.store.tables import detection_logs, feedback, idempotency_keys
from llmobs.store.tables import judgements as judgement_rows
from llmobs.store.writer import writer_for

PERSONS = PersonKeys("a pepper that only this test knows, long")
ANN, BOB = PERSONS.key_of("ann@example.com"), PERSONS.key_of("bob@example.com")
TABLES = (detection_logs, feedback, idempotency_keys, judgement_rows)


@pytest.fixture
def database(settings: Settings) -> Database:
    return Database(settings)


async def _keep(database: Database, *records: Record) -> None:
    async with database.transaction() as connection:
        await insert_records(connection, records)
    for record in records:
        await Opinions(database).keep(
            Opinion(
                request_id=record.request_id,
                client_id=record.client_id,
                created_at=record.created_at,
                given_by="key:abc",
                correct=True,
                true_class=None,
                note="",
                action=record.action,
                failure_class=record.failure_class,
            )
        )


async def _rows(database: Database) -> tuple[int, ...]:
    async with database.transaction() as connection:
        return tuple([await connection.scalar(select(func.count()).select_from(t)) or 0 for t in TABLES])


async def _whose(database: Database) -> list[str | None]:
    async with database.transaction() as connection:
        found = await connection.execute(select(detection_logs.c.subject_key).order_by(detection_logs.c.id))
        return [row[0] for row in found]


def _of(person: str | None, number: int = 0, **more: object) -> Record:
    key = f"{person}-{number}"
    return make_record(subject_key=person, idempotency_key=key, body_sha256=b"b", **more)


async def test_all_of_a_person_goes_and_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "ROWS", 3)  # several transactions
    await _keep(database, *[_of(ANN, n) for n in range(7)], _of(BOB), _of(None))
    later = datetime.now(UTC) + timedelta(hours=1)
    async with database.transaction() as connection:
        for key, person in (("a", ANN), ("b", BOB), ("c", None)):
            await judgements.put(connection, key, b"x", later, person)
    assert await _rows(database) == (9, 9, 9, 3)
    counted: list[tuple[str, tuple[str, ...], float]] = []
    gone = await Erasure(database, lambda *told: counted.append(told)).of_person(
        EVERYTHING, ANN, by="key:abc"
    )
    assert gone == ErasedPerson(verdicts=7, feedback=7, idempotency_keys=7, judgements=1)
    assert await _whose(database) == [BOB, None]
    assert await _rows(database) == (2, 2, 2, 2)
    assert sorted(counted) == [
        ("rows_deleted", ("feedback", "erasure"), 7),
        ("rows_deleted", ("idempotency_keys", "erasure"), 7),
        ("rows_deleted", ("judgements", "erasure"), 1),
        ("rows_deleted", ("verdicts", "erasure"), 7),
    ]
    entries, _ = await Audit(database).page(None, 10)
    assert [(e.actor, e.action, e.target) for e in entries] == [
        ("key:abc", PERSON_DONE, ANN),
        ("key:abc", PERSON_BEGUN, ANN),
    ]
    assert entries[0].details == '{"feedback":7,"idempotency_keys":7,"judgements":1,"verdicts":7}'
    assert (await Audit(database).verify()).broken_at is None
    await database.dispose()


async def test_feedback_goes_whose_verdict_is_gone_already(database: Database) -> None:
    await _keep(database, _of(ANN), _of(BOB))
    async with database.transaction() as connection:
        await connection.execute(detection_logs.delete())
    assert (await Erasure(database).of_person(EVERYTHING, ANN, by="x")).feedback == 1
    assert (await _rows(database))[1] == 1
    await database.dispose()


async def test_only_rows_that_the_view_shows_go(database: Database) -> None:
    await _keep(database, _of(ANN, client_id="ours"), _of(ANN, client_id="theirs"))
    gone = await Erasure(database).of_person(View(clients=frozenset({"ours"})), ANN, by="x")
    assert (gone.verdicts, gone.feedback) == (1, 1)
    made_before = datetime.now(UTC) - timedelta(hours=1)
    writer = writer_for(database)
    waiting = [
        make_record(subject_key=ANN, client_id=client, created_at=made_before)
        for client in ("ours", "theirs")
    ]
    await writer.write(waiting)
    async with database.transaction() as connection:
        clients = [row[0] for row in await connection.execute(select(detection_logs.c.client_id))]
    assert clients == ["theirs", "theirs"]
    await writer.close()
    await database.dispose()


@pytest.mark.parametrize("rows", [1, 200])
async def test_what_was_made_before_is_not_written_after(database: Database, rows: int) -> None:
    """The journal's way; 200 rows are several statements."""
    await Erasure(database).of_person(EVERYTHING, ANN, by="x")
    writer = writer_for(database)
    before, after = datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC)
    await writer.write([make_record(subject_key=ANN, created_at=before) for _ in range(rows)])
    assert await _whose(database) == []
    mixed = [
        make_record(subject_key=person, created_at=at)
        for person, at in ((ANN, before), (BOB, before), (None, before), (ANN, after))
    ]
    await writer.write(mixed)
    assert await _whose(database) == [BOB, None, ANN]
    await writer.write([make_record(subject_key=None, created_at=before)])
    assert await _whose(database) == [BOB, None, ANN, None]
    await writer.close()
    await database.dispose()


async def test_nor_with_an_idempotency_key_and_the_key_stays_free(database: Database) -> None:
    await Erasure(database).of_person(EVERYTHING, ANN, by="x")
    before = datetime.now(UTC) - timedelta(minutes=5)
    async with database.transaction() as connection:
        assert await insert_records(connection, [_of(ANN, created_at=before), _of(BOB)]) == {}
    assert await _rows(database) == (1, 0, 1, 0)
    await database.dispose()


async def test_a_spool_drained_after_the_erasure_brings_nothing_back(
    database: Database, tmp_path: Path
) -> None:
    before = datetime.now(UTC) - timedelta(minutes=5)
    people = [ANN, BOB, None] * 40
    writer = writer_for(database)
    backlog = Backlog(Spool(tmp_path / "spool", 1 << 20), writer.write)
    await backlog.append([make_record(subject_key=person, created_at=before) for person in people])
    assert (await Erasure(database).of_person(EVERYTHING, ANN, by="x")).verdicts == 0
    await backlog.drain()
    assert backlog.size == 0
    assert await _whose(database) == [person for person in people if person != ANN]
    await backlog.close()
    await writer.close()
    await database.dispose()


async def test_what_slipped_in_or_was_cut_off_is_finished_by_whoever_serves(database: Database) -> None:
    erasing = Erasure(database)
    await erasing.of_person(EVERYTHING, ANN, by="x")
    seen = await erasing.since(None)
    assert [one.subject_key for one in seen] == [ANN]
    assert await erasing.since(seen[-1].id) == []
    async with database.transaction() as connection:  # past the condition, as a statement begun earlier would
        row = make_record(subject_key=ANN, created_at=seen[-1].erased_at - timedelta(milliseconds=1))
        await connection.execute(
            detection_logs.insert().values(
                {
                    column.name: getattr(row, column.name)
                    for column in detection_logs.columns
                    if column.name not in {"id", "evidence", "coverage"}
                }
                | {"evidence": [], "coverage": []}
            )
        )
    assert await _whose(database) == [ANN]
    assert (await erasing.finish(seen[-1]))["verdicts"] == 1
    assert await _whose(database) == []
    await database.dispose()
