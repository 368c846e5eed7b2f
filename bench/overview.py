"""What the page's views cost over a long log: every statement explained, and the page's first paint.

    python bench/overview.py [--rows 1000000] [--sqlite-rows 100000] [--only postgresql] [--out bench/results/overview.json]

Fills a real database with verdicts spread over 30 days as traffic is (by hour of the day, 94 % allowed, five clients of
very unequal size), lets the service's own background work settle, and then asks what the overview, the log page (each of
its filters) and /metrics/stats ask. Each statement runs five times under EXPLAIN (ANALYZE, BUFFERS) on PostgreSQL (EXPLAIN
QUERY PLAN and a clock on SQLite); the median is shown. Then Chromium opens the overview on a service of two processes and
tells its first contentful paint and when the figures stood, of five fresh visits.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import event, text

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from report import environment, keep
from support.postgres import new_database, own_server
from support.service import Service
from support.store import Heard

from llmobs.domain.access import EVERYTHING, View
from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind
from llmobs.http.overview import SPANS
from llmobs.settings import Settings
from llmobs.store.feedback import Opinions
from llmobs.store.migrate import upgrade
from llmobs.store.records import LogFilter
from llmobs.store.store import Store
from llmobs.store.summary import Summaries

QUERY_MS = 200.0
PAINT_MS = 1000.0
RUNS = 5
BIG, SMALL = View(frozenset({"c0"})), View(frozenset({"c4"}))

COLUMNS = (
    "request_id, created_at, llm_response, context, kind, action, blocked, tier_used, method, confidence, "
    "processing_time_ms, failure_class, severity, explanation, scores, evidence, coverage, degraded, policy_id, "
    "policy_version, client_id"
)
COVERAGE = (
    '[{"tier":1,"detector":"rules","status":"ran","ms":0.41},{"tier":1,"detector":"guards","status":"ran","ms":0.05},'
    '{"tier":1,"detector":"lexical","status":"ran","ms":0.2},{"tier":2,"detector":"heads","status":"skipped",'
    '"reason":"settled"},{"tier":3,"detector":"judge","status":"skipped","reason":"not configured"}]'
)
EVIDENCE = (
    '[{"failure_class":"prompt_injection","source":"rule:prompt-injection.override","start":0,"end":32,"score":0.97,'
    '"note":"asks to ignore earlier instructions"}]'
)
SCORES = '{"prompt_injection":0.012,"toxicity":0.004,"pii_leak":0.02,"secret_leak":0.001,"bias":0.01}'
TEXT = "The library opens at nine and closes at five; on Sundays it is shut. " * 5

# r and q: two independent numbers of 0 to 9999 a row; the same spread on both databases.
_SELECT = """
SELECT '0190' || {hex} , {at}, '{text}' || n, NULL, CASE WHEN q % 5 = 0 THEN 'prompt' ELSE 'response' END,
  CASE WHEN r < 9400 THEN 'allow' WHEN r < 9600 THEN 'log' WHEN r < 9850 THEN 'warn' ELSE 'block' END,
  r >= 9850, CASE WHEN q < 9300 THEN 1 WHEN q < 9880 THEN 2 ELSE 3 END, 'rules', 0.97,
  CASE WHEN q < 9300 THEN 0.4 + (r % 100) / 90.0 WHEN q < 9880 THEN 12 + (r % 300) / 10.0 ELSE 400 + r % 900 END,
  CASE WHEN r < 9400 THEN NULL WHEN r % 20 < 9 THEN 'prompt_injection' WHEN r % 20 < 13 THEN 'pii_leak'
    WHEN r % 20 < 16 THEN 'toxicity' WHEN r % 20 < 18 THEN 'fabricated_fact' WHEN r = 9999 THEN 'tone_issue'
    ELSE 'bias' END,
  CASE WHEN r < 9400 THEN NULL ELSE 'high' END, 'Nothing found. Looked: rules.', {scores}, {evidence}, {coverage},
  {false}, 'default', 1,
  CASE WHEN q % 1000 < 700 THEN 'c0' WHEN q % 1000 < 900 THEN 'c1' WHEN q % 1000 < 980 THEN 'c2'
    WHEN q % 1000 < 999 THEN 'c3' ELSE 'c4' END
FROM (SELECT n, {random_r} AS r, {random_q} AS q FROM {series}) AS made
"""


async def fill(store: Store, rows: int) -> float:
    """Write the rows, oldest first, so that ids rise with time as they do in service. Seconds that it took."""
    started = time.perf_counter()
    ends = datetime.now(UTC).replace(microsecond=0)
    begins = ends - timedelta(days=30)
    engine = store.database.engine
    postgres = engine.dialect.name == "postgresql"
    # Denser by day than by night: a sine over the day, which keeps the order of n.
    if postgres:
        share = f"((n - 0.5) / {rows}.0)"
        days = f"(30 * {share} + 0.12 * sin(2 * pi() * 30 * {share}))"
        parts = {
            "hex": "lpad(to_hex(n), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n * 7919), 12, '0')",
            "at": f"TIMESTAMPTZ '{begins.isoformat()}' + {days} * INTERVAL '1 day'",
            "scores": f"'{SCORES}'::jsonb",
            "evidence": f"CASE WHEN r < 9400 THEN '[]'::jsonb ELSE '{EVIDENCE}'::jsonb END",
            "coverage": f"'{COVERAGE}'::jsonb",
            "false": "FALSE",
            "random_r": "(hashint8(n)::bigint & 2147483647) % 10000",
            "random_q": "(hashint8(n + 1000000007)::bigint & 2147483647) % 10000",
            "series": f"generate_series(1::bigint, {rows}) AS n",
        }
    else:
        share = f"((n - 0.5) / {rows}.0)"
        days = f"(30 * {share} + 0.12 * sin(2 * pi() * 30 * {share}))"
        julian = begins.timestamp() / 86400 + 2440587.5
        parts = {
            "hex": "printf('%08x-0000-7000-8000-%012x', n, n * 7919)",
            "at": f"strftime('%Y-%m-%d %H:%M:%f', {julian!r} + {days}) || '000'",
            "scores": f"'{SCORES}'",
            "evidence": f"CASE WHEN r < 9400 THEN '[]' ELSE '{EVIDENCE}' END",
            "coverage": f"'{COVERAGE}'",
            "false": "0",
            "random_r": "(n * 2654435761 % 4294967296) / 7 % 10000",
            "random_q": "(n * 1597334677 % 4294967296) / 11 % 10000",
            "series": f"(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) SELECT n FROM s)",
        }
    statement = f"INSERT INTO detection_logs ({COLUMNS}) " + _SELECT.format(text=TEXT, **parts)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(statement)
        await connection.exec_driver_sql(
            "INSERT INTO feedback (request_id, client_id, created_at, given_by, correct, true_class, note, action, "
            "failure_class) SELECT request_id, client_id, created_at, 'key:x', id % 3 > 0, "
            "CASE WHEN id % 3 > 0 THEN failure_class END, '', action, failure_class FROM detection_logs "
            "WHERE action IN ('warn', 'block') AND id % 5 = 0"
        )
    if postgres:
        async with engine.connect() as connection:
            plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await plain.execute(text("VACUUM ANALYZE"))  # autovacuum does so in service
    else:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("ANALYZE")
    return time.perf_counter() - started


Look = tuple[str, Callable[[], Awaitable[Any]]]


async def _slices(store: Store, view: View, span: timedelta, now: datetime) -> None:
    """As a process that has just started: it remembers no slice."""
    async with store.database.transaction() as connection:
        await Summaries().read(connection, view, span, now)


def looks(settings: Settings, store: Store) -> Iterator[Look]:
    """What the page asks, under a name. A fresh store for each overview: it remembers nothing."""
    now = datetime.now(UTC)

    def slices(span: str, view: View) -> Callable[[], Awaitable[Any]]:
        return lambda: _slices(store, view, SPANS[span], now)

    for span in SPANS:
        yield f"overview {span}", slices(span, EVERYTHING)
    yield "overview 30d, one client", slices("30d", BIG)
    yield "stats: counts", lambda: store.counts(EVERYTHING)
    yield "stats: counts, one client", lambda: store.counts(BIG)
    yield "rules: hits", lambda: store.rule_hits(EVERYTHING)
    yield "rules: hits, one client", lambda: store.rule_hits(SMALL)
    opinions = Opinions(store.database)
    yield "stats: feedback", lambda: opinions.tallies(EVERYTHING)

    def page(
        view: View = EVERYTHING, before: int | None = None, **filters: Any
    ) -> Callable[[], Awaitable[Any]]:
        return lambda: store.page(view, LogFilter(**filters), before, 50)

    yield "logs: no filter", page()
    yield "logs: page in the middle", page(before=settings_rows(settings) // 2)
    for action in Action:
        yield f"logs: action {action.value}", page(action=action)
    for name in ("prompt_injection", "bias", "tone_issue", "never_seen"):
        yield f"logs: class {name}", page(failure_class=name)
    for tier in (1, 3):
        yield f"logs: tier {tier}", page(tier_used=tier)
    yield "logs: blocked", page(blocked=True)
    yield "logs: kind prompt", page(kind=Kind.PROMPT)
    yield "logs: from a week ago", page(since=now - timedelta(days=7))
    yield "logs: until three weeks ago", page(until=now - timedelta(days=21))
    yield (
        "logs: an hour three weeks ago",
        page(since=now - timedelta(days=21), until=now - timedelta(days=21) + timedelta(hours=1)),
    )
    yield (
        "logs: blocked, two weeks ago",
        page(action=Action.BLOCK, since=now - timedelta(days=15), until=now - timedelta(days=14)),
    )
    yield (
        "logs: rare class, three weeks ago",
        page(failure_class="tone_issue", until=now - timedelta(days=21)),
    )
    yield "logs: client c4 (0.1 %)", page(client_id="c4")
    yield "logs: as client c4", page(SMALL)
    yield "logs: as client c4, blocked", page(SMALL, action=Action.BLOCK)
    yield "logs: as client c4, until three weeks ago", page(SMALL, until=now - timedelta(days=21))
    yield "logs: unknown request", page(request_id="nothing")


_ROWS: dict[str, int] = {}


def settings_rows(settings: Settings) -> int:
    return _ROWS[settings.database_url]


@contextmanager
def heard(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """The statements sent while inside."""
    told: list[tuple[str, Any]] = []

    def listen(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        told.append((statement, parameters))

    engine = store.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", listen)
    try:
        yield told
    finally:
        event.remove(engine, "before_cursor_execute", listen)


def indexes_in(plan: dict[str, Any]) -> list[str]:
    """Names of what a plan reads by, deepest last."""
    own = plan.get("Index Name") or (f"seq {plan['Relation Name']}" if "Relation Name" in plan else None)
    found = [own] if own and "Bitmap Heap" not in plan["Node Type"] else []
    for below in plan.get("Plans", ()):
        found += indexes_in(below)
    return found


async def explained(store: Store, statement: str, parameters: Any) -> dict[str, Any]:
    """One statement: median milliseconds, rows, what it read by, pages read."""
    async with store.database.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            plans = []
            for _ in range(RUNS):
                rows = await connection.exec_driver_sql(
                    "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement, parameters
                )
                found = rows.scalar_one()
                plans.append((json.loads(found) if isinstance(found, str) else found)[0])
            took = [plan["Execution Time"] + plan["Planning Time"] for plan in plans]
            root = plans[-1]["Plan"]
            return {
                "ms": round(statistics.median(took), 2),
                "slowest_ms": round(max(took), 2),
                "rows": root["Actual Rows"],
                "pages": root["Shared Hit Blocks"] + root["Shared Read Blocks"],
                "by": ", ".join(dict.fromkeys(indexes_in(root))) or "-",
            }
        took = []
        count = 0
        for _ in range(RUNS):
            started = time.perf_counter()
            count = len((await connection.exec_driver_sql(statement, parameters)).all())
            took.append(1000 * (time.perf_counter() - started))
        plan = await connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
        by = ", ".join(dict.fromkeys(row[3] for row in plan))
        return {
            "ms": round(statistics.median(took), 2),
            "slowest_ms": round(max(took), 2),
            "rows": count,
            "pages": None,
            "by": by,
        }


async def measured(settings: Settings, rows: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    _ROWS[settings.database_url] = rows
    found: list[dict[str, Any]] = []
    async with Store(settings, Heard()) as store:
        filled = await fill(store, rows)
        started = time.perf_counter()
        await store.roll(datetime.now(UTC))
        rolled = time.perf_counter() - started
        for name, look in looks(settings, store):
            with heard(store) as told:
                await look()
            for statement, parameters in told:
                if statement.lstrip().upper().startswith(("SELECT", "WITH")):
                    found.append({"view": name, **await explained(store, statement, parameters)})
    return found, {"fill_s": round(filled, 1), "roll_s": round(rolled, 1)}


def painted(url: str, folder: Path) -> list[dict[str, float]]:
    """Five fresh visits of the overview of a month, by a service of two processes."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # only where there is a browser

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    service = Service(folder, url, {"LLMOBS_SNAPSHOT_SECONDS": "0", "API_WORKERS": "2"})
    found = []
    try:
        service.start()
        with sync_playwright() as started:
            browser = started.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            for _ in range(RUNS):
                context = browser.new_context()
                page = context.new_page()
                begun = time.perf_counter()
                page.goto(f"http://127.0.0.1:{service.port}/ui#/overview?span=30d")
                page.locator(".tiles").wait_for(timeout=60_000)
                stood = 1000 * (time.perf_counter() - begun)
                paint = page.evaluate(
                    "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"
                )
                found.append({"first_contentful_paint_ms": round(paint, 1), "figures_ms": round(stood, 1)})
                context.close()
            browser.close()
    finally:
        service.kill()
    return found


def shown(
    name: str, rows: int, found: list[dict[str, Any]], paints: list[dict[str, float]], more: dict[str, float]
) -> None:
    table = Table(
        "view", "ms", "slowest", "rows", "pages", "read by", title=f"{name}, {rows:,} rows ({more})"
    )
    for one in found:
        table.add_row(
            one["view"],
            f"{one['ms']:.1f}",
            f"{one['slowest_ms']:.1f}",
            str(one["rows"]),
            str(one["pages"]),
            one["by"],
        )
    console = Console(width=190)
    console.print(table)
    slow = [one for one in found if one["ms"] >= QUERY_MS]
    console.print(
        f"slowest statement {max(one['ms'] for one in found):.1f} ms; {len(slow)} of {len(found)} not under {QUERY_MS:g} ms"
    )
    for what in ("first_contentful_paint_ms", "figures_ms"):
        values = [one[what] for one in paints]
        if values:
            console.print(
                f"{what}: median {statistics.median(values):.0f}, slowest {max(values):.0f} (bar {PAINT_MS:g})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sqlite-rows", type=int, default=100_000)
    parser.add_argument("--only", choices=["postgresql", "sqlite"])
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/overview.json"))
    given = parser.parse_args()
    results: dict[str, Any] = {"environment": environment()}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if given.only != "sqlite":
            with own_server() as server:
                results["postgresql"] = one(new_database(server), folder / "pg", given.rows, given)
        if given.only != "postgresql":
            (folder / "lite").mkdir()
            results["sqlite"] = one(
                f"sqlite:///{folder / 'lite' / 'l.db'}", folder / "lite", given.sqlite_rows, given
            )
    keep(results, given.out)


def one(url: str, folder: Path, rows: int, given: argparse.Namespace) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    # Filling takes longer than any request may.
    settings = Settings(database_url=url, spool_dir=str(folder / "bench-spool"), database_timeout_seconds=600)
    upgrade(settings)
    found, more = asyncio.run(measured(settings, rows))
    paints = [] if given.no_browser else painted(url, folder)
    shown(url.partition(":")[0], rows, found, paints, more)
    return {"rows": rows, "statements": found, "paints": paints, **more}


if __name__ == "__main__":
    main()
