"""Minutes of mixed traffic: memory, file descriptors and counts over time.

    python bench/soak.py [--minutes 10] [--connections 16] [--out bench/results/soak.json]

Must show (10 minutes): >= 200,000 verdicts, resident memory after the first minute grows by <= 5 %, as
many file descriptors at the end as after the first minute, and as many rows as verdicts. Single texts,
keyed ones and batches; every text is new.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from driver import SENTENCES
from report import environment, keep, show
from support.load import Connection
from support.postgres import new_database, running_server
from support.service import Service, memory_bytes, open_files

KEYED, BATCHED = 20, 50
"""One request in so many has a key, or is a batch of ten."""


class Soak:
    def __init__(self, port: int, seconds: float) -> None:
        self._port = port
        self._ends = time.perf_counter() + seconds
        self._number = 0
        self.verdicts = 0
        self.failed = 0

    def _text(self) -> dict[str, str]:
        self._number += 1
        chosen = random.sample(SENTENCES, 5)
        return {"llm_response": f"Note {self._number}. " + ". ".join(chosen) + "."}

    async def client(self) -> None:
        connection = Connection(self._port)
        turn = random.randrange(1000)
        while time.perf_counter() < self._ends:
            turn += 1
            if turn % BATCHED == 0:
                body = json.dumps([self._text() for _ in range(10)]).encode()
                answer = await connection.post("/v1/detect/batch", body)
            else:
                key = b"idempotency-key: soak-%d\r\n" % self._number if turn % KEYED == 0 else b""
                answer = await connection.post("/v1/detect", json.dumps(self._text()).encode(), key)
            if answer.status == 200:
                self.verdicts += 10 if turn % BATCHED == 0 else 1
            else:
                self.failed += 1
        connection.close()


async def run(service: Service, minutes: float, connections: int) -> tuple[Soak, list[dict[str, float]]]:
    soak = Soak(service.port, minutes * 60)
    [worker] = service.workers()
    samples: list[dict[str, float]] = []
    started = time.perf_counter()

    async def sample() -> None:
        while True:
            samples.append(
                {
                    "second": round(time.perf_counter() - started),
                    "rss_mb": round(memory_bytes(worker) / 1e6, 1),
                    "files": open_files(worker),
                    "verdicts": soak.verdicts,
                }
            )
            if len(samples) % 6 == 0:
                print("  ".join(f"{name} {value}" for name, value in samples[-1].items()), flush=True)
            await asyncio.sleep(5)

    sampling = asyncio.create_task(sample())
    await asyncio.gather(*(soak.client() for _ in range(connections)))
    sampling.cancel()
    return soak, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server() as postgres:
        url = new_database(postgres) if args.database == "postgresql" else f"sqlite:///{folder}/bench.db"
        service = Service(Path(folder), url, {"LLMOBS_RESULT_CACHE_BYTES": "0"})
        service.start("--migrate")
        try:
            soak, samples = asyncio.run(run(service, args.minutes, args.connections))
            rows = service.get("/metrics/stats", timeout=60)["total_detections"]
            status = service.stop()
        finally:
            service.kill()
    first_minute = min(60.0, args.minutes * 15)
    warm = next(one for one in samples if one["second"] >= first_minute)
    after = [one for one in samples if one["second"] >= first_minute]
    tail = after[-max(1, len(after) // 10) :]
    end_mb = sum(one["rss_mb"] for one in tail) / len(tail)
    result = {
        **environment(),
        "database": args.database,
        "minutes": args.minutes,
        "connections": args.connections,
        "verdicts": soak.verdicts,
        "failed": soak.failed,
        "rows": rows,
        "verdicts_per_second": round(soak.verdicts / (args.minutes * 60)),
        "rss_after_first_minute_mb": warm["rss_mb"],
        "rss_end_mb": round(end_mb, 1),
        "rss_growth_pct": round(100 * (end_mb / warm["rss_mb"] - 1), 2),
        "files_after_first_minute": warm["files"],
        "files_end": samples[-1]["files"],
        "exit_status": status,
        "samples": samples[:: max(1, len(samples) // 60)],
    }
    show(result, without={"samples"})
    keep(result, args.out)


if __name__ == "__main__":
    main()
