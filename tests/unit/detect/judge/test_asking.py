"""Which classes are put to the judge, what it may do to them, and what its failure means."""

import asyncio

import pytest

from llmobs.detect.detector import DetectorFailed
from llmobs.detect.pipeline import Pipeline, Tier
from llmobs.domain.decision import decide, doubtful_classes, weigh
from llmobs.domain.detection import Detection, Failed, Findings, Ran, Report
from llmobs.domain.policy import ClassPolicy, Judging, OnFailure, Policy
from llmobs.domain.record import coverage_entry
from llmobs.domain.risk import Action, Severity
from llmobs.domain.subject import Subject
from llmobs.testing import ScriptedDetector

LADDER = {"severity": Severity.CRITICAL, "clear": 0.1, "log": 0.3, "warn": 0.5, "block": 0.8}
POLICY = Policy(
    id="p",
    version=1,
    classes={
        "free": ClassPolicy(**LADDER, on_failure=OnFailure.WARN),
        "raised": ClassPolicy(**LADDER, judge=Judging.RAISE, on_failure=OnFailure.BLOCK),
        "sly": ClassPolicy(**LADDER, raise_only=True),
        "private": ClassPolicy(**LADDER, judge=Judging.NEVER),
        "narrow": ClassPolicy(**LADDER, judge_from=0.4),
    },
)
ALL = frozenset(POLICY.classes)


def ran(tier: int, scores: dict[str, float], *, unheard: frozenset[str] = frozenset()) -> Ran:
    found = tuple(Detection(failure_class=name, score=score) for name, score in scores.items())
    return Ran(
        tier=tier,
        detector=f"t{tier}",
        ms=1.0,
        hears=ALL,
        findings=Findings(detections=found, unheard=unheard, clears=ALL if tier == 2 else frozenset()),
    )


def doubtful(*reports: Report) -> frozenset[str]:
    return doubtful_classes(POLICY, weigh(POLICY, reports))


def test_a_class_that_nobody_scored_is_not_asked_about() -> None:
    assert doubtful(ran(1, {})) == set()
    assert doubtful(Failed(tier=2, detector="t2", ms=1, hears=ALL, reason="gone")) == set()


@pytest.mark.parametrize(
    ("score", "asked"), [(0.0, False), (0.05, False), (0.1, True), (0.6, True), (0.8, False), (1.0, False)]
)
def test_a_class_is_asked_about_from_clear_up_to_where_it_is_settled(score: float, *, asked: bool) -> None:
    assert doubtful(ran(2, {"free": score})) == ({"free"} if asked else set())


def test_the_policy_narrows_what_is_asked() -> None:
    assert doubtful(ran(2, dict.fromkeys(ALL, 0.35))) == {"free", "raised", "sly"}
    assert doubtful(ran(2, dict.fromkeys(ALL, 0.45))) == {"free", "raised", "sly", "narrow"}


def test_an_unsound_judge_from_is_told() -> None:
    assert ClassPolicy(**LADDER, judge_from=1.5).problems()


@pytest.mark.parametrize(
    ("name", "said", "stands"),
    [
        ("free", 0.2, 0.2),
        ("free", 0.9, 0.9),
        ("raised", 0.2, 0.6),
        ("raised", 0.9, 0.9),
        ("sly", 0.2, 0.6),
        ("sly", 0.9, 0.9),
    ],
)
def test_what_the_judge_may_do_to_a_score(name: str, said: float, stands: float) -> None:
    reports = [ran(2, {name: 0.6}), ran(3, {name: said})]
    assert decide(POLICY, reports).scores[name] == stands
    assert decide(POLICY, reports[::-1]).scores[name] == stands


def test_a_question_left_unanswered_is_unheard_while_the_others_count() -> None:
    reports = [ran(2, {"free": 0.4, "raised": 0.4}), ran(3, {"free": 0.2}, unheard=frozenset({"raised"}))]
    decision = decide(POLICY, reports)
    assert decision.degraded
    assert (decision.action, decision.failure_class, decision.method) == (
        Action.BLOCK,
        "raised",
        "on_failure",
    )
    assert decision.scores["free"] == 0.2


async def test_a_judge_that_fails_leaves_only_what_it_was_asked_unheard() -> None:
    judge = ScriptedDetector({}, name="judge", hears=ALL, failure="no provider")
    tiers = [
        Tier(number=1, name="rules", detectors=(ScriptedDetector({"free": 0.35}, hears=ALL),)),
        Tier(number=3, name="judge", detectors=(judge,), deadline_s=1, asks=doubtful_classes),
    ]
    reports = await Pipeline(tiers).examine(Subject(text="x"), POLICY)
    assert judge.heard[0][1] == {"free"}
    doubt = judge.heard[0][0].doubts["free"]
    assert (doubt.score, doubt.acts, doubt.may_lower, len(doubt.spans)) == (0.35, True, True, 1)
    decision = decide(POLICY, reports)
    assert (decision.action, decision.failure_class, decision.degraded) == (Action.WARN, "free", True)


async def test_nothing_in_doubt_is_skipped_as_settled() -> None:
    judge = ScriptedDetector({}, name="judge", hears=ALL)
    tiers = [
        Tier(number=1, name="rules", detectors=(ScriptedDetector({"free": 0.9}),)),
        Tier(number=3, name="judge", detectors=(judge,), deadline_s=1, asks=doubtful_classes),
    ]
    reports = await Pipeline(tiers).examine(Subject(text="x"), POLICY)
    assert coverage_entry(reports[-1]).reason == "settled"
    assert judge.heard == []


async def test_a_caller_who_leaves_ends_the_work_and_the_verdict_says_so() -> None:
    ended = asyncio.Event()

    class Slow(ScriptedDetector):
        async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.set()
                raise
            raise DetectorFailed("never")

    async def leaves() -> None:
        await asyncio.sleep(0.05)

    tiers = [
        Tier(number=1, name="rules", detectors=(ScriptedDetector({"free": 0.35}),)),
        Tier(
            number=3,
            name="judge",
            detectors=(Slow({}, name="judge", hears=ALL),),
            deadline_s=30,
            asks=doubtful_classes,
            ends_with_caller=True,
        ),
    ]
    async with asyncio.timeout(2):
        reports = await Pipeline(tiers).examine(Subject(text="x"), POLICY, leaves)
    assert ended.is_set()
    assert coverage_entry(reports[-1]).reason == "the caller went away"
    assert decide(POLICY, reports).degraded


async def test_an_answer_that_comes_first_ends_the_watch() -> None:
    ended = asyncio.Event()

    async def leaves() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    tiers = [
        Tier(number=1, name="rules", detectors=(ScriptedDetector({"free": 0.35}),)),
        Tier(
            number=3,
            name="judge",
            detectors=(ScriptedDetector({"free": 0.2}, name="judge", pause=0.01),),
            deadline_s=30,
            asks=doubtful_classes,
            ends_with_caller=True,
        ),
    ]
    async with asyncio.timeout(2):
        reports = await Pipeline(tiers).examine(Subject(text="x"), POLICY, leaves)
    assert ended.is_set()
    assert decide(POLICY, reports).scores["free"] == 0.2
