"""Shares that were counted, with how far they can be believed."""

from math import sqrt

import msgspec

Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


class Interval(msgspec.Struct, frozen=True):
    """A share of `of` with its 95 % Wilson score interval."""

    share: float
    low: float
    high: float
    of: int


def wilson(hits: int, of: int) -> Interval | None:
    """The share with its 95 % Wilson score interval (Wilson 1927); None of nothing."""
    if of == 0:
        return None
    z = Z_95
    share = hits / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return Interval(round(share, 4), round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4), of)
