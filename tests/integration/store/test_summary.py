"""What came through by slices: the same counts as the rows, on both databases, remembered and fresh."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import insert
from support.postgres import Server, new_database

from llmobs.domain.access import EVERYTHING, View
from llmobs.settings import Settings
from llmobs.store.database import Database
from llmobs.store.migrate import upgrade
from llmobs.store.summary import LIMITS_MS, SLICES, Summaries, quantile_ms
from llmobs.store.tables import detection_logs

NOW = datetime(2026, 11, 23, 12, 34, 56, tzinfo=UTC)


def row(number: int, when: datetime) -> dict[str, object]:
    blocked = number % 7 == 0
    return {
        "request_id": f"r-{number}",
        "created_at": when,
        "llm_response": "text",
        "context": None,
        "kind": "response",
        "action": "block" if blocked else "allow",
        "blocked": blocked,
        "tier_used": 1 + number % 3,
        "method": "m",
        "confidence": 0.9,
        "processing_time_ms": LIMITS_MS[number % 12] * 1.5,
        "failure_class": "toxicity" if blocked else None,
        "severity": None,
        "explanation": "",
        "scores": {},
        "evidence": [],
        "coverage": [],
        "degraded": False,
        "policy_id": "default",
        "policy_version": 1,
        "client_id": "ours" if number % 2 else "theirs",
    }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("span", [timedelta(minutes=15), timedelta(days=30)])
async def test_slices_count_what_the_rows_hold(
    kind: str, span: timedelta, tmp_path: object, request: pytest.FixtureRequest
) -> None:
    server: Server | None = request.getfixturevalue("postgres") if kind == "postgresql" else None
    url = f"sqlite:///{tmp_path}/l.db" if server is None else new_database(server)
    settings = Settings(database_url=url)
    import asyncio

    await asyncio.to_thread(upgrade, settings)
    database = Database(settings)
    rows = [row(n, NOW - span * (n / 600)) for n in range(700)]
    try:
        async with database.transaction() as connection:
            await connection.execute(insert(detection_logs), rows)
        summaries = Summaries()
        async with database.transaction() as connection:
            first = await summaries.read(connection, EVERYTHING, span, NOW)
            again = await summaries.read(connection, EVERYTHING, span, NOW)
            ours = await summaries.read(connection, View(frozenset({"ours"})), span, NOW)
    finally:
        await database.dispose()
    assert len(first) == SLICES
    assert [msgspec.structs.astuple(one) for one in first] == [msgspec.structs.astuple(one) for one in again]
    width = span / SLICES
    inside = [one for one in rows if first[0].begins <= one["created_at"] < first[-1].begins + width]  # type: ignore[operator]
    wanted = Counter((one["action"], one["failure_class"], one["tier_used"]) for one in inside)
    counted: Counter[object] = Counter()
    for one in first:
        expected = sum(one.begins <= r["created_at"] < one.begins + width for r in inside)  # type: ignore[operator]
        assert abs(sum(one.groups.values()) - expected) <= 1  # a row on the edge itself
        for (action, failure_class, tier, slow), count in one.groups.items():
            counted[action, failure_class, tier] += count
            assert 1 <= slow <= 12
    assert counted == wanted
    assert sum(sum(one.groups.values()) for one in ours) == sum(r["client_id"] == "ours" for r in inside)


def test_quantiles_lie_in_their_latency_class() -> None:
    assert quantile_ms({}, 0.5) is None
    assert quantile_ms({0: 10}, 0.5) == pytest.approx(0.05)
    assert quantile_ms({3: 90, 6: 10}, 0.95) == pytest.approx(7.5)
