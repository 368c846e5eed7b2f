"""10,000 calls of the client against a server that is restarted three times and overloaded once.

    python bench/client.py [--calls 10000] [--out bench/results/client.json]

Prints what became of the calls; exit status 1 when one ended in neither a verdict nor a typed error,
or a row was lost or doubled. The service runs as delivered, on SQLite, with a short journal queue
(48) so that the burst overloads it.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.client_run import run  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/client.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = msgspec.to_builtins(asyncio.run(run(Path(folder), args.calls, encoder=True)))
    for name, value in told.items():
        print(f"{name.replace('_', ' '):24} {value}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({"python": platform.python_version(), "cores": os.cpu_count(), **told}, indent=1) + "\n"
    )
    if told["neither"] or told["rows_doubled"] or told["verdicts_without_row"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
