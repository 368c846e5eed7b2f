"""The journal alone: verdicts a second through the group commit, beside one transaction a verdict.

    python bench/journal.py [--seconds 3] [--out bench/results/journal.json]

The store as the service uses it, no HTTP and no detection. Callers append one after the other, so as
many verdicts wait as there are callers. `single`: the same rows, a transaction each, in the same run.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from report import environment, keep, percentile
from support.postgres import new_database, own_server
from support.store import Heard, make_record

from llmobs.settings import Settings
from llmobs.store.migrate import upgrade
from llmobs.store.store import Store
from llmobs.store.writer import writer_for


async def grouped(settings: Settings, callers: int, seconds: float) -> dict[str, float]:
    took: list[float] = []
    ends = time.perf_counter() + seconds
    async with Store(settings, Heard()) as store:

        async def caller() -> None:
            while time.perf_counter() < ends:
                record = make_record()
                started = time.perf_counter()
                await store.append(record)
                took.append(time.perf_counter() - started)

        await asyncio.gather(*(caller() for _ in range(callers)))
    return {
        "rows_per_second": round(len(took) / seconds),
        "p50_ms": round(1000 * percentile(took, 0.5), 2),
        "p99_ms": round(1000 * percentile(took, 0.99), 2),
    }


async def single(settings: Settings, seconds: float) -> dict[str, float]:
    took: list[float] = []
    ends = time.perf_counter() + seconds
    async with Store(settings, Heard()) as store:
        writer = writer_for(store.database)
        while time.perf_counter() < ends:
            record = make_record()
            started = time.perf_counter()
            await writer.write([record])
            took.append(time.perf_counter() - started)
        await writer.close()
    return {
        "rows_per_second": round(len(took) / seconds),
        "p50_ms": round(1000 * percentile(took, 0.5), 2),
        "p99_ms": round(1000 * percentile(took, 0.99), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = []
    print(f"{'database':<12}{'callers':>8}{'rows/s':>9}{'x single':>10}{'p50 ms':>9}{'p99 ms':>9}")
    with tempfile.TemporaryDirectory() as folder, own_server(durable=True) as postgres:
        for database, url in (
            ("sqlite", f"sqlite:///{folder}/bench.db"),
            ("postgresql", new_database(postgres)),
        ):
            settings = Settings(database_url=url, spool_dir=f"{folder}/spool")
            upgrade(settings)
            base = uvloop.run(single(settings, args.seconds))
            for callers in ("single", 1, 8, 64, 512):
                found = base if callers == "single" else uvloop.run(grouped(settings, callers, args.seconds))
                ratio = round(found["rows_per_second"] / max(1, base["rows_per_second"]), 1)
                runs.append({"database": database, "callers": callers, "times_single": ratio, **found})
                print(
                    f"{database:<12}{callers:>8}{found['rows_per_second']:>9}{ratio:>10}"
                    f"{found['p50_ms']:>9}{found['p99_ms']:>9}"
                )
    keep({**environment(), "runs": runs}, args.out)


if __name__ == "__main__":
    main()
