"""What is too old goes, class by class, while others read and write."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from sqlalchemy import func, insert, select
from support.store import make_record

from llmobs.domain.record import Record
from llmobs.errors import SettingsInvalid
from llmobs.settings import Settings
from llmobs.store import retention
from llmobs.store.database import Database
from llmobs.store.records import insert_records
from llmobs.store.retention import Periods, Retention, periods_from
from llmobs.store.tables import detection_logs, erased_subjects, feedback, idempotency_keys
from llmobs.store.writer import writer_for

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(settings: Settings) -> Database:
    return Database(settings)


def _aged(days: float, name: str | None, key: str | None = None) -> Record:
    return make_record(
        created_at=NOW - timedelta(days=days),
        failure_class=name,
        idempotency_key=key,
        body_sha256=None if key is None else b"b",
    )


async def _write(database: Database, *records: Record) -> None:
    async with database.transaction() as connection:
        await insert_records(connection, records)


async def _left(database: Database) -> list[tuple[str | None, int]]:
    """Class and age in days of the verdicts that are left."""
    logs = detection_logs.c
    async with database.transaction() as connection:
        found = await connection.execute(select(logs.failure_class, logs.created_at).order_by(logs.id))
        return [(name, (NOW - at).days) for name, at in found]


AGES = (3, 10, 40, 100, 400)
NAMES = (None, "pii_leak", "toxicity", "bias")


@pytest.mark.parametrize(
    ("days", "by_class", "kept"),
    [
        (90, {}, dict.fromkeys(NAMES, (3, 10, 40))),
        (0, {}, dict.fromkeys(NAMES, AGES)),
        (90, {"pii_leak": 7, "none": 30, "bias": 0}, {None: (3, 10), "pii_leak": (3,), "toxicity": (3, 10, 40)}),
        (30, {"toxicity": 365}, {None: (3, 10), "pii_leak": (3, 10), "toxicity": (3, 10, 40, 100), "bias": (3, 10)}),
        (0, {"none": 5}, {None: (3,)}),
    ],
)  # fmt: skip
async def test_each_class_has_its_time(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    by_class: dict[str, int],
    kept: dict[str | None, tuple[int, ...]],
) -> None:
    monkeypatch.setattr(retention, "ROWS", 2)  # several transactions
    monkeypatch.setattr(retention, "LEAST_PAUSE", 0)
    await _write(database, *[_aged(age + 0.5, name) for name in NAMES for age in AGES])
    counted: list[tuple[tuple[str, ...], float]] = []
    sweeping = Retention(
        database,
        Periods(verdicts=days, by_class=by_class, feedback=0),
        lambda name, attributes, rows: counted.append((attributes, rows)),
    )
    gone = await sweeping.sweep(NOW)
    expected = [(name, age) for name in NAMES for age in kept.get(name, AGES)]
    assert await _left(database) == expected
    deleted = len(NAMES) * len(AGES) - len(expected)
    assert gone == ({"verdicts": deleted} if deleted else {})
    assert sum(rows for _, rows in counted) == deleted
    assert {attributes for attributes, _ in counted} <= {("verdicts", "retention")}
    assert await sweeping.sweep(NOW) == {}
    await database.dispose()


async def test_keys_go_with_their_verdicts_and_feedback_in_its_own_time(database: Database) -> None:
    verdicts = [_aged(days, "bias", f"k{days}") for days in (5, 50, 500)]
    await _write(database, *verdicts)
    values: list[dict[str, Any]] = [
        {
            "request_id": verdict.request_id,
            "created_at": verdict.created_at,
            "given_by": "x",
            "correct": True,
            "note": "",
            "action": "warn",
        }
        for verdict in verdicts
    ]
    async with database.transaction() as connection:
        await connection.execute(insert(feedback), values)
        await connection.execute(
            insert(erased_subjects),
            [{"subject_key": "a", "erased_at": NOW - timedelta(days=days)} for days in (50, 500)],
        )
    gone = await Retention(database, Periods(verdicts=30, by_class={}, feedback=365)).sweep(NOW)
    assert gone == {"verdicts": 2, "idempotency_keys": 2, "feedback": 1, "erased_subjects": 1}
    async with database.transaction() as connection:
        assert list((await connection.execute(select(idempotency_keys.c.key))).scalars()) == ["k5"]
        assert await connection.scalar(select(func.count()).select_from(feedback)) == 2
    await database.dispose()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_a_sweep_locks_no_table_and_two_share_the_work(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it deletes, others write, and no lock is held that any of them would wait for."""
    monkeypatch.setattr(retention, "ROWS", 100)
    monkeypatch.setattr(retention, "LEAST_PAUSE", 0)
    await _write(database, *[_aged(200, None) for _ in range(6000)])
    writer, other = writer_for(database), Database(settings)
    periods = Periods(verdicts=90, by_class={}, feedback=0)
    sweeps = [asyncio.create_task(Retention(each, periods).sweep(NOW)) for each in (database, other)]
    watcher = await asyncpg.connect(settings.database_url)
    seen: set[str] = set()
    written = 0
    while not all(task.done() for task in sweeps):
        await writer.write([_aged(1, "bias")])
        written += 1
        query = (  # ours, not those of the database's own cleaners
            "SELECT mode FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'relation' AND relation = 'detection_logs'::regclass AND application_name = 'llmobs'"
        )
        seen |= {row["mode"] for row in await watcher.fetch(query)}
    gone = [task.result().get("verdicts", 0) for task in sweeps]
    assert sum(gone) == 6000
    assert all(gone), "one did all the work"
    assert "RowExclusiveLock" in seen, "never looked while it was at it"
    assert seen <= {"AccessShareLock", "RowShareLock", "RowExclusiveLock"}
    assert await _left(database) == [("bias", 1)] * written
    await watcher.close()
    await writer.close()
    await other.dispose()
    await database.dispose()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_a_sweep_finds_what_is_old_by_an_index(database: Database, settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database_url)
    await _write(database, *[_aged(n / 100, "bias" if n % 50 else "pii_leak") for n in range(5000)])
    await connection.execute("ANALYZE detection_logs")
    plan = await connection.fetch(
        "EXPLAIN SELECT id FROM detection_logs WHERE failure_class = 'pii_leak' AND created_at < $1 "
        "ORDER BY created_at LIMIT 500",
        NOW - timedelta(days=49),
    )
    assert "ix_detection_logs_failure_class_created_at" in str(plan)
    await connection.close()
    await database.dispose()


@pytest.mark.parametrize("written", ["bias", "bias=", "=3", "bias=-1", "bias=x", "bias=3,bias=4", "Bias=3"])
def test_what_is_no_period_is_refused(settings: Settings, written: str) -> None:
    with pytest.raises(SettingsInvalid, match="LLMOBS_RETENTION_CLASSES"):
        periods_from(msgspec.structs.replace(settings, retention_classes=written))


def test_periods_are_read() -> None:
    found = periods_from(Settings(retention_days=90, retention_classes=" pii_leak=7, none=30 ,"))
    assert found == Periods(verdicts=90, by_class={"pii_leak": 7, "none": 30}, feedback=365)
    assert found.longest == 365
    assert not found.all_for_ever
    for_ever = Periods(verdicts=0, by_class={}, feedback=0)
    assert for_ever.all_for_ever
    assert for_ever.longest == 0
