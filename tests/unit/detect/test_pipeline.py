import asyncio

import pytest

from llmobs.detect.pipeline import Pipeline, Tier
from llmobs.domain.decision import decide
from llmobs.domain.detection import Failed, Ran, Skipped
from llmobs.domain.policy import ClassPolicy, OnFailure, Policy
from llmobs.domain.risk import Action, Severity
from llmobs.domain.subject import Subject
from llmobs.testing import ScriptedDetector

POLICY = Policy(
    id="p",
    version=1,
    classes={
        "bad": ClassPolicy(
            severity=Severity.CRITICAL, clear=0.1, warn=0.5, block=0.8, on_failure=OnFailure.WARN
        ),
        "odd": ClassPolicy(severity=Severity.MEDIUM, clear=0.1, warn=0.5),
        "sly": ClassPolicy(severity=Severity.CRITICAL, clear=0.1, warn=0.5, block=0.8, raise_only=True),
    },
)
ALL = frozenset({"bad", "odd", "sly"})
SUBJECT = Subject(text="anything")


def _tiers(*tiers: list[ScriptedDetector], deadline: float = 0.2) -> Pipeline:
    return Pipeline(
        [
            Tier(number=n, name=f"tier{n}", detectors=tuple(found), deadline_s=None if n == 1 else deadline)
            for n, found in enumerate(tiers, 1)
        ]
    )


async def test_a_later_tier_is_asked_only_about_what_is_open() -> None:
    first = ScriptedDetector({"bad": 0.9, "odd": 0.05, "sly": 0.3}, clears=frozenset({"odd"}))
    second = ScriptedDetector({"sly": 0.9}, hears=ALL)
    await _tiers([first], [second]).examine(SUBJECT, POLICY)
    assert [asked for _, asked in second.heard] == [frozenset({"sly"})]


async def test_a_detector_with_nothing_open_is_skipped_and_says_so() -> None:
    first = ScriptedDetector({"bad": 0.9})
    second = ScriptedDetector({"bad": 0.1})
    reports = await _tiers([first], [second]).examine(SUBJECT, POLICY)
    assert second.heard == []
    assert reports[1] == Skipped(tier=2, detector="scripted", reason="settled")
    assert decide(POLICY, reports).action is Action.BLOCK


async def test_a_tier_without_detectors_says_not_installed() -> None:
    reports = await _tiers([ScriptedDetector({})], []).examine(SUBJECT, POLICY)
    assert reports[-1] == Skipped(tier=2, detector="tier2", reason="not installed")


async def test_silence_of_patterns_settles_nothing() -> None:
    second = ScriptedDetector({"bad": 0.9})
    reports = await _tiers([ScriptedDetector({}, hears=ALL)], [second]).examine(SUBJECT, POLICY)
    assert second.heard
    assert decide(POLICY, reports).action is Action.BLOCK


async def test_one_failing_detector_spares_its_siblings_and_degrades_only_what_nobody_heard() -> None:
    broken = ScriptedDetector({"bad": 0.9}, name="broken", failure="no model")
    fine = ScriptedDetector({"odd": 0.7}, name="fine")
    reports = await _tiers([], [broken, fine]).examine(SUBJECT, POLICY)
    kinds = {getattr(report, "detector", None): type(report) for report in reports}
    assert kinds["broken"] is Failed
    assert kinds["fine"] is Ran
    decision = decide(POLICY, reports)
    assert decision.degraded
    assert decision.action is Action.WARN
    heard_elsewhere = ScriptedDetector({"bad": 0.2}, name="third")
    reports = await _tiers([], [broken, fine], [heard_elsewhere]).examine(SUBJECT, POLICY)
    assert not decide(POLICY, reports).degraded


async def test_a_detector_past_its_deadline_times_out_as_a_value() -> None:
    slow = ScriptedDetector({"bad": 0.9}, name="slow", pause=5)
    fine = ScriptedDetector({"odd": 0.7}, name="fine")
    async with asyncio.timeout(2):
        reports = await _tiers([], [slow, fine], deadline=0.05).examine(SUBJECT, POLICY)
    failed = next(report for report in reports if isinstance(report, Failed))
    assert failed.timed_out
    assert decide(POLICY, reports).degraded


async def test_siblings_run_side_by_side() -> None:
    pair = [ScriptedDetector({"bad": 0.1}, name=str(n), pause=0.1) for n in range(5)]
    started = asyncio.get_running_loop().time()
    await _tiers([], pair, deadline=5).examine(SUBJECT, POLICY)
    assert asyncio.get_running_loop().time() - started < 0.4


async def test_a_bug_surfaces_and_is_not_taken_for_a_failure() -> None:
    class Buggy(ScriptedDetector):
        async def detect(self, subject, asked):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await _tiers([Buggy({"bad": 0.1})]).examine(SUBJECT, POLICY)


async def test_a_judge_may_raise_but_not_lower_where_the_policy_says_so() -> None:
    for later, expected in ((0.1, 0.6), (0.9, 0.9)):
        pipeline = _tiers([ScriptedDetector({"sly": 0.6})], [], [ScriptedDetector({"sly": later})])
        assert decide(POLICY, await pipeline.examine(SUBJECT, POLICY)).scores["sly"] == expected
    pipeline = _tiers([ScriptedDetector({"bad": 0.6})], [], [ScriptedDetector({"bad": 0.1})])
    assert decide(POLICY, await pipeline.examine(SUBJECT, POLICY)).scores["bad"] == 0.1
