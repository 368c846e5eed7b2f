"""Reading and writing verdicts. Functions take an open transaction; committing is the caller's."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, Select, case, false, func, insert, or_, select, true, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from llmobs.by_identity import ByIdentity
from llmobs.domain.access import View
from llmobs.domain.record import CoverageEntry, EvidenceEntry, Record
from llmobs.domain.rerun import Decided
from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind
from llmobs.store.database import to_json, without_nul
from llmobs.store.tables import detection_logs, erased_subjects, feedback, idempotency_keys, system_metrics
from llmobs.store.tenancy import visible

COLUMNS = tuple(column.name for column in detection_logs.columns if column.name != "id")
STANDS = """(given.subject_key IS NULL OR NOT EXISTS (SELECT 1 FROM erased_subjects AS gone
WHERE gone.subject_key = given.subject_key AND gone.erased_at >= given.created_at
AND (gone.client_id IS NULL OR gone.client_id = given.client_id)))"""
"""Condition on rows that are about to be written: nobody has erased their person since they were made.

They may have waited in a spool, or been under way, while that happened.
"""
CURSOR = re.compile(r"[1-9][0-9]{0,17}")
MOST_LATE = 1000
"""Verdicts out of a spool that a page names one by one."""
TIERS = (1, 2, 3)
_EVIDENCE = tuple[EvidenceEntry, ...]
_COVERAGE = tuple[CoverageEntry, ...]


class LoggedRecord(Record, frozen=True, kw_only=True):
    """A record as read back, with its place in the log."""

    id: int


class RuleHits(msgspec.Struct, frozen=True, kw_only=True):
    """In how many verdicts a rule gave evidence."""

    rule: str
    verdicts: int
    judged: int
    """Those that feedback speaks about."""
    right: int
    """Those of which feedback says that the text was of the rule's class."""


class DecidedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a recorded verdict was decided, without its text."""

    id: int
    request_id: str
    created_at: datetime
    policy_version: int
    decided: Decided


MOST_SHARED = 1_000
"""Repeated verdicts of which the JSON is at hand."""
_shared: ByIdentity[tuple[tuple[EvidenceEntry, ...], dict[str, float], tuple[str, str, str]]] = ByIdentity(
    MOST_SHARED
)
"""By the coverage: the evidence and the scores beside it, and the JSON of all three. No record is held, for it has a text."""
SEARCH_ROWS = 2_000
"""Rows whose texts one statement of a search looks through."""


class LogFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which verdicts; what is None does not matter."""

    action: Action | None = None
    failure_class: str | None = None
    tier_used: int | None = None
    blocked: bool | None = None
    kind: Kind | None = None
    since: datetime | None = None
    """Inclusive."""
    until: datetime | None = None
    """Exclusive."""
    request_id: str | None = None
    client_id: str | None = None
    text: str | None = None
    """Occurs in the text as it is stored, whatever the case of its letters."""


class TierCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Recorded verdicts, in all and by the highest tier used."""

    total: int
    tier1: int
    tier2: int
    tier3: int


@lru_cache(maxsize=2)
def _insert_statement(dialect: str) -> str:
    """The insert in the driver's own style, one parameter tuple a row.

    SQLAlchemy's work on each row would cost more than the rest of the request.
    """
    names = ", ".join(COLUMNS)
    if dialect == "postgresql":
        values = ", ".join(f"${n}" for n in range(1, len(COLUMNS) + 1))
    else:
        values = ", ".join("?" * len(COLUMNS))
    return f"INSERT INTO detection_logs ({names}) VALUES ({values}) ON CONFLICT (request_id) DO NOTHING"  # noqa: S608  # our own column names


def row_of(record: Record, *, postgres: bool) -> tuple[Any, ...]:
    """The values of COLUMNS as the driver takes them."""
    created = record.created_at
    if created.tzinfo is not UTC:
        created = created.astimezone(UTC)
    return (
        record.request_id,
        created if postgres else created.isoformat(" ", "microseconds")[:-6],  # less "+00:00"
        without_nul(record.llm_response),
        None if record.context is None else to_json(record.context),
        record.kind.value,
        record.action.value,
        record.blocked,
        record.tier_used,
        record.method,
        record.confidence,
        record.processing_time_ms,
        record.failure_class,
        None if record.severity is None else record.severity.value,
        record.explanation,
        *_written(record),
        record.degraded,
        record.policy_id,
        record.policy_version,
        record.client_id,
        record.subject_key,
    )


def _written(record: Record) -> tuple[str, str, str]:
    """Scores, evidence and coverage as JSON. Records of a repeated text share them, and they are written once."""
    known = _shared.get(record.coverage)
    if known is not None and known[0] is record.evidence and known[1] is record.scores:
        return known[2]
    texts = to_json(record.scores), to_json(record.evidence), to_json(record.coverage)
    if any(entry.cached for entry in record.coverage):
        _shared.put(record.coverage, (record.evidence, record.scores, texts))
    return texts


async def insert_records(connection: AsyncConnection, records: Sequence[Record]) -> dict[str, str]:
    """Write records; one that is there already is left as it is.

    Answers, for each record whose idempotency key had been taken, its request id and the id of
    the request that took it; those records are not written.
    """
    standing = await _standing(connection, records)
    lost = await _claim_keys(connection, [r for r in standing if r.idempotency_key is not None])
    rows = [r for r in standing if r.request_id not in lost]
    if rows:
        dialect = connection.dialect.name
        postgres = dialect == "postgresql"
        await connection.exec_driver_sql(
            _insert_statement(dialect), [row_of(record, postgres=postgres) for record in rows]
        )
    return lost


async def _standing(connection: AsyncConnection, records: Sequence[Record]) -> Sequence[Record]:
    """Those whose person nobody has erased since they were made: what STANDS says, where keys come first."""
    named = {record.subject_key for record in records if record.subject_key is not None}
    if not named:
        return records
    gone = erased_subjects.c
    found = await connection.execute(
        select(gone.subject_key, gone.client_id, gone.erased_at).where(gone.subject_key.in_(named))
    )
    erased = [tuple(row) for row in found]
    return [
        record
        for record in records
        if not any(
            key == record.subject_key and client in {None, record.client_id} and at >= record.created_at
            for key, client, at in erased
        )
    ]


async def _claim_keys(connection: AsyncConnection, records: Sequence[Record]) -> dict[str, str]:
    if not records:
        return {}
    first: dict[tuple[str, str], Record] = {}
    for record in records:
        first.setdefault((record.client_id or "", record.idempotency_key or ""), record)
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    await connection.execute(
        make(idempotency_keys).on_conflict_do_nothing(),
        [
            {
                "client_id": client,
                "key": key,
                "body_sha256": record.body_sha256 or b"",
                "request_id": record.request_id,
                "created_at": record.created_at,
            }
            for (client, key), record in sorted(first.items())  # one order for all keeps deadlocks away
        ],
    )
    keys = idempotency_keys.c
    found = await connection.execute(
        select(keys.client_id, keys.key, keys.request_id).where(
            tuple_(keys.client_id, keys.key).in_(list(first))
        )
    )
    winners = {(row.client_id, row.key): row.request_id for row in found}
    lost = {}
    for record in records:
        winner = winners[record.client_id or "", record.idempotency_key or ""]
        if winner != record.request_id:
            lost[record.request_id] = winner
    return lost


async def by_idempotency_key(
    connection: AsyncConnection, client_id: str | None, key: str
) -> LoggedRecord | None:
    """The verdict that a key got first, with the digest of the body that came with it."""
    keys = idempotency_keys.c
    found = await connection.execute(
        select(detection_logs, keys.body_sha256)
        .join(idempotency_keys, keys.request_id == detection_logs.c.request_id)
        .where(keys.client_id == (client_id or ""), keys.key == key)
    )
    row = found.one_or_none()
    return None if row is None else _logged(row, body_sha256=bytes(row.body_sha256))


async def recent(connection: AsyncConnection, view: View, limit: int) -> list[LoggedRecord]:
    """The newest verdicts, newest first."""
    query = visible(select(detection_logs), detection_logs, view)
    found = await connection.execute(query.order_by(detection_logs.c.id.desc()).limit(limit))
    return [_logged(row) for row in found]


async def page(
    connection: AsyncConnection, view: View, filters: LogFilter, before_id: int | None, limit: int
) -> list[LoggedRecord]:
    """Verdicts that match, newest first, from below `before_id` on."""
    columns = detection_logs.c
    query = visible(_filtered(select(detection_logs), filters), detection_logs, view)
    query = query.order_by(columns.id.desc()).limit(limit)
    if before_id is not None:
        query = query.where(columns.id < before_id)
    if filters.until is not None:
        query = query.where(await _begun_before(connection, view, filters.until, before_id))
    return [_logged(row) for row in await connection.execute(query)]


async def search(
    connection: AsyncConnection, view: View, filters: LogFilter, before_id: int | None, limit: int
) -> tuple[list[LoggedRecord], int | None]:
    """Verdicts that match and hold the text, newest first, of the newest SEARCH_ROWS that match; where to go on.

    That is the id below which nothing has been looked at, None when all has: a rare word never makes the
    database walk through the whole table at once.
    """
    columns = detection_logs.c
    query = visible(_filtered(select(columns.id, columns.llm_response), filters), detection_logs, view)
    if before_id is not None:
        query = query.where(columns.id < before_id)
    if filters.until is not None:
        query = query.where(await _begun_before(connection, view, filters.until, before_id))
    window = query.order_by(columns.id.desc()).limit(SEARCH_ROWS).subquery()
    holds = window.c.llm_response.icontains(without_nul(filters.text or ""), autoescape=True)
    ids = (
        (await connection.execute(select(window.c.id).where(holds).order_by(window.c.id.desc()).limit(limit)))
        .scalars()
        .all()
    )
    looked_at, lowest = (
        await connection.execute(select(func.count(window.c.id), func.min(window.c.id)))
    ).one()
    found: list[LoggedRecord] = []
    if ids:
        rows = visible(select(detection_logs).where(columns.id.in_(ids)), detection_logs, view)
        found = [_logged(row) for row in await connection.execute(rows.order_by(columns.id.desc()))]
    if len(ids) == limit:
        return found, ids[-1]
    return found, lowest if looked_at == SEARCH_ROWS else None


async def decided(
    connection: AsyncConnection, view: View, policy_id: str, between: tuple[int, int], limit: int
) -> list[DecidedRecord]:
    """How the policy's newest verdicts were decided, newest first, of ids between the two (exclusive)."""
    columns = detection_logs.c
    after_id, before_id = between
    query = visible(
        select(
            columns.id,
            columns.request_id,
            columns.created_at,
            columns.policy_version,
            columns.action,
            columns.failure_class,
            columns.scores,
            columns.evidence,
            columns.coverage,
            columns.degraded,
        ).where(columns.id < before_id, columns.id > after_id, columns.policy_id == policy_id),
        detection_logs,
        view,
    )
    found = await connection.execute(query.order_by(columns.id.desc()).limit(limit))
    return [
        DecidedRecord(
            id=row.id,
            request_id=row.request_id,
            created_at=row.created_at,
            policy_version=row.policy_version,
            decided=Decided(
                action=Action(row.action),
                failure_class=row.failure_class,
                scores=row.scores,
                evidence=msgspec.convert(row.evidence, _EVIDENCE),
                coverage=msgspec.convert(row.coverage, _COVERAGE),
                degraded=row.degraded,
            ),
        )
        for row in found
    ]


async def rule_hits(connection: AsyncConnection, view: View, limit: int) -> tuple[int, list[RuleHits]]:
    """How many of the newest `limit` verdicts there are, and in how many of them each rule gave evidence.

    The rows are found by id and read once.
    """
    columns = detection_logs.c
    newest = (
        visible(select(columns.id, columns.request_id, columns.evidence), detection_logs, view)
        .order_by(columns.id.desc())
        .limit(limit)
        .subquery()
    )
    searched = await connection.scalar(select(func.count()).select_from(newest)) or 0
    pieces: Any
    if connection.dialect.name == "postgresql":
        pieces = func.jsonb_array_elements(newest.c.evidence).table_valued("value")
        source, named = (pieces.c.value.op("->>")(name) for name in ("source", "failure_class"))
    else:
        pieces = func.json_each(newest.c.evidence).table_valued("value")
        source, named = (
            func.json_extract(pieces.c.value, "$." + name) for name in ("source", "failure_class")
        )
    each = (
        select(newest.c.request_id, source.label("source"), named.label("failure_class"))
        .select_from(newest.join(pieces, true()))
        .where(source.like("rule:%"))
        .distinct()
        .subquery()
    )
    query = (
        select(
            each.c.source,
            func.count(),
            func.count(feedback.c.request_id),
            func.sum(case((feedback.c.true_class == each.c.failure_class, 1), else_=0)),
        )
        .select_from(each.outerjoin(feedback, feedback.c.request_id == each.c.request_id))
        .group_by(each.c.source)
        .order_by(func.count().desc(), each.c.source)
    )
    rows = await connection.execute(query)
    return searched, [
        RuleHits(rule=rule.removeprefix("rule:"), verdicts=verdicts, judged=judged, right=int(right))
        for rule, verdicts, judged, right in rows
    ]


async def newest_id(connection: AsyncConnection) -> int:
    """The highest id given to a verdict that is still there, 0 where there is none."""
    return await connection.scalar(select(func.max(detection_logs.c.id))) or 0


async def _begun_before(
    connection: AsyncConnection, view: View, until: datetime, before_id: int | None
) -> ColumnElement[bool]:
    """Where the walk from the newest row down may begin for rows made before a time.

    Without it, it would pass all rows made since. Ids rise with time but for what came late out of a spool: those
    few are named one by one.
    """
    columns = detection_logs.c
    made_before = columns.created_at < _in_utc(until)
    # Anybody's: a place in the log, of which nothing is shown. One's own might be far away.
    newest = select(columns.id).where(made_before).order_by(columns.created_at.desc()).limit(1)
    bound = await connection.scalar(newest)
    if bound is None:
        return false()
    if before_id is not None and before_id <= bound:
        return true()
    late = visible(select(columns.id).where(made_before, columns.id > bound), detection_logs, view)
    late = late.limit(MOST_LATE + 1)
    ids = [row[0] for row in await connection.execute(late)]
    if len(ids) > MOST_LATE:
        return true()
    return or_(columns.id <= bound, columns.id.in_(ids)) if ids else columns.id <= bound


def cursor_of(row_id: int) -> str:
    """The cursor for what comes after a row."""
    return str(row_id)


def id_of(cursor: str) -> int:
    """The row id behind a cursor; ValueError when it cannot be one of ours."""
    if not CURSOR.fullmatch(cursor):
        raise ValueError("not a cursor of ours")
    return int(cursor)


def _filtered(query: Select[Any], filters: LogFilter) -> Select[Any]:
    columns = detection_logs.c
    if filters.tier_used is not None and filters.tier_used not in TIERS:
        return query.where(false())  # the number may be larger than the column can be compared with
    for name in ("action", "failure_class", "tier_used", "blocked", "kind", "request_id", "client_id"):
        wanted = getattr(filters, name)
        if wanted is not None:
            query = query.where(columns[name] == (without_nul(wanted) if isinstance(wanted, str) else wanted))
    if filters.since is not None:
        query = query.where(columns.created_at >= _in_utc(filters.since))
    if filters.until is not None:
        query = query.where(columns.created_at < _in_utc(filters.until))
    return query


def _in_utc(when: datetime) -> datetime:
    """The time in UTC, at most a day off where the calendar ends."""
    try:
        return when.astimezone(UTC)
    except OverflowError:
        return when.replace(tzinfo=UTC)


def _logged(row: Row[Any], body_sha256: bytes | None = None) -> LoggedRecord:
    values = row._mapping  # noqa: SLF001  # SQLAlchemy's documented name for it
    kept = {name: values[name] for name in ("id", *COLUMNS)}
    kept["evidence"] = msgspec.convert(kept["evidence"], _EVIDENCE)
    kept["coverage"] = msgspec.convert(kept["coverage"], _COVERAGE)
    kept["action"] = Action(kept["action"])
    kept["kind"] = Kind(kept["kind"])
    return LoggedRecord(**kept, body_sha256=body_sha256)


async def counts(connection: AsyncConnection, view: View) -> TierCounts:
    """Verdicts by tier: all of them in one pass over one index."""
    tier = detection_logs.c.tier_used
    rows = await connection.execute(visible(select(tier, func.count()).group_by(tier), detection_logs, view))
    found: dict[int, int] = {row[0]: row[1] for row in rows}
    return TierCounts(
        total=sum(found.values()), tier1=found.get(1, 0), tier2=found.get(2, 0), tier3=found.get(3, 0)
    )


async def insert_snapshot(
    connection: AsyncConnection, at: datetime, figures: TierCounts, *, is_healthy: bool, message: str
) -> None:
    """Write the figures of a moment."""
    total = figures.total or 1
    await connection.execute(
        insert(system_metrics).values(
            recorded_at=at,
            total_detections=figures.total,
            tier1_count=figures.tier1,
            tier2_count=figures.tier2,
            tier3_count=figures.tier3,
            tier1_pct=100 * figures.tier1 / total,
            tier2_pct=100 * figures.tier2 / total,
            tier3_pct=100 * figures.tier3 / total,
            is_healthy=is_healthy,
            health_message=message,
        )
    )
