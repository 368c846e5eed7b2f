"""wrk against /v1/detect, records kept, beside a bare Litestar+Granian echo of the same bodies.

    python bench/over_http.py [--quick] [--out bench/results/http.json]

Every body is new: 500 characters of prose, code and tables that tier 1 decides, with a word that no
other body has. For each setting the echo and the service run in turn, on the same cores; the ratio is
what counts, for absolute figures move by half with the machine's mood. `cpu us` is what the worker
processes spent on a request, which moves less. Parts: connections (1, 8, 16, 64, with 1 and 2
workers), repeated texts (the result cache), batches of 100, and half load (p99 beside p50).
Needs `wrk` (Debian package) and, for PostgreSQL, the wheel of requirements/postgres.txt.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

from support.postgres import new_database, running_server  # noqa: E402
from tier1 import ordinary  # noqa: E402

from llmobs.app import build_pipeline  # noqa: E402
from llmobs.detect.tier1_patterns.book import rule_book  # noqa: E402
from llmobs.policies import load_policies  # noqa: E402
from llmobs.screen import Inquiry, examine  # noqa: E402
from llmobs.settings import Settings  # noqa: E402

CHARS = 500
POOL = 2000
"""Texts that the bodies are made of; each body adds a word of its own."""
REPEATED = 200
"""Texts of the run with repeated bodies."""
ECHO = """
from typing import Any
import msgspec
from litestar import Litestar, post
from litestar.params import Body
from typing import Annotated


class In(msgspec.Struct):
    llm_response: str
    context: dict[str, Any] | None = None


@post("/v1/detect", status_code=200)
async def echo(data: Annotated[In, Body()]) -> In:
    return data


app = Litestar([echo], openapi_config=None, logging_config=None)
"""
LUA = """
local pool = {}
for line in io.lines("%(pool)s") do pool[#pool + 1] = line end
local sounds = {"ba","ko","di","mu","se","lo","ni","ta","ru","fe","go","pa","vi","zo","ha","le"}
local number, spread = %(seed)d, 48271
local function text()
  number = number + 1
  local line = pool[number * 7 %% #pool + 1]
  if %(repeated)s then return line end
  local rest, word = (number * spread) %% 2147483647, ""
  for _ = 1, 8 do word = word .. sounds[rest %% 16 + 1]; rest = math.floor(rest / 16) end
  return (line:gsub("UNIQUE", word))
end
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
request = function()
  if %(batch)d == 1 then return wrk.format(nil, nil, nil, text()) end
  local items = {}
  for at = 1, %(batch)d do items[at] = text() end
  return wrk.format(nil, nil, nil, "[" .. table.concat(items, ",") .. "]")
end
if %(pause)f > 0 then
  -- Exponential pauses, so that requests come as from many independent callers.
  delay = function() return -math.log(1 - math.random()) * %(pause)f end
end
done = function(summary, latency, requests)
  io.write(string.format("RESULT %%d %%d %%f %%f %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.timeout + summary.errors.read + summary.errors.connect))
end
"""


def bodies(count: int) -> list[str]:
    """Bodies with `UNIQUE` where a word of their own goes, of texts that tier 1 decides."""
    pipeline = build_pipeline(Settings(), rule_book(), frozenset({1, 2}))
    policy = load_policies()["default"]
    source = random.Random(20261123)

    async def found() -> list[str]:
        kept: list[str] = []
        while len(kept) < count:
            text = ordinary(source, CHARS - 17) + " "
            tried = await examine(pipeline, policy, Inquiry(text=text + "bakodimuselonita"))
            if tried.decision.tier_used == 1:
                kept.append(json.dumps({"llm_response": text + "UNIQUE"}))
        return kept

    return asyncio.run(found())


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(command: list[str], port: int, env: dict[str, str], cwd: Path, path: str) -> Iterator[int]:
    """A server that answers; yields its process id."""
    log = (cwd / f"{port}.log").open("wb")
    process = subprocess.Popen(command, env=os.environ | env, cwd=cwd, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).read()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit((cwd / f"{port}.log").read_text()) from None
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def cpu_seconds(parent: int) -> float:
    """CPU time of a server and its workers so far."""
    told = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, fields = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if parent in (pid, int(fields[1])):
            told += int(fields[11]) + int(fields[12])
    return told / os.sysconf("SC_CLK_TCK")


class Load:
    """What wrk sends."""

    def __init__(self, place: Path, pool: Path) -> None:
        self._place = place
        self._pool = pool
        self._sent = 0

    def put(
        self,
        target: "Target",
        connections: int,
        seconds: float,
        *,
        batch: int = 1,
        repeated: bool = False,
        pause_ms: float = 0.0,
    ) -> dict[str, float]:
        """Requests a second, latencies, failures and CPU a request under that load."""
        script = self._place / "post.lua"
        # A seed far from those before, so that no body comes twice.
        self._sent += 3_000_017
        script.write_text(
            LUA
            % {
                "pool": self._place / "repeated.txt" if repeated else self._pool,
                "seed": self._sent,
                "repeated": "true" if repeated else "false",
                "batch": batch,
                "pause": pause_ms,
            }
        )
        path = "/v1/detect" if batch == 1 else "/v1/detect/batch"
        spent = cpu_seconds(target.pid)
        out = subprocess.run(
            f"wrk -t1 -c{connections} -d{seconds:.0f}s --timeout 10s -s {script} "
            f"http://127.0.0.1:{target.port}{path}".split(),
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        spent = cpu_seconds(target.pid) - spent
        requests, micros, p50, p99, failed = re.search(r"RESULT (\S+) (\S+) (\S+) (\S+) (\S+)", out).groups()
        return {
            "rps": int(requests) / (int(micros) / 1e6),
            "p50_ms": float(p50) / 1000,
            "p99_ms": float(p99) / 1000,
            "failed": int(failed),
            "cpu_us": spent / max(1, int(requests)) * 1e6,
        }


class Target(NamedTuple):
    """A server under load."""

    name: str
    port: int
    pid: int

    def tiers(self) -> dict[str, float]:
        """Verdicts so far by the highest tier used."""
        told = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10).read().decode()
        return {
            tier: float(value)
            for tier, value in re.findall(r'^detection_tier_total\{tier="(\d)"\} (\S+)', told, re.MULTILINE)
        }


@contextmanager
def servers(place: Path, postgres: str, workers: int) -> Iterator[list[Target]]:
    """Echo, SQLite and PostgreSQL with that many workers each."""
    binaries = Path(sys.executable).parent
    with ExitStack() as stack:
        found = []
        for name in ("echo", "sqlite", "postgresql"):
            port = free_port()
            if name == "echo":
                command = [str(binaries / "granian"), "--interface", "asgi", "--loop", "uvloop"]
                command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
                command += ["--no-access-log", "--log-level", "error", "echo_app:app"]
                env, path = {"PYTHONPATH": str(place)}, "/"
            else:
                command, path = [str(binaries / "llmobs"), "serve", "--migrate"], "/health/live"
                url = f"sqlite:///{place}/bench-{workers}.db" if name == "sqlite" else new_database(postgres)
                env = {
                    "DATABASE_URL": url,
                    "API_PORT": str(port),
                    "API_WORKERS": str(workers),
                    "LLMOBS_SPOOL_DIR": str(place / f"spool-{name}-{workers}"),
                }
            found.append(Target(name, port, stack.enter_context(running(command, port, env, place, path))))
        yield found


class Table:
    """Rows printed as they come, and kept."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        print(
            f"{'what':<22} {'target':<11} {'req/s':>8} {'% of echo':>9} {'p50 ms':>8} {'p99 ms':>8} "
            f"{'p99/p50':>7} {'cpu us':>7} {'failed':>6}"
        )

    def add(self, what: str, target: str, found: dict[str, float], echo: float | None) -> None:
        """One row; `echo` the requests a second of the echo under the same load."""
        ratio = None if echo is None else round(found["rps"] / echo, 3)
        shown = "" if ratio is None else f"{100 * ratio:.1f}"
        print(
            f"{what:<22} {target:<11} {found['rps']:>8.0f} {shown:>9} {found['p50_ms']:>8.2f} "
            f"{found['p99_ms']:>8.2f} {found['p99_ms'] / max(found['p50_ms'], 0.001):>7.1f} {found['cpu_us']:>7.0f} "
            f"{found['failed']:>6.0f}",
            flush=True,
        )
        self.rows.append(
            {"what": what, "target": target, "ratio": ratio, **{k: round(v, 3) for k, v in found.items()}}
        )


def mean(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}


def main() -> None:
    """Run all parts, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--connections", default="1,8,16,64")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one worker, 16 connections, one round")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.connections, args.workers, args.rounds = "16", "1", 1
    if shutil.which("wrk") is None:
        raise SystemExit("bench/over_http.py needs wrk: apt-get install wrk")
    table = Table()
    result: dict[str, object] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "chars": CHARS,
        "rows": table.rows,
    }
    with tempfile.TemporaryDirectory() as folder, running_server() as postgres:
        place = Path(folder)
        (place / "echo_app.py").write_text(ECHO)
        pool = place / "pool.txt"
        lines = bodies(POOL)
        pool.write_text("\n".join(lines) + "\n")
        (place / "repeated.txt").write_text("\n".join(lines[:REPEATED]) + "\n")
        load = Load(place, pool)
        for workers in map(int, args.workers.split(",")):
            with servers(place, postgres, workers) as targets:
                for target in targets:
                    load.put(target, 8, 3)
                one = f"{workers} worker{'s' if workers > 1 else ''}, "
                for connections in map(int, args.connections.split(",")):
                    runs: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
                    for _ in range(args.rounds):
                        for target in targets:
                            runs[target.name].append(load.put(target, connections, args.seconds))
                    base = mean(runs["echo"])["rps"]
                    for name, found in runs.items():
                        table.add(f"{one}{connections} conns", name, mean(found), base)
                if workers == 1:
                    measure_more(load, targets, table, args.seconds)
                    result["tiers"] = {t.name: t.tiers() for t in targets if t.name != "echo"}
                    print("verdicts by tier:", result["tiers"])
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def measure_more(load: Load, targets: list[Target], table: Table, seconds: int) -> None:
    """Repeated texts, batches beside singles, half load."""
    echo, *services = targets
    for connections in (16, 64):
        again = load.put(echo, connections, seconds, repeated=True)
        table.add(f"repeated, {connections} conns", echo.name, again, again["rps"])
        for target in services:
            load.put(target, 8, 2, repeated=True)
            found = load.put(target, connections, seconds, repeated=True)
            table.add(f"repeated, {connections} conns", target.name, found, again["rps"])
    for target in services:
        for connections, repeated in ((1, False), (4, False), (4, True)):
            kind = f"repeated, {connections} conns" if repeated else f"{connections} conns"
            single = load.put(target, connections, seconds, repeated=repeated)
            batches = load.put(target, connections, seconds, batch=100, repeated=repeated)
            table.add(f"singles, {kind}", target.name, single, None)
            table.add(f"batches, {kind}", target.name, batches, None)
            gain = 100 * batches["rps"] / single["rps"]
            table.rows[-1]["texts_over_singles"] = round(gain, 2)
            print(f"{'':<22} {target.name:<11} {gain:.1f} x the texts a second of single posts")
    for target in services:
        most = load.put(target, 16, seconds)
        # Each connection waits so long between answers that all together ask for half of that.
        pause = 2 * 16 / most["rps"] * 1000 - 1000 / most["rps"] * 4
        table.add("half load, 16 conns", target.name, load.put(target, 16, seconds, pause_ms=pause), None)
        table.rows[-1]["of_capacity"] = round(table.rows[-1]["rps"] / most["rps"], 2)


if __name__ == "__main__":
    main()
