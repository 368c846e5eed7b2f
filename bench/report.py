"""What the benchmarks' results have in common: where they were taken, how they are shown and kept."""

import json
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """Of values in any order; 0.0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def environment() -> dict[str, Any]:
    return {"python": platform.python_version(), "cores": os.cpu_count()}


def show(result: Mapping[str, Any], *, without: Collection[str] = ()) -> None:
    """A line a figure."""
    for name, value in result.items():
        if name not in without:
            print(f"{name:<34} {value}")


def keep(result: Mapping[str, Any], path: Path | None) -> None:
    """As JSON, where a file is named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
