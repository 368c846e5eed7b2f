"""What a policy would have made of a verdict that is recorded: from its scores alone, nothing is examined.

A record keeps one score a class, not the reports behind it. So some verdicts cannot be decided
again, and of some others it is not sure that the same detectors would have been asked; both are
said, not guessed at.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from llmobs.domain.policy import ClassPolicy, Policy
from llmobs.domain.record import CoverageEntry, EvidenceEntry
from llmobs.domain.risk import Action

_BROKEN = frozenset({"failed", "timed_out"})


class Certainty(StrEnum):
    """How far the answer for a recorded verdict can be relied upon."""

    SURE = "sure"
    """The same scores would have come to be under the other policy."""
    ROUTED = "routed"
    """A detector that was not asked then might be asked under the other policy, or the other way round."""
    FAINT = "faint"
    """A score without evidence reaches a threshold: the record does not tell a weak detection from the
    measured chance that a class is there unseen, and only a detection acts."""
    DEGRADED = "degraded"
    """A detector failed, and the record does not say which classes were left unheard: not decided again."""


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What a record keeps of how it was decided."""

    action: Action
    failure_class: str | None
    scores: Mapping[str, float]
    evidence: tuple[EvidenceEntry, ...]
    coverage: tuple[CoverageEntry, ...]
    degraded: bool


class Rerun(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded verdict decided again."""

    certainty: Certainty
    action: Action | None
    """None where it cannot be told: DEGRADED."""
    failure_class: str | None


def decided_again(policy: Policy, recorded: Decided, then: Policy | None) -> Rerun:
    """The action of `policy` on the recorded scores. `then` is the policy that decided, None where it is not known."""
    if recorded.degraded or any(entry.status in _BROKEN for entry in recorded.coverage):
        return Rerun(certainty=Certainty.DEGRADED, action=None, failure_class=None)
    spoken = {piece.failure_class for piece in recorded.evidence if not piece.trial}
    chosen: tuple[int, int, float, str] | None = None
    faint = False
    for name, score in recorded.scores.items():
        action = policy.action_for(name, score)
        if action is Action.ALLOW:
            continue
        if name not in spoken:
            faint = True
            continue
        rank = (action.rank, policy.classes[name].severity.rank, score, name)
        chosen = rank if chosen is None else max(chosen, rank)
    if faint:
        certainty = Certainty.FAINT
    elif _may_route_otherwise(policy, recorded, then):
        certainty = Certainty.ROUTED
    else:
        certainty = Certainty.SURE
    if chosen is None:
        return Rerun(certainty=certainty, action=Action.ALLOW, failure_class=None)
    return Rerun(certainty=certainty, action=tuple(Action)[chosen[0]], failure_class=chosen[3])


def _may_route_otherwise(policy: Policy, recorded: Decided, then: Policy | None) -> bool:
    """Whether other detectors might have been asked, for what the two policies say of when a class is settled."""
    if not any(entry.tier > 1 and (entry.status == "ran" or _optional(entry)) for entry in recorded.coverage):
        return False  # there was no later tier that could be asked
    if then is None:
        return True
    names = policy.classes.keys() | then.classes.keys()
    return any(_routing(policy.classes.get(name)) != _routing(then.classes.get(name)) for name in names)


def _optional(entry: CoverageEntry) -> bool:
    """Whether the detector was there and the policy had nothing for it."""
    return entry.status == "skipped" and entry.reason in {"settled", "not in policy"}


def _routing(limits: ClassPolicy | None) -> tuple[object, ...] | None:
    """All of a class that bears on which detector is asked, or on whose score stands."""
    if limits is None:
        return None
    return (
        limits.clear,
        limits.ceiling,
        limits.judge,
        limits.judge_from if limits.judge != "never" else None,
        limits.raise_only,
        limits.examples,
        limits.counter_examples,
    )
