"""The tiers in order: each is asked only about what the ones before left open."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter

import msgspec

from llmobs.detect.attempt import attempt
from llmobs.detect.detector import Detector, Selective
from llmobs.detect.rounds import Rounds
from llmobs.domain.decision import Standing, doubts_about, open_classes, weigh
from llmobs.domain.detection import Failed, Ran, Report, Skipped
from llmobs.domain.policy import Policy
from llmobs.domain.subject import Likeness, Subject

Allows = Callable[[int, str | None], Awaitable[str | None]]
"""By a tier's number and a client: None where the tier may look at one more text, or why it may not."""
Departed = Callable[[], Awaitable[None]]
"""Returns when whoever asked has gone away."""


MOST_POLICIES = 100
"""Policies of which something is remembered."""


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """Detectors that are asked together."""

    number: int
    name: str
    """What `coverage` calls the tier where no detector is installed."""
    detectors: tuple[Detector, ...] = ()
    deadline_s: float | None = None
    """Longest wait for each detector; None for CPU-bound ones, which no timeout can interrupt."""
    absent: str = "not installed"
    """Why it is skipped where no detector is installed."""
    asks: Callable[[Policy, Standing], frozenset[str]] = open_classes
    """Which classes it is asked about, given what earlier tiers found."""
    allows: Allows | None = None
    """Asked once a text before the tier looks; what it may not look at counts as a failure, so that the
    policy says what comes of it."""
    ends_with_caller: bool = False
    """Whether its work is dropped when whoever asked has gone away: worth it for slow, dear work."""


class Pipeline:
    """Asks the detectors about a subject."""

    def __init__(self, tiers: Sequence[Tier], crowded: Callable[[], bool] = lambda: False) -> None:
        """While `crowded`, detectors that never wait are asked about all texts of a moment together."""
        self.tiers = tuple(sorted(tiers, key=lambda tier: tier.number))
        self.crowded = crowded
        self._rounds = Rounds(detector for tier in self.tiers for detector in tier.detectors)
        self._selective = {
            id(d): d for tier in self.tiers for d in tier.detectors if isinstance(d, Selective)
        }
        self._policies: dict[str, tuple[Policy, frozenset[str], Mapping[str, Likeness]]] = {}

    async def examine(
        self, subject: Subject, policy: Policy, departed: Departed | None = None
    ) -> tuple[Report, ...]:
        """One report a detector, in tier order. Expected failures are reports too."""
        reports, _ = await self.weighed(subject, policy, departed)
        return reports

    async def weighed(
        self, subject: Subject, policy: Policy, departed: Departed | None = None
    ) -> tuple[tuple[Report, ...], Standing]:
        """The reports, and what they come to: weighed already where a later tier might have been asked."""
        reports: list[Report] = []
        standing: Standing | None = None
        classes, likenesses = self._of_policy(policy)
        for tier in self.tiers:
            if not tier.detectors:
                reports.append(Skipped(tier=tier.number, detector=tier.name, reason=tier.absent))
                continue
            if standing is None and reports:
                standing = weigh(policy, reports)
            asked = classes if standing is None else tier.asks(policy, standing)
            if standing is not None and asked:
                doubts = doubts_about(policy, standing, reports, asked)
                found = await self._ask(
                    tier,
                    # Made new where there is something to say: most texts leave no doubt.
                    msgspec.structs.replace(subject, doubts=doubts, likenesses=likenesses)
                    if doubts or likenesses
                    else subject,
                    asked,
                    departed,
                )
            else:
                found = await self._ask(tier, subject, asked, departed)
            reports += found
            if not all(isinstance(report, Skipped) for report in found):
                standing = None
        return tuple(reports), weigh(policy, reports) if standing is None else standing

    def _of_policy(self, policy: Policy) -> tuple[frozenset[str], Mapping[str, Likeness]]:
        """Its classes, and those that examples define; worked out once while the policy is in force."""
        known = self._policies.get(policy.id)
        if known is None or known[0] is not policy:
            if len(self._policies) >= MOST_POLICIES:
                self._policies.clear()
            known = self._policies[policy.id] = (policy, frozenset(policy.classes), policy.likenesses)
        return known[1], known[2]

    async def _ask(
        self, tier: Tier, subject: Subject, asked: frozenset[str], departed: Departed | None
    ) -> list[Report]:
        called: list[Detector] = []
        skipped: list[Report] = []
        for detector in tier.detectors:
            reason: str | None
            if not detector.hears & asked:
                reason = "settled" if tier.number > 1 else "not in policy"
            else:
                selective = self._selective.get(id(detector))
                reason = None if selective is None else selective.idle(subject, asked)
            if reason is None:
                called.append(detector)
            else:
                skipped.append(Skipped(tier=tier.number, detector=detector.name, reason=reason))
        if not called:
            return skipped
        refused = None if tier.allows is None else await tier.allows(tier.number, subject.client_id)
        if refused is not None:
            return [
                *(
                    Failed(tier=tier.number, detector=d.name, ms=0.0, hears=d.hears & asked, reason=refused)
                    for d in called
                ),
                *skipped,
            ]
        if departed is not None and tier.ends_with_caller:
            return [*[await _unless_gone(d, tier, subject, asked, departed) for d in called], *skipped]
        ran: list[Report]
        if tier.deadline_s is None and self.crowded():
            found = await self._rounds.ask(called, tier.number, subject, asked)
            ran = [
                await attempt(d, tier.number, subject, asked, None) if report is None else report
                for d, report in zip(called, found, strict=True)
            ]
            return [*ran, *skipped]
        if len(called) == 1 or tier.deadline_s is None:
            # CPU-bound siblings gain nothing from tasks of their own, and a task costs more than
            # a whole tier 1.
            ran = [await attempt(d, tier.number, subject, asked, tier.deadline_s) for d in called]
            return [*ran, *skipped]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(attempt(d, tier.number, subject, asked, tier.deadline_s)) for d in called
            ]
        return [*(task.result() for task in tasks), *skipped]


async def _unless_gone(
    detector: Detector, tier: Tier, subject: Subject, asked: frozenset[str], departed: Departed
) -> Ran | Failed:
    """What the detector reports; when the caller goes away first, its work is cancelled."""
    started = perf_counter()
    async with asyncio.TaskGroup() as group:
        work = group.create_task(attempt(detector, tier.number, subject, asked, tier.deadline_s))
        watch = group.create_task(_wait(departed))
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        work.cancel()  # does nothing to work that is done
        watch.cancel()
    if not work.cancelled():
        return work.result()
    return Failed(
        tier=tier.number,
        detector=detector.name,
        ms=(perf_counter() - started) * 1000,
        hears=detector.hears & asked,
        reason="the caller went away",
    )


async def _wait(departed: Departed) -> None:
    await departed()
