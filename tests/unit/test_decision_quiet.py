"""A tier-1 detector that may clear speaks by silence alone."""

from llmobs.domain.decision import decide, open_classes, weigh
from llmobs.domain.detection import Detection, Findings, Ran
from llmobs.domain.policy import ClassPolicy, Policy
from llmobs.domain.risk import Action, Severity

POLICY = Policy(
    id="p",
    version=1,
    classes={"toxicity": ClassPolicy(severity=Severity.CRITICAL, clear=0.1, warn=0.5, block=0.8)},
)
HEARS = frozenset({"toxicity"})


def ran(detector: str, findings: Findings, tier: int = 1) -> Ran:
    return Ran(tier=tier, detector=detector, ms=0.1, hears=HEARS, findings=findings)


def quiet(score: float, may_clear: bool = True) -> Ran:
    return ran("lexical", Findings(silence={"toxicity": score}, clears=HEARS if may_clear else frozenset()))


def test_silence_below_clear_settles_the_class() -> None:
    assert open_classes(POLICY, weigh(POLICY, [quiet(0.05)])) == frozenset()


def test_silence_at_or_above_clear_leaves_it_open() -> None:
    assert open_classes(POLICY, weigh(POLICY, [quiet(0.1)])) == HEARS


def test_silence_of_a_detector_that_may_not_clear_settles_nothing() -> None:
    assert open_classes(POLICY, weigh(POLICY, [quiet(0.05, may_clear=False)])) == HEARS


def test_silence_cannot_clear_what_another_detector_found() -> None:
    rule = ran("rules", Findings(detections=(Detection(failure_class="toxicity", score=0.6),)))
    standing = weigh(POLICY, [quiet(0.01), rule])
    assert open_classes(POLICY, standing) == HEARS
    assert standing.scores == {"toxicity": 0.6}


def test_silence_never_acts_however_high() -> None:
    decision = decide(POLICY, [quiet(0.99)])
    assert decision.action is Action.ALLOW
    assert decision.scores == {"toxicity": 0.99}
