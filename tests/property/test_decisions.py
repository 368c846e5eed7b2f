"""Decisions are order-free and monotone, and nothing settled is ever softened."""

from itertools import permutations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from llmobs.domain.decision import decide, open_classes, weigh
from llmobs.domain.detection import Detection, Failed, Findings, Ran, Report
from llmobs.domain.policy import ClassPolicy, OnFailure, Policy
from llmobs.domain.risk import Severity

CLASSES = ("a", "b", "c")

scores = st.floats(0, 1, allow_nan=False)


@st.composite
def class_policies(draw: st.DrawFn) -> ClassPolicy:
    ladder = sorted(draw(st.lists(st.floats(0.01, 1), min_size=4, max_size=4)))
    given_steps = draw(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
    log, warn, block = (value if used else None for value, used in zip(ladder[1:], given_steps, strict=True))
    return ClassPolicy(
        severity=draw(st.sampled_from(Severity)),
        clear=ladder[0],
        log=log,
        warn=warn,
        block=block,
        on_failure=draw(st.sampled_from(OnFailure)),
        raise_only=draw(st.booleans()),
    )


policies = st.builds(
    lambda limits, strict: Policy(
        id="p", version=1, classes=dict(zip(CLASSES, limits, strict=True)), strict_mode=strict
    ),
    st.tuples(class_policies(), class_policies(), class_policies()),
    st.booleans(),
)
class_sets = st.frozensets(st.sampled_from(CLASSES))


@st.composite
def runs(draw: st.DrawFn) -> Ran:
    found = draw(st.dictionaries(st.sampled_from(CLASSES), scores))
    return Ran(
        tier=draw(st.integers(1, 3)),
        detector=draw(st.sampled_from(["x", "y", "z"])),
        ms=0.1,
        hears=frozenset(found) | draw(class_sets),
        findings=Findings(
            detections=tuple(Detection(failure_class=n, score=s) for n, s in found.items()),
            clears=draw(class_sets),
        ),
    )


failures = st.builds(
    Failed,
    tier=st.integers(1, 3),
    detector=st.sampled_from(["x", "y"]),
    ms=st.just(0.1),
    hears=class_sets,
    reason=st.just("broken"),
)
report_lists = st.lists(st.one_of(runs(), failures), max_size=6)


@given(policies, report_lists, st.randoms(use_true_random=False))
def test_the_order_of_reports_does_not_matter(policy: Policy, reports: list[Report], random) -> None:
    shuffled = list(reports)
    random.shuffle(shuffled)
    one, other = decide(policy, reports), decide(policy, shuffled)
    assert (one.action, one.failure_class, one.scores, one.degraded) == (
        other.action,
        other.failure_class,
        other.scores,
        other.degraded,
    )


def test_of_several_unheard_classes_the_gravest_is_named_whatever_failed_first() -> None:
    def limits(severity: Severity) -> ClassPolicy:
        return ClassPolicy(severity=severity, clear=0.1, block=0.9, on_failure=OnFailure.WARN)

    policy = Policy(
        id="p",
        version=1,
        classes={"a": limits(Severity.LOW), "b": limits(Severity.HIGH), "c": limits(Severity.MEDIUM)},
    )
    failed = [
        Failed(tier=1, detector=name, ms=0.1, hears=frozenset({name}), reason="broken") for name in CLASSES
    ]
    assert {decide(policy, order).failure_class for order in permutations(failed)} == {"b"}


@given(policies, report_lists, st.integers(0, 5), st.sampled_from(CLASSES), scores)
def test_a_higher_score_never_means_a_milder_action(
    policy: Policy, reports: list[Report], index: int, name: str, score: float
) -> None:
    ran = [(i, r) for i, r in enumerate(reports) if isinstance(r, Ran)]
    if not ran:
        return
    position, chosen = ran[index % len(ran)]
    known = {d.failure_class: d.score for d in chosen.findings.detections}
    if name not in known:
        return  # hearing a class for the first time is not the same as scoring it higher
    raised = tuple(
        Detection(failure_class=n, score=max(s, score) if n == name else s) for n, s in known.items()
    )
    higher = msgspec.structs.replace(
        chosen, findings=msgspec.structs.replace(chosen.findings, detections=raised)
    )
    after = [*reports[:position], higher, *reports[position + 1 :]]
    assert decide(policy, after).action.rank >= decide(policy, reports).action.rank


@given(policies, report_lists, runs())
def test_a_later_tier_never_softens_what_an_earlier_one_settled(
    policy: Policy, reports: list[Report], late: Ran
) -> None:
    earlier = [r for r in reports if r.tier < 3]
    last = msgspec.structs.replace(late, tier=3)
    before = weigh(policy, earlier)
    after = weigh(policy, [*earlier, last])
    for name in before.settled:
        if name in before.scores:
            assert after.scores[name] >= before.scores[name]
            assert (
                policy.action_for(name, after.scores[name]).rank
                >= policy.action_for(name, before.scores[name]).rank
            )
    assert not before.settled & open_classes(policy, before)


@given(policies, report_lists, failures)
def test_a_failure_never_makes_the_action_milder(
    policy: Policy, reports: list[Report], failure: Failed
) -> None:
    assert decide(policy, [*reports, failure]).action.rank >= decide(policy, reports).action.rank


@given(policies, report_lists)
def test_confidence_is_a_probability_and_evidence_names_its_class(
    policy: Policy, reports: list[Report]
) -> None:
    decision = decide(policy, reports)
    assert 0.0 <= decision.confidence <= 1.0
    assert (decision.failure_class is None) == (decision.action == "allow")
