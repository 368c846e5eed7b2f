"""wrk against /v1/detect, records kept, beside a bare Litestar+Granian echo of the same body.

    python bench/over_http.py [--seconds 8] [--out bench/results/http.json]

For each connection count the echo and the service run in turn, twice, in one process tree on the
same cores; the ratio is what counts, for absolute figures move by half with the machine's mood.
Needs `wrk` (Debian package) and, for PostgreSQL, the wheel of requirements/postgres.txt.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.postgres import new_database, running_server  # noqa: E402

BODY = {
    "llm_response": (
        "Paris is the capital of France. The city lies on the Seine and counts about two million people; "
        "its metro opened in 1900 and now has sixteen lines."
    ),
    "context": {"query": "What is the capital of France?"},
}
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
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = [==[%s]==]
done = function(summary, latency, requests)
  io.write(string.format("RESULT %%d %%d %%f %%f %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status + summary.errors.timeout))
end
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(command: list[str], port: int, env: dict[str, str], cwd: Path, path: str) -> Iterator[None]:
    log = (cwd / f"{port}.log").open("wb")
    process = subprocess.Popen(command, env=os.environ | env, cwd=cwd, stdout=log, stderr=log)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).read()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit((cwd / f"{port}.log").read_text()) from None
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def wrk(port: int, connections: int, seconds: int, script: Path) -> dict[str, float]:
    out = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            "10s",
            "-s",
            str(script),
            f"http://127.0.0.1:{port}/v1/detect",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    requests, micros, p50, p99, failed = re.search(r"RESULT (\S+) (\S+) (\S+) (\S+) (\S+)", out).groups()
    return {
        "rps": int(requests) / (int(micros) / 1e6),
        "p50_ms": float(p50) / 1000,
        "p99_ms": float(p99) / 1000,
        "failed": int(failed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--connections", default="1,8,64")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("bench/over_http.py needs wrk: apt-get install wrk")
    binaries = Path(sys.executable).parent
    result: dict[str, object] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "body_bytes": len(json.dumps(BODY)),
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as folder, running_server() as postgres:
        place = Path(folder)
        (place / "echo_app.py").write_text(ECHO)
        script = place / "post.lua"
        script.write_text(LUA % json.dumps(BODY))
        echo_port, sqlite_port, pg_port = free_port(), free_port(), free_port()
        granian = [
            str(binaries / "granian"),
            "--interface",
            "asgi",
            "--loop",
            "uvloop",
            "--host",
            "127.0.0.1",
            "--port",
            str(echo_port),
            "--workers",
            "1",
            "--no-access-log",
            "--log-level",
            "error",
            "echo_app:app",
        ]
        llmobs = [str(binaries / "llmobs"), "serve", "--migrate"]
        sqlite = {"DATABASE_URL": f"sqlite:///{place}/bench.db", "API_PORT": str(sqlite_port)}
        database = new_database(postgres)
        pg = {"DATABASE_URL": database, "API_PORT": str(pg_port)}
        spool = {"LLMOBS_SPOOL_DIR": str(place / "spool")}
        with (
            running(granian, echo_port, {"PYTHONPATH": folder}, place, "/"),
            running(llmobs, sqlite_port, sqlite | spool, place, "/health/live"),
            running(llmobs, pg_port, pg | spool, place, "/health/live"),
        ):
            targets = {"echo": echo_port, "sqlite": sqlite_port, "postgresql": pg_port}
            for port in targets.values():
                wrk(port, 8, 2, script)
            print(
                f"{'conns':>5} {'target':<11} {'req/s':>8} {'% of echo':>9} {'p50 ms':>8} {'p99 ms':>8} {'failed':>6}"
            )
            for connections in map(int, args.connections.split(",")):
                runs: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
                for _ in range(args.rounds):
                    for name, port in targets.items():
                        runs[name].append(wrk(port, connections, args.seconds, script))
                base = sum(run["rps"] for run in runs["echo"]) / args.rounds
                for name, found in runs.items():
                    mean = {key: sum(run[key] for run in found) / args.rounds for key in found[0]}
                    ratio = mean["rps"] / base
                    result["runs"].append(
                        {
                            "connections": connections,
                            "target": name,
                            "ratio": round(ratio, 3),
                            **{k: round(v, 3) for k, v in mean.items()},
                        }
                    )  # type: ignore[attr-defined]
                    print(
                        f"{connections:>5} {name:<11} {mean['rps']:>8.0f} {100 * ratio:>9.1f} {mean['p50_ms']:>8.2f} "
                        f"{mean['p99_ms']:>8.2f} {mean['failed']:>6.0f}"
                    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
