"""Thresholds from an operator's own harmless traffic: how much of it may be flagged decides.

The scores of the built-in detectors were fitted on public text. A tenant's traffic differs, so a
class may alarm more there than it should. Here each class's warn (or log) threshold is set to the
score that so small a share of harmless texts reach that all classes together stay within the
target, and its block threshold to the score that a fifth of that share reach.
"""

from collections.abc import Mapping, Sequence
from math import ceil

import msgspec

from llmobs.domain.policy import ClassPolicy, Policy
from llmobs.domain.risk import Action
from llmobs.evaluation import Outcome
from llmobs.policies import PolicyFile, policy_toml

BLOCK_SHARE = 0.2
"""Of the flagged share, how much may be blocked."""
LOWEST, HIGHEST = 0.05, 0.99
STEPS = 40
GRAIN = 0.0005
"""Thresholds lie this far above the harmless score that they must clear."""


class ClassChange(msgspec.Struct, frozen=True, kw_only=True):
    """What calibration did to one class."""

    failure_class: str
    before: ClassPolicy
    after: ClassPolicy
    flagged_before: int
    """Harmless texts that the class warned of or blocked under the old thresholds."""
    flagged_after: int


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    """A policy with new thresholds, and what they cost and gain."""

    policy: Policy
    changes: tuple[ClassChange, ...]
    benign: int
    flagged_before: int
    flagged_after: int


def calibrate(policy: Policy, benign: Sequence[Outcome], target_fpr: float) -> Calibrated:
    """New thresholds so that at most `target_fpr` of the harmless outcomes are warned of or blocked.

    The outcomes must come from a run in which no class was cleared early (`clear` = 0), or the
    scores would be incomplete. Classes without a warn or block threshold stay as they are. A class
    gets the same share of the target as every other: the largest share for which the union of all
    flagged texts stays within the target, found by bisection. Raises ValueError on no outcomes.
    """
    if not benign:
        raise ValueError("no harmless texts to calibrate on")
    scored = {
        name: sorted((o.scores.get(name, 0.0) for o in benign), reverse=True)
        for name, limits in policy.classes.items()
        if limits.warn is not None or limits.block is not None
    }
    low, high = 0.0, target_fpr
    best = _with_share(policy, scored, low)
    if flagged(_with_share(policy, scored, high), benign) <= target_fpr * len(benign):
        best = _with_share(policy, scored, high)
    else:
        for _ in range(STEPS):
            middle = (low + high) / 2
            tried = _with_share(policy, scored, middle)
            if flagged(tried, benign) <= target_fpr * len(benign):
                low, best = middle, tried
            else:
                high = middle
    best = msgspec.structs.replace(best, version=policy.version + 1)
    return Calibrated(
        policy=best,
        changes=tuple(
            ClassChange(
                failure_class=name,
                before=policy.classes[name],
                after=best.classes[name],
                flagged_before=_flagged_by(policy, name, benign),
                flagged_after=_flagged_by(best, name, benign),
            )
            for name in scored
        ),
        benign=len(benign),
        flagged_before=flagged(policy, benign),
        flagged_after=flagged(best, benign),
    )


def flagged(policy: Policy, outcomes: Sequence[Outcome]) -> int:
    """How many outcomes some class of the policy warns of or blocks."""
    return sum(
        any(_acts(policy, name, outcome) for name in policy.classes if name in outcome.scores)
        for outcome in outcomes
    )


def _flagged_by(policy: Policy, name: str, outcomes: Sequence[Outcome]) -> int:
    return sum(_acts(policy, name, outcome) for outcome in outcomes)


def _acts(policy: Policy, name: str, outcome: Outcome) -> bool:
    return policy.action_for(name, outcome.scores.get(name, 0.0)) in {Action.WARN, Action.BLOCK}


def _with_share(policy: Policy, scored: Mapping[str, list[float]], share: float) -> Policy:
    """The policy with each class at the thresholds that `share` of the harmless scores reach."""
    classes = dict(policy.classes)
    for name, scores in scored.items():
        limits = classes[name]
        warn = _threshold(scores, share)
        block = max(warn, _threshold(scores, share * BLOCK_SHARE))
        changed = msgspec.structs.replace(
            limits,
            warn=None if limits.warn is None else warn,
            block=None if limits.block is None else block,
        )
        lowest = warn if changed.warn is not None else block
        classes[name] = msgspec.structs.replace(
            changed,
            log=None if limits.log is None else min(limits.log, lowest),
            clear=min(limits.clear, lowest),
        )
    return msgspec.structs.replace(policy, classes=classes)


def _threshold(scores: list[float], share: float) -> float:
    """The lowest threshold, on a grid of four digits, that at most `share` of the scores reach."""
    allowed = int(share * len(scores))
    edge = scores[allowed] if allowed < len(scores) else 0.0
    return min(HIGHEST, max(LOWEST, ceil((edge + GRAIN) * 10_000) / 10_000))


def written(policy: Policy) -> str:
    """The policy as a TOML file that `policy check` accepts."""
    return policy_toml(PolicyFile(**{name: getattr(policy, name) for name in policy.__struct_fields__}))
