"""Allowances in the database, so that all workers and replicas count together: one statement an ask."""

import time
from functools import lru_cache

from sqlalchemy import TextClause, text

from llmobs.domain.allowance import AHEAD_SHARE, BURST, HOUR, Ask, Grant, Window, settle
from llmobs.store.database import Database, retried


class DatabaseAllowances:
    """Keeps windows in `rate_windows`. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_postgres = database.engine.dialect.name == "postgresql"

    @retried
    async def take(self, ask: Ask) -> Grant:
        """Give what is left, as `settle` says; the row's lock keeps two who ask apart."""
        # The database's clock, where it has one that all replicas share.
        now = 0 if self._is_postgres else time.time_ns() // 1000
        fresh = settle(None, ask, now)
        values = {
            "client": ask.client_id,
            "meter": ask.meter.value,
            "allowed": ask.allowed,
            "burst": ask.burst,
            "wanted": ask.wanted,
            "ahead": ask.ahead,
            "returned": ask.returned,
            "started": ask.started_at,
            "burst_at": ask.burst_at,
            "fresh": fresh.granted,
        }
        if not self._is_postgres:
            values["now"] = now
        async with self._database.transaction() as connection:
            row = (await connection.execute(_statement(postgres=self._is_postgres), values)).one()
        window = Window(
            started_at=row.started_at, used=row.used, burst_at=row.burst_at, burst_used=row.burst_used
        )
        return Grant(granted=row.granted, window=window, now=row.moment)

    async def close(self) -> None:
        """Nothing of its own to close."""


@lru_cache(maxsize=2)
def _statement(*, postgres: bool) -> TextClause:
    """`settle` in SQL. A name in an ON CONFLICT clause is the row as it was before."""
    least, most = ("LEAST", "GREATEST") if postgres else ("MIN", "MAX")

    def given(name: str) -> str:
        return f"CAST(:{name} AS BIGINT)"

    # The transaction's time, so that the whole statement sees one.
    now = "CAST(EXTRACT(EPOCH FROM now()) * 1000000 AS BIGINT)" if postgres else given("now")
    old = "rate_windows."
    hour_over = f"{old}started_at + {HOUR} <= {now}"
    burst_over = f"{old}burst_at + {BURST} <= {now}"
    mine = f"CASE WHEN {old}started_at = {given('started')} THEN {given('returned')} ELSE 0 END"
    mine_burst = f"CASE WHEN {old}burst_at = {given('burst_at')} THEN {given('returned')} ELSE 0 END"
    used = f"(CASE WHEN {hour_over} THEN 0 ELSE {most}(0, {old}used - {mine}) END)"
    burst_used = f"(CASE WHEN {burst_over} THEN 0 ELSE {most}(0, {old}burst_used - {mine_burst}) END)"
    left = f"{most}(0, {least}({given('allowed')} - {used}, {given('burst')} - {burst_used}))"
    granted = (
        f"({least}({given('wanted')}, {left}) + "
        f"{least}({given('ahead')}, {most}(0, {left} - {given('wanted')}) / {AHEAD_SHARE}))"
    )
    fresh = given("fresh")
    return text(
        "INSERT INTO rate_windows (client_id, meter, started_at, used, burst_at, burst_used, granted) "  # noqa: S608  # made of the constants above
        f"VALUES (:client, :meter, {now}, {fresh}, {now}, {fresh}, {fresh}) "
        "ON CONFLICT (client_id, meter) DO UPDATE SET "
        f"started_at = CASE WHEN {hour_over} THEN {now} ELSE {old}started_at END, "
        f"used = {used} + {granted}, "
        f"burst_at = CASE WHEN {burst_over} THEN {now} ELSE {old}burst_at END, "
        f"burst_used = {burst_used} + {granted}, "
        f"granted = {granted} "
        f"RETURNING granted, used, started_at, burst_used, burst_at, {now} AS moment"
    )
