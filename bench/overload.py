"""Four times what the service can do, for a minute: who is accepted stays quick, the rest are told at once.

    python bench/overload.py [--seconds 60] [--times 4] [--database postgresql] [--shared] [--out bench/results/overload.json]

Capacity is measured first in the same run, closed loop; then requests leave at a fixed rate whether or
not earlier ones were answered. Must show: accepted p99 <= 250 ms, the rest 503 with Retry-After, memory
flat, as quick as before within 5 s. The service has half of the cores to itself, driver and database share the
others, as in a cluster, where neither is on the service's machine; `--shared` leaves it to the system.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from driver import bodies, drive
from report import environment, keep, percentile, show
from support.load import Connection
from support.postgres import new_database, running_server
from support.service import Service, memory_bytes


async def capacity(port: int, seconds: float, connections: int = 32) -> float:
    """Requests a second, closed loop."""
    given = bodies()
    done = 0
    ends = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        connection = Connection(port)
        while time.perf_counter() < ends:
            answer = await connection.post("/v1/detect", given[done % len(given)])
            done += answer.status == 200
        connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return done / seconds


async def probe(port: int, count: int = 50) -> float:
    """p95 of one client that asks one thing after the other, in seconds."""
    connection = Connection(port)
    took = []
    for body in bodies(count):
        started = time.perf_counter()
        answer = await connection.post("/v1/detect", body)
        took.append(time.perf_counter() - started if answer.status == 200 else 1.0)
    connection.close()
    return percentile(took, 0.95)


def totals(service: Service) -> dict[str, float]:
    """What the service has counted so far."""
    names = {
        'http_request_duration_seconds_sum{method="POST",path="/v1/detect"}': "request_seconds",
        "journal_commit_seconds_sum": "commit_seconds",
        "journal_commit_seconds_count": "commits",
        "journal_batch_rows_sum": "rows",
    }
    lines = (line.rpartition(" ") for line in service.get("/metrics").splitlines())
    return {names[name]: float(value) for name, _, value in lines if name in names}


def halves(*, shared: bool) -> tuple[set[int], set[int]]:
    """Cores for the service, and for everything else."""
    cores = sorted(os.sched_getaffinity(0))
    if shared or len(cores) < 2:
        return set(cores), set(cores)
    return set(cores[: len(cores) // 2]), set(cores[len(cores) // 2 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=4)
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--shared", action="store_true", help="all processes on all cores")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    ours, theirs = halves(shared=args.shared)
    os.sched_setaffinity(0, theirs)  # of the processes to come as well: database and driver
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server() as postgres,
        ProcessPoolExecutor(1) as other,
    ):
        url = new_database(postgres) if args.database == "postgresql" else f"sqlite:///{folder}/bench.db"
        service = Service(Path(folder), url, {"LLMOBS_RESULT_CACHE_BYTES": "0"})
        os.sched_setaffinity(0, ours)
        service.start("--migrate")
        os.sched_setaffinity(0, theirs)
        try:
            asyncio.run(capacity(service.port, 3))
            able = asyncio.run(capacity(service.port, 6))
            alone = asyncio.run(probe(service.port))
            [worker] = service.workers()
            memory: list[int] = []
            watching = threading.Event()

            def watch() -> None:
                while not watching.wait(1.0):
                    memory.append(memory_bytes(worker))

            watcher = threading.Thread(target=watch)
            watcher.start()
            rate = able * args.times
            before = totals(service)
            told = other.submit(drive, service.port, rate, args.seconds, args.connections, bodies()).result()
            inside = {name: value - before[name] for name, value in totals(service).items()}
            watching.set()
            watcher.join()
            stopped = time.perf_counter()
            while (
                after := asyncio.run(probe(service.port))
            ) > 2 * alone and time.perf_counter() - stopped < 30:
                pass
            recovery = time.perf_counter() - stopped
        finally:
            service.kill()
    took = [seconds for _, seconds in told["accepted"]]
    warm = memory[min(10, len(memory) // 4)] if memory else 0
    result = {
        **environment(),
        "cores_of_the_service": len(ours),
        "cores_shared": args.shared,
        "database": args.database,
        "capacity_rps": round(able),
        "offered_rps": round(told["sent"] / told["seconds"]),
        "offered_times_capacity": round(told["sent"] / told["seconds"] / able, 2),
        "due_but_no_connection_free": told["unsent"],
        "statuses": told["statuses"],
        "accepted_rps": round(len(took) / told["seconds"]),
        "accepted_ms": {
            f"p{round(100 * q)}": round(1000 * percentile(took, q), 1) for q in (0.5, 0.95, 0.99, 1.0)
        },
        # Refusals count as no time, so this is the mean of those accepted, from the first look at them on.
        "inside_ms": {
            "request_mean": round(1000 * inside["request_seconds"] / max(1, len(took)), 1),
            "commit_mean": round(1000 * inside["commit_seconds"] / max(1, inside["commits"]), 1),
            "rows_a_commit": round(inside["rows"] / max(1, inside["commits"]), 1),
        },
        "refused_ms": {
            f"p{round(100 * q)}": round(1000 * percentile(told["refused"], q), 1)
            for q in (0.5, 0.95, 0.99, 1.0)
        },
        "memory_mb": {
            "after_10_s": round(warm / 1e6, 1),
            "end": round(memory[-1] / 1e6, 1),
            "most": round(max(memory) / 1e6, 1),
        },
        "memory_growth_pct": round(100 * (memory[-1] / warm - 1), 1),
        "single_p95_ms": {"before": round(1000 * alone, 2), "after": round(1000 * after, 2)},
        "recovery_s": round(recovery, 2),
    }
    show(result)
    keep(result, args.out)


if __name__ == "__main__":
    main()
