"""A recorded verdict decided again: the same as deciding anew, or said not to be."""

from hypothesis import given
from hypothesis import strategies as st

from llmobs.domain.decision import decide, weigh
from llmobs.domain.detection import Detection, Evidence, Findings, Ran, Skipped
from llmobs.domain.policy import ClassPolicy, Policy
from llmobs.domain.record import coverage_entry, evidence_entry
from llmobs.domain.rerun import Certainty, Decided, decided_again
from llmobs.domain.risk import Action, Severity

CLASSES = ("bias", "toxicity", "pii_leak")
scores = st.floats(0.06, 1.0).map(lambda score: round(score, 4))
thresholds = st.floats(0.01, 1.0).map(lambda value: round(value, 3))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    classes = {}
    for name in CLASSES:
        log, warn, block = sorted(draw(st.tuples(thresholds, thresholds, thresholds)))
        classes[name] = ClassPolicy(severity=draw(st.sampled_from(Severity)), log=log, warn=warn, block=block)
    return Policy(id="p", version=1, classes=classes, strict_mode=draw(st.booleans()))


def recorded(policy: Policy, found: dict[str, float], *, silence: float = 0.0, later: str = "") -> Decided:
    """A verdict as the service records it."""
    detections = tuple(
        Detection(
            failure_class=name,
            score=score,
            evidence=(Evidence(failure_class=name, source="rule:x", score=score, note="x"),),
        )
        for name, score in found.items()
    )
    hears = frozenset(CLASSES)
    quiet = dict.fromkeys(CLASSES, silence) if silence else {}
    reports: list[Ran | Skipped] = [
        Ran(
            tier=1,
            detector="rules",
            ms=0.1,
            hears=hears,
            findings=Findings(detections=detections, silence=quiet),
        )
    ]
    if later:
        reports.append(Skipped(tier=2, detector="heads", reason=later))
    made = decide(policy, reports, weigh(policy, reports))
    return Decided(
        action=made.action,
        failure_class=made.failure_class,
        scores=made.scores,
        evidence=tuple(map(evidence_entry, made.evidence)),
        coverage=tuple(map(coverage_entry, reports)),
        degraded=made.degraded,
    )


@given(policies(), policies(), st.dictionaries(st.sampled_from(CLASSES), scores))
def test_sure_is_what_deciding_anew_gives(then: Policy, now: Policy, found: dict[str, float]) -> None:
    again = decided_again(now, recorded(then, found), then)
    anew = recorded(now, found)
    assert again.certainty is Certainty.SURE
    assert (again.action, again.failure_class) == (anew.action, anew.failure_class)


@given(policies(), st.dictionaries(st.sampled_from(CLASSES), scores))
def test_the_policy_that_decided_decides_the_same(then: Policy, found: dict[str, float]) -> None:
    made = recorded(then, found)
    assert decided_again(then, made, then).action is made.action


def _policy(**limits: float) -> Policy:
    return Policy(id="p", version=1, classes={"bias": ClassPolicy(severity=Severity.HIGH, **limits)})


def test_a_detector_that_was_not_asked_makes_it_unsure_where_asking_may_change() -> None:
    then = _policy(warn=0.5, block=0.8)
    made = recorded(then, {"bias": 0.9}, later="settled")
    assert decided_again(_policy(warn=0.4, block=0.8), made, then).certainty is Certainty.SURE
    assert decided_again(_policy(warn=0.5, block=0.95), made, then).certainty is Certainty.ROUTED
    assert decided_again(then, made, None).certainty is Certainty.ROUTED
    absent = recorded(then, {"bias": 0.9}, later="not installed")
    assert decided_again(_policy(warn=0.5, block=0.95), absent, None).certainty is Certainty.SURE


def test_a_score_without_evidence_never_acts_and_is_told_where_it_could() -> None:
    then = _policy(warn=0.5)
    made = recorded(then, {}, silence=0.03)
    again = decided_again(_policy(warn=0.02), made, then)
    assert (again.certainty, again.action) == (Certainty.FAINT, Action.ALLOW)
    assert decided_again(_policy(warn=0.04), made, then).certainty is Certainty.SURE
