"""The tiers in order: each is asked only about what the ones before left open."""

import asyncio
from collections.abc import Sequence

import msgspec

from llmobs.detect.attempt import attempt
from llmobs.detect.detector import Detector
from llmobs.domain.decision import Standing, open_classes, weigh
from llmobs.domain.detection import Report, Skipped
from llmobs.domain.policy import Policy
from llmobs.domain.subject import Subject


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """Detectors that are asked together."""

    number: int
    name: str
    """What `coverage` calls the tier where no detector is installed."""
    detectors: tuple[Detector, ...] = ()
    deadline_s: float | None = None
    """Longest wait for each detector; None for CPU-bound ones, which no timeout can interrupt."""


class Pipeline:
    """Asks the detectors about a subject."""

    def __init__(self, tiers: Sequence[Tier]) -> None:
        self.tiers = tuple(sorted(tiers, key=lambda tier: tier.number))

    async def examine(self, subject: Subject, policy: Policy) -> tuple[Report, ...]:
        """One report a detector, in tier order. Expected failures are reports too."""
        reports: list[Report] = []
        standing: Standing | None = None
        for tier in self.tiers:
            if not tier.detectors:
                reports.append(Skipped(tier=tier.number, detector=tier.name, reason="not installed"))
                continue
            if standing is None and reports:
                standing = weigh(policy, reports)
            asked = frozenset(policy.classes) if standing is None else open_classes(policy, standing)
            reports += await self._ask(tier, subject, asked)
            standing = None
        return tuple(reports)

    async def _ask(self, tier: Tier, subject: Subject, asked: frozenset[str]) -> list[Report]:
        called = [d for d in tier.detectors if d.hears & asked]
        skipped = [
            Skipped(
                tier=tier.number, detector=d.name, reason="settled" if tier.number > 1 else "not in policy"
            )
            for d in tier.detectors
            if not d.hears & asked
        ]
        if len(called) == 1 or tier.deadline_s is None:
            # CPU-bound siblings gain nothing from tasks of their own, and a task costs more than
            # a whole tier 1.
            ran: list[Report] = [
                await attempt(d, tier.number, subject, asked, tier.deadline_s) for d in called
            ]
            return [*ran, *skipped]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(attempt(d, tier.number, subject, asked, tier.deadline_s)) for d in called
            ]
        return [*(task.result() for task in tasks), *skipped]
