"""What credentials and rate limits cost a request, as a ratio in one run, and whether limits hold across processes.

    python bench/limits.py [--blocks 12] [--requests 150] [--bursts 3]

Bursts: three services count one client together, over PostgreSQL and over Valkey, and get 2,000 requests at once
against a limit of 500.

Texts of one kind go to two applications in this process, one that asks nobody for anything and one with keys and
limits, each over the same kind of database. They take turns request by request, so what else the machine does weighs
on both; the ratio is the median over blocks of such pairs.
Prints a table and writes bench/results/limits.json.
"""

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from time import perf_counter, process_time

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from support.access import PEPPER, in_registry  # noqa: E402  # after the path to the tests' own parts
from support.app import started  # noqa: E402
from support.postgres import new_database, running_server  # noqa: E402
from support.together import CALLS, LIMIT, SERVICES, asked_at_once, services_with_a_limit  # noqa: E402
from support.valkey import missing, running_valkey  # noqa: E402

from llmobs.access.registry import Registry  # noqa: E402
from llmobs.access.setup import installed_access  # noqa: E402
from llmobs.app import create_app  # noqa: E402
from llmobs.domain.access import Need, Scope  # noqa: E402
from llmobs.settings import AuthMode, Settings  # noqa: E402
from llmobs.store.migrate import upgrade  # noqa: E402
from llmobs.store.store import Store  # noqa: E402
from llmobs.telemetry.instruments import Telemetry  # noqa: E402


async def call(app, key: str | None, body: bytes) -> int:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if key is not None:
        headers.append((b"authorization", b"Bearer " + key.encode()))
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    told = []

    async def receive():
        return next(messages)

    async def send(message):
        told.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/v1/detect", "raw_path": b"/v1/detect", "query_string": b"", "root_path": "",
        "scheme": "http", "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    await app(scope, receive, send)
    return told[0]["status"]


async def block(apps, number: int, requests: int) -> list[tuple[float, float]]:
    """CPU and wall milliseconds a request of each application, which take turns request by request.

    Every text is new, so none is answered from memory.
    """
    spent = [[0.0, 0.0] for _ in apps]
    gc.collect()
    gc.disable()  # a whole collection would be told of whichever request it falls into
    for n in range(requests):
        for turn in range(len(apps)):
            which = (turn + n) % len(apps)
            app, key = apps[which]
            text = f"Order {number}-{n}-{which} has left the warehouse and should arrive on Friday. " * 12
            body = json.dumps({"llm_response": text}).encode()
            wall, cpu = perf_counter(), process_time()
            status = await call(app, key, body)
            spent[which][0] += process_time() - cpu
            spent[which][1] += perf_counter() - wall
            assert status == 200, status
    gc.enable()
    return [(1000 * cpu / requests, 1000 * wall / requests) for cpu, wall in spent]


async def compare(name: str, bare: Settings, guarded: Settings, blocks: int, requests: int) -> dict:
    async def furnish(registry: Registry) -> str:
        await registry.create_client("bench", tier="wide")
        return (await registry.create_key("bench", name="", scopes=[Scope.DETECT], by="bench")).shown

    key = await in_registry(guarded, furnish)
    async with AsyncExitStack() as stack:
        apps = []
        for settings, shown in ((bare, None), (guarded, key)):
            app = create_app(settings)
            await stack.enter_async_context(started(app))
            apps.append((app, shown))
        await block(apps, -1, 30)
        found = list(zip(*[await block(apps, number, requests) for number in range(blocks)], strict=True))
    ratios = [(g[0] / b[0], g[1] / b[1]) for b, g in zip(*found, strict=True)]
    cpu, wall = (statistics.median(r[n] for r in ratios) for n in (0, 1))
    return {
        "store": name,
        "cpu_ms_bare": statistics.median(b[0] for b in found[0]),
        "cpu_ms_guarded": statistics.median(g[0] for g in found[1]),
        "cpu_ratio": cpu,
        "wall_ratio": wall,
        "cpu_ratio_quartiles": statistics.quantiles([r[0] for r in ratios], n=4)[::2],
    }


async def alone(settings: Settings, requests: int) -> float:
    """Microseconds of gate and limiter by themselves, for a known key."""

    async def furnish(registry: Registry) -> str:
        await registry.create_client("alone", tier="wide")
        return (await registry.create_key("alone", name="", scopes=[Scope.DETECT], by="bench")).shown

    key = await in_registry(settings, furnish)
    headers = [(b"host", b"x")] * 6 + [(b"authorization", b"Bearer " + key.encode())]
    async with Store(settings, Telemetry()) as store:
        door = installed_access(settings, store)
        best = []
        for _ in range(5):
            begun = process_time()
            for _ in range(requests):
                await door.limiter.request(await door.gate.admit(headers, Need.DETECT))
            best.append(1e6 * (process_time() - begun) / requests)
        await door.limiter.close()
    return min(best)


async def run(blocks: int, requests: int) -> list[dict]:
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_server())
        tiers = folder / "tiers.toml"
        # Wide enough for the run; a share is taken ahead as for any tier.
        tiers.write_text("[wide]\nrequests = 1000000\nburst = 100000\n")

        def settings(database: str, **more) -> Settings:
            name = f"s{len(list(folder.iterdir()))}"
            (folder / name).mkdir()
            made = Settings(
                database_url=database or f"sqlite:///{folder / name}/llmobs.db",
                spool_dir=str(folder / name / "spool"), log_level="error", canary_seconds=0,
                snapshot_seconds=0, retention_days=0, reload_seconds=0, **more,
            )  # fmt: skip
            upgrade(made)
            return made

        keyed = {"auth_mode": AuthMode.KEYS, "key_pepper": PEPPER, "tiers_file": str(tiers)}
        pairs = [("memory, SQLite", "", "memory"), ("PostgreSQL", "pg", "database")]
        if missing():
            print(f"no figures for Valkey: {missing()}")
        else:
            pairs.append(("Valkey, PostgreSQL", "pg", stack.enter_context(running_valkey())))
        for name, kind, store in pairs:
            bare = await asyncio.to_thread(settings, new_database(server) if kind else "")
            guarded = await asyncio.to_thread(
                settings, new_database(server) if kind else "", rate_store=store, **keyed
            )
            row = await compare(name, bare, guarded, blocks, requests)
            row["alone_us"] = await alone(guarded, 5000)
            rows.append(row)
    return rows


def bursts(times: int) -> list[dict]:
    """How many were let in of many at once, each time by fresh services."""
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_server())
        for store in ("postgresql", *(() if missing() else ("valkey",))):
            for number in range(times):
                place = folder / f"{store}{number}"
                place.mkdir()
                with services_with_a_limit(store, server, place) as (services, key):
                    statuses = asked_at_once(services, key)
                rows.append({
                    "store": store, "services": SERVICES, "requests": CALLS, "limit": LIMIT, "let_in": statuses[200],
                    "refused": statuses[429], "others": CALLS - statuses[200] - statuses[429],
                })  # fmt: skip
                print(
                    f"{store}: {CALLS} requests at once to {SERVICES} services, limit {LIMIT}: "
                    f"{statuses[200]} let in, {statuses[429]} told 429, others {rows[-1]['others']}"
                )
    return rows


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--blocks", type=int, default=12)
    asked.add_argument("--requests", type=int, default=150)
    asked.add_argument("--bursts", type=int, default=3, help="bursts of requests a store")
    given = asked.parse_args()
    together = bursts(given.bursts)
    rows = asyncio.run(run(given.blocks, given.requests))
    print(
        f"{'store':20} {'CPU ms bare':>12} {'guarded':>9} {'CPU ratio':>10} {'quartiles':>16} {'wall ratio':>11} {'alone us':>9} {'share':>6}"
    )
    for row in rows:
        low, high = row["cpu_ratio_quartiles"]
        print(
            f"{row['store']:20} {row['cpu_ms_bare']:12.3f} {row['cpu_ms_guarded']:9.3f} {row['cpu_ratio']:10.3f} "
            f"{f'{low:.3f}-{high:.3f}':>16} {row['wall_ratio']:11.3f} {row['alone_us']:9.1f} {row['alone_us'] / row['cpu_ms_bare'] / 10:5.2f}%"
        )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "limits.json").write_text(
        json.dumps({"cost": rows, "together": together}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
