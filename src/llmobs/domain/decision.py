"""From reports to an action: pure, order-free within a tier, monotone, never softened.

A class is *settled* once a report puts it at or beyond the last threshold of its policy, or below
`clear` by a detector that may clear it. Later tiers are asked only about what is still open; for
an open class the later tier's score replaces the earlier one (or only raises it, when the policy
says so), for a settled class it can only raise.
"""

from collections.abc import Iterable, Sequence

import msgspec

from llmobs.domain.detection import Detection, Evidence, Failed, Ran, Report, Skipped
from llmobs.domain.policy import ClassPolicy, Judging, OnFailure, Policy
from llmobs.domain.risk import Action, Severity
from llmobs.domain.subject import Doubt
from llmobs.domain.verdict import Decision

JUDGE_TIER = 3
"""The tier whose detector reads the text as language, and so can be talked to by it."""

_NOTHING_KNOWN = ClassPolicy(severity=Severity.LOW)


class Standing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known per class after some tiers have reported."""

    scores: dict[str, float]
    """Score of each class that some detector detected."""
    silence: dict[str, float]
    """Lowest measured probability of each class that was looked for and not found."""
    settled: frozenset[str]
    unheard: frozenset[str]
    """Open classes that a failed detector should have examined and nobody else did."""
    deciding: dict[str, str]
    """Detector whose score stands, per class."""


def weigh(policy: Policy, reports: Sequence[Report]) -> Standing:
    """Combine reports, tier by tier in ascending order."""
    scores: dict[str, float] = {}
    silence: dict[str, float] = {}
    settled: set[str] = set()
    unheard: set[str] = set()
    deciding: dict[str, str] = {}
    classes = policy.classes
    for tier in sorted({report.tier for report in reports if not isinstance(report, Skipped)}):
        ran = [r for r in reports if isinstance(r, Ran) and r.tier == tier]
        heard: set[str] = set()
        clears: set[str] = set()
        quiet: dict[str, float] = {}
        best: dict[str, tuple[float, str]] = {}
        for report in ran:
            findings = report.findings
            heard |= report.hears - findings.unheard if findings.unheard else report.hears
            said = findings.silence
            if findings.clears:
                clears |= findings.clears
                for name in findings.clears & said.keys():
                    quiet[name] = max(quiet.get(name, 0.0), said[name])
            if said:
                if silence:
                    for name, value in said.items():
                        known = silence.get(name)
                        if known is None or value < known:
                            silence[name] = value
                else:
                    silence.update(said)
            for detection in findings.detections:
                candidate = (detection.score, report.detector)
                best[detection.failure_class] = max(best.get(detection.failure_class, candidate), candidate)
        for name, (score, detector) in best.items():
            known = scores.get(name)
            limits = classes.get(name, _NOTHING_KNOWN)
            may_only_raise = (
                name in settled
                or limits.raise_only
                or (tier == JUDGE_TIER and limits.judge is not Judging.WEIGH)
            )
            if known is None or not may_only_raise or score > known:
                scores[name] = score
                deciding[name] = detector
        missed = {
            name
            for report in reports
            if isinstance(report, Failed) and report.tier == tier
            for name in report.hears
            if name not in settled
        }
        for report in ran:
            if report.findings.unheard:
                missed |= report.findings.unheard - settled
        unheard = (unheard | missed) - heard
        for name, score in scores.items():
            limits = classes.get(name, _NOTHING_KNOWN)
            if score >= limits.ceiling or (score < limits.clear and name in clears):
                settled.add(name)
        for name, value in quiet.items():
            # A detector that may clear and detected nothing: its measured silence counts.
            if name not in scores and value < classes.get(name, _NOTHING_KNOWN).clear:
                settled.add(name)
    return Standing(
        scores=scores,
        silence=silence,
        settled=frozenset(settled),
        unheard=frozenset(unheard - settled),
        deciding=deciding,
    )


def open_classes(policy: Policy, standing: Standing) -> frozenset[str]:
    """The classes of the policy that a later tier may still be asked about."""
    return frozenset(policy.classes) - standing.settled


def doubtful_classes(policy: Policy, standing: Standing) -> frozenset[str]:
    """The open classes that the LLM judge is asked about.

    A class is in doubt when an earlier tier scored it, from the policy's `judge_from` (or `clear`)
    on, short of settling it. A class that nobody scored is not: silence is no reason to spend
    money on every text, and a failed tier must not turn all its traffic over to the judge.
    """
    return frozenset(
        name
        for name in open_classes(policy, standing)
        if policy.classes[name].judge is not Judging.NEVER
        and standing.scores.get(name, 0.0) > 0.0
        and standing.scores[name] >= policy.classes[name].doubtful_from
    )


def doubts_about(
    policy: Policy, standing: Standing, reports: Iterable[Report], asked: Iterable[str]
) -> dict[str, Doubt]:
    """What the earlier tiers found of each class asked about."""
    spans: dict[str, list[Evidence]] = {}
    for report in reports:
        if isinstance(report, Ran):
            for detection in report.findings.detections:
                spans.setdefault(detection.failure_class, []).extend(detection.evidence)
    return {
        name: Doubt(
            score=standing.scores[name],
            spans=tuple(
                e.span
                for e in sorted(spans.get(name, ()), key=lambda e: (-e.score, _start(e)))
                if e.span is not None
            ),
            acts=policy.action_for(name, standing.scores[name]) is not Action.ALLOW,
            may_lower=(policy.classes[name].judge is Judging.WEIGH and not policy.classes[name].raise_only),
        )
        for name in asked
        if name in standing.scores
    }


def decide(policy: Policy, reports: Sequence[Report], standing: Standing | None = None) -> Decision:
    """The action for these reports, with the class, score and evidence that it rests on.

    `standing` is what `weigh` says of the same policy and reports, where that is known already.
    """
    if standing is None:
        standing = weigh(policy, reports)
    ran = [report for report in reports if isinstance(report, Ran)]
    tier_used = max((report.tier for report in ran), default=1)
    scores = {name: value for name, value in standing.silence.items() if name not in standing.scores}
    scores |= standing.scores
    evidence = _evidence(ran)

    chosen: tuple[int, int, float, str] | None = None
    failed_class = False
    for name, score in standing.scores.items():
        action = policy.action_for(name, score)
        if action is not Action.ALLOW:
            rank = (action.rank, policy.classes[name].severity.rank, score, name)
            chosen = rank if chosen is None else max(chosen, rank)
    unheard: tuple[int, int, float, str] | None = None
    for name in standing.unheard:
        limits = policy.classes.get(name)
        if limits is not None and limits.on_failure is not OnFailure.ALLOW:
            rank = (limits.on_failure.action.rank, limits.severity.rank, scores.get(name, 0.0), name)
            unheard = rank if unheard is None else max(unheard, rank)
    if unheard is not None and (chosen is None or unheard[0] > chosen[0]):
        # At the same action, what was found says more than what could not be looked for.
        chosen, failed_class = unheard, True

    if chosen is None:
        return Decision(
            action=Action.ALLOW,
            failure_class=None,
            severity=None,
            confidence=1.0 - max(scores.values(), default=0.0),
            scores=scores,
            evidence=evidence,
            tier_used=tier_used,
            method=next((report.detector for report in ran if report.tier == tier_used), "none"),
            degraded=bool(standing.unheard),
            explanation=_explain_allow(standing, ran),
        )
    action = tuple(Action)[chosen[0]]
    name = chosen[3]
    return Decision(
        action=action,
        failure_class=name,
        severity=policy.classes[name].severity,
        confidence=chosen[2],
        scores=scores,
        evidence=evidence,
        tier_used=tier_used,
        method="on_failure" if failed_class else standing.deciding[name],
        degraded=bool(standing.unheard),
        explanation=(
            f"{name}: a detector failed and the policy says {action} when it is unheard."
            if failed_class
            else _explain(policy.classes[name], action, name, chosen[2], evidence)
        ),
    )


def _evidence(ran: Iterable[Ran]) -> tuple[Evidence, ...]:
    """All evidence, strongest first; evidence on probation last."""
    found = [e for report in ran for d in report.findings.detections for e in d.evidence]
    found.sort(key=lambda e: (-e.score, e.failure_class, e.source, _start(e)))
    trials = [e for report in ran for e in report.findings.trials]
    trials.sort(key=lambda e: (e.failure_class, e.source, _start(e)))
    return (*found, *trials)


def _start(evidence: Evidence) -> int:
    return -1 if evidence.span is None else evidence.span.start


def _explain(
    limits: ClassPolicy, action: Action, name: str, score: float, evidence: Sequence[Evidence]
) -> str:
    reasons = [e for e in evidence if e.failure_class == name and not e.trial]
    sentence = f"{name} at {score:.2f}: {action}."
    if reasons:
        first = reasons[0]
        where = "" if first.span is None else f" at {first.span.start}-{first.span.end}"
        more = "" if len(reasons) == 1 else f", and {len(reasons) - 1} more"
        sentence = f"{name} at {score:.2f}: {first.note}{where} ({first.source}{more})."
    return f"{sentence} {limits.message}".strip()


def _explain_allow(standing: Standing, ran: Sequence[Ran]) -> str:
    if not ran:
        return "No detector ran."
    looked = ", ".join(report.detector for report in ran)
    if standing.scores:
        name, score = max(standing.scores.items(), key=lambda item: item[1])
        return f"Nothing beyond the thresholds (highest: {name} at {score:.2f}). Looked: {looked}."
    return f"Nothing found. Looked: {looked}."


def strongest(evidence: Iterable[Evidence]) -> tuple[Detection, ...]:
    """One detection per class from evidence, scored by its strongest piece."""
    grouped: dict[str, list[Evidence]] = {}
    for piece in evidence:
        grouped.setdefault(piece.failure_class, []).append(piece)
    return tuple(
        Detection(failure_class=name, score=max(e.score for e in pieces), evidence=tuple(pieces))
        for name, pieces in grouped.items()
    )
