"""One client with single texts, alone and beside batches of 100 that run all the time.

    python bench/fairness.py [--seconds 6] [--rounds 3] [--batches 2] [--out bench/results/fairness.json]

The two halves alternate within one run. Must show: single p95 beside batches <= 2 x its value alone.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from driver import bodies
from report import environment, keep, percentile, show
from support.load import Connection
from support.postgres import new_database, running_server
from support.service import Service


async def singles(port: int, seconds: float) -> list[float]:
    """Seconds that each answer took, one after the other with a short pause."""
    connection = Connection(port)
    given = bodies()
    took = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        started = time.perf_counter()
        answer = await connection.post("/v1/detect", given[len(took) % len(given)])
        took.append(time.perf_counter() - started)
        if answer.status != 200:
            raise SystemExit(answer.body.decode())
        await asyncio.sleep(0.002)
    connection.close()
    return took


async def beside(port: int, seconds: float, batches: int) -> tuple[list[float], float]:
    """The same while so many clients post batches; and the batches' texts a second."""
    batch = b"[" + b",".join(bodies(100)) + b"]"
    done = 0
    stop = asyncio.Event()

    async def client() -> None:
        nonlocal done
        connection = Connection(port)
        while not stop.is_set():
            answer = await connection.post("/v1/detect/batch", batch)
            if answer.status != 200:
                raise SystemExit(answer.body.decode())
            done += 100
        connection.close()

    clients = [asyncio.create_task(client()) for _ in range(batches)]
    await asyncio.sleep(0.5)
    before, started = done, time.perf_counter()
    took = await singles(port, seconds)
    rate = (done - before) / (time.perf_counter() - started)
    stop.set()
    await asyncio.gather(*clients)
    return took, rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6, help="of each half")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=2, help="clients that post batches of 100")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    alone: list[float] = []
    busy: list[float] = []
    rates: list[float] = []
    with tempfile.TemporaryDirectory() as folder, running_server() as postgres:
        url = new_database(postgres) if args.database == "postgresql" else f"sqlite:///{folder}/bench.db"
        service = Service(Path(folder), url, {"LLMOBS_RESULT_CACHE_BYTES": "0"})
        service.start("--migrate")
        try:
            asyncio.run(singles(service.port, 2))
            for _ in range(args.rounds):
                alone += asyncio.run(singles(service.port, args.seconds))
                took, rate = asyncio.run(beside(service.port, args.seconds, args.batches))
                busy += took
                rates.append(rate)
        finally:
            service.kill()

    def told(took: list[float]) -> dict[str, float]:
        figures = {
            f"p{round(100 * share)}_ms": round(1000 * percentile(took, share), 2)
            for share in (0.5, 0.95, 0.99)
        }
        return {"requests": len(took), **figures}

    result = {
        **environment(),
        "database": args.database,
        "batch_clients": args.batches,
        "alone": told(alone),
        "beside_batches": told(busy),
        "p95_ratio": round(percentile(busy, 0.95) / percentile(alone, 0.95), 2),
        "p50_ratio": round(percentile(busy, 0.5) / percentile(alone, 0.5), 2),
        "batch_texts_per_second_meanwhile": round(sum(rates) / len(rates)),
    }
    show(result)
    keep(result, args.out)


if __name__ == "__main__":
    main()
