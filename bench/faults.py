"""Breaks real processes under load and compares what was acknowledged with what the database holds.

    python bench/faults.py [--acknowledged 600] [--only WORD] [--out bench/results/faults.json]

Prints the fault table; exit status 1 when anything was lost or duplicated.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from report import environment, keep  # noqa: E402  # the path is set above
from support.faults import SCENARIOS, Row, play, table  # noqa: E402
from support.postgres import own_server  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--acknowledged", type=int, default=600, help="acknowledged requests a fault")
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: list[Row] = []
    started = time.monotonic()
    with own_server(durable=True) as postgres:
        for fault in SCENARIOS:
            if args.only not in fault:
                continue
            with tempfile.TemporaryDirectory() as folder:
                rows.append(asyncio.run(play(fault, Path(folder), postgres, args.acknowledged)))
            print(table([msgspec.to_builtins(rows[-1])]).splitlines()[1], flush=True)
    told = [msgspec.to_builtins(row) for row in rows]
    print("\n" + table(told))
    lost, duplicated = (sum(row[name] for row in told) for name in ("lost", "duplicated"))
    seconds = round(time.monotonic() - started, 1)
    acknowledged = sum(row["acknowledged"] for row in told)
    print(
        f"{len(rows)} faults, {acknowledged} acknowledged, {lost} lost, {duplicated} duplicated, {seconds} s"
    )
    result = {
        **environment(),
        "seconds": seconds,
        "acknowledged": acknowledged,
        "lost": lost,
        "duplicated": duplicated,
        "faults": told,
    }
    keep(result, args.out)
    sys.exit(1 if lost or duplicated else 0)


if __name__ == "__main__":
    main()
