"""Which precision this processor trains in fastest."""

from __future__ import annotations

import time
from functools import cache

import torch
import torch.nn.functional as F


@cache
def halves_pay() -> bool:
    """Whether bfloat16 beats single precision: five times slower where the processor cannot do it, about twice as fast where it can."""
    rows, weights = torch.randn(4096, 384), torch.randn(1536, 384)

    def seconds(kind: torch.dtype) -> float:
        a, b = rows.to(kind), weights.to(kind)
        F.linear(a, b)
        started = time.perf_counter()
        for _ in range(10):
            F.linear(a, b)
        return time.perf_counter() - started

    return seconds(torch.bfloat16) < seconds(torch.float32)


def quickest() -> torch.autocast:
    """The context to compute in."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=halves_pay())
