"""Do the tiers share the traffic as expected? Tier 1: 90-98 %, tier 2: 2-8 %, tier 3: 0-5 %."""

from typing import Protocol

import msgspec

FEW = 100
"""Below this many verdicts a distribution says nothing."""
EXPECTED = ((90.0, 98.0), (2.0, 8.0), (0.0, 5.0))
"""Percent of verdicts by the highest tier used."""


class Counts(Protocol):
    """Recorded verdicts, in all and by the highest tier used."""

    @property
    def total(self) -> int: ...
    @property
    def tier1(self) -> int: ...
    @property
    def tier2(self) -> int: ...
    @property
    def tier3(self) -> int: ...


class TrafficView(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution with what to think of it."""

    percentages: tuple[float, float, float]
    is_healthy: bool
    message: str


def judge_traffic(counts: Counts) -> TrafficView:
    """Compare the share of each tier with what is expected."""
    by_tier = (counts.tier1, counts.tier2, counts.tier3)
    if counts.total == 0:
        return TrafficView(percentages=(0.0, 0.0, 0.0), is_healthy=True, message="No verdicts yet.")
    shares = [100.0 * count / counts.total for count in by_tier]
    percentages = (round(shares[0], 2), round(shares[1], 2), round(shares[2], 2))
    if counts.total < FEW:
        return TrafficView(
            percentages=percentages,
            is_healthy=True,
            message=f"{counts.total} verdicts so far: too few to judge the distribution.",
        )
    if counts.tier2 == counts.tier3 == 0:
        return TrafficView(
            percentages=percentages,
            is_healthy=True,
            message="Tier 1 decided everything: no other tier took part.",
        )
    odd = [
        f"tier {tier} decided {share:.1f} % (expected {low:g}-{high:g} %)"
        for tier, (share, (low, high)) in enumerate(zip(shares, EXPECTED, strict=True), 1)
        if not low <= share <= high
    ]
    if odd:
        return TrafficView(
            percentages=percentages, is_healthy=False, message="; ".join(odd).capitalize() + "."
        )
    return TrafficView(
        percentages=percentages, is_healthy=True, message="The tiers share the traffic as expected."
    )
