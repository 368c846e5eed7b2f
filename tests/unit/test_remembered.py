"""Verdicts that are known: when they are, when they must not be, and what they take."""

import gc
import tracemalloc
from collections import Counter
from typing import Any

import pytest

from llmobs.detect.pipeline import Pipeline, Tier
from llmobs.domain.detection import Failed, Findings, Ran, Skipped
from llmobs.domain.policy import ClassPolicy, OnFailure, Policy
from llmobs.domain.record import Record, coverage_entry
from llmobs.domain.risk import Action, Severity
from llmobs.domain.subject import Kind, Span, Subject
from llmobs.domain.verdict import Verdict
from llmobs.remembered import Remembered, key_of
from llmobs.screen import Inquiry, Screen, examine
from llmobs.testing import ScriptedDetector

LIMITS = ClassPolicy(severity=Severity.CRITICAL, clear=0.1, warn=0.5, block=0.8, on_failure=OnFailure.WARN)
HEARS = frozenset({"bad"})
POLICY = Policy(id="p", version=1, classes={"bad": LIMITS})


class Written:
    """A journal in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def append(self, record: Record) -> "Written":
        self.records.append(record)
        return self

    recorded = True
    duplicate_of = None

    async def by_idempotency_key(self, client_id: str | None, key: str) -> Record | None:
        return None


class Parts:
    """A screen with all that it touches in reach."""

    def __init__(self, detector: Any, *, max_bytes: int = 1_000_000, partial: frozenset[str] = frozenset()):
        self.detector = detector
        self.policies = {"p": POLICY}
        self.rules: object = object()
        self.counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.verdicts: list[Verdict] = []
        self.journal = Written()
        self.remembered = Remembered(
            max_bytes,
            lambda: (self.rules, self.policies),
            lambda: partial,
            lambda name, attributes: self.counts.update([(name, attributes)]),
        )
        self.screen = Screen(
            pipeline=Pipeline([Tier(number=1, name="one", detectors=(detector,))]),
            policies=self,  # type: ignore[arg-type]
            journal=self.journal,
            observer=self,
            find_sensitive=lambda _: [],
            default_policy="p",
            remembered=self.remembered,
        )

    @property
    def current(self) -> dict[str, Policy]:
        return self.policies

    def verdict(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)

    async def ask(self, text: str = "a text", **more: Any) -> Record:
        return (await self.screen.screen(Inquiry(text=text, **more))).record

    def hits(self) -> int:
        return self.counts["result_cache_lookups", ("hit",)]


async def test_an_equal_text_is_answered_from_memory_counted_and_recorded() -> None:
    parts = Parts(ScriptedDetector({"bad": 0.9}))
    first, second = await parts.ask(), await parts.ask()
    assert len(parts.detector.heard) == 1
    assert parts.hits() == 1
    assert len(parts.journal.records) == len(parts.verdicts) == 2
    assert first.request_id != second.request_id
    same = ("action", "failure_class", "confidence", "scores", "evidence", "explanation", "tier_used")
    assert [getattr(first, name) for name in same] == [getattr(second, name) for name in same]
    assert second.action is Action.BLOCK


async def test_coverage_says_that_the_detector_looked_before() -> None:
    parts = Parts(ScriptedDetector({}, hears=HEARS))
    first, second = await parts.ask(), await parts.ask()
    assert [entry.cached for entry in first.coverage] == [False]
    assert [(entry.status, entry.cached, entry.ms) for entry in second.coverage] == [("ran", True, 0.0)]


@pytest.mark.parametrize(
    "other",
    [
        {"text": "a text."},
        {"kind": Kind.PROMPT},
        {"context": {"query": "why?"}},
        {"client_id": "another"},
    ],
)
async def test_what_differs_is_examined(other: dict[str, Any]) -> None:
    parts = Parts(ScriptedDetector({}, hears=HEARS))
    await parts.ask()
    await parts.ask(**other)
    assert (len(parts.detector.heard), parts.hits()) == (2, 0)


async def test_the_order_of_keys_in_the_context_does_not_matter() -> None:
    parts = Parts(ScriptedDetector({}, hears=HEARS))
    await parts.ask(context={"query": "why?", "domain": "law"})
    await parts.ask(context={"domain": "law", "query": "why?"})
    assert parts.hits() == 1


async def test_a_reload_forgets_everything() -> None:
    parts = Parts(ScriptedDetector({}, hears=HEARS))
    await parts.ask()
    parts.rules = object()
    await parts.ask()
    parts.policies = dict(parts.policies)
    await parts.ask()
    assert (len(parts.detector.heard), parts.hits()) == (3, 0)
    assert len(parts.remembered) == 1


async def test_a_verdict_made_across_a_reload_is_not_kept() -> None:
    class Reloading(ScriptedDetector):
        async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
            parts.rules = object()
            return await super().detect(subject, asked)

    parts = Parts(Reloading({}, hears=HEARS))
    await parts.ask()
    await parts.ask()
    assert len(parts.detector.heard) == 2
    assert len(parts.remembered) == 0


async def test_a_degraded_verdict_is_not_kept() -> None:
    parts = Parts(ScriptedDetector({}, failure="broken", hears=HEARS))
    assert (await parts.ask()).degraded
    await parts.ask()
    assert (parts.hits(), len(parts.remembered)) == (0, 0)


async def _verdict_of(*reports: Ran | Failed | Skipped) -> Verdict:
    made = await examine(Pipeline([]), POLICY, Inquiry(text="x"))
    return Verdict(
        request_id="r",
        decision=made.decision,
        coverage=reports,
        policy_id="p",
        policy_version=1,
        processing_time_ms=1.0,
    )


@pytest.mark.parametrize(
    "report",
    [
        Ran(tier=3, detector="judge", ms=1.0, hears=HEARS, findings=Findings()),
        Ran(tier=2, detector="encoder", ms=1.0, hears=HEARS, findings=Findings(seen=0.5)),
        Ran(tier=2, detector="encoder", ms=1.0, hears=HEARS, findings=Findings(unheard=HEARS)),
        Failed(tier=2, detector="encoder", ms=1.0, hears=HEARS, reason="no answer"),
    ],
)
async def test_what_another_time_might_tell_otherwise_is_not_kept(report: Ran | Failed) -> None:
    remembered = Remembered(10_000, tuple, frozenset, lambda *_: None)
    generation = remembered.generation()
    remembered.put(b"1", await _verdict_of(report), generation)
    assert remembered.get(b"1") is None
    remembered.put(b"1", await _verdict_of(Skipped(tier=3, detector="judge", reason="settled")), generation)
    assert remembered.get(b"1") is not None


async def test_what_a_rule_on_a_partial_roll_out_hit_is_not_kept() -> None:
    detector = ScriptedDetector({"bad": 0.9})
    source = (await Parts(detector).ask()).evidence[0].source
    parts = Parts(detector, partial=frozenset({source}))
    await parts.ask()
    await parts.ask()
    assert parts.hits() == 0


async def test_it_stays_within_its_bytes_and_keeps_what_was_asked_for_last() -> None:
    parts = Parts(ScriptedDetector({}, hears=HEARS), max_bytes=13_000)
    for text in ("one", "two", "three"):
        await parts.ask(text)
    await parts.ask("one")
    await parts.ask("four")
    assert parts.remembered.size <= 13_000
    assert parts.counts["result_cache_evictions", ()] == 4 - len(parts.remembered)
    hits = parts.hits()
    await parts.ask("one")
    await parts.ask("two")
    assert parts.hits() == hits + 1


async def test_secrets_are_masked_in_the_record_of_a_known_text_as_well() -> None:
    class Sensitive(ScriptedDetector):
        async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
            self.heard.append((subject, asked))
            return Findings(sensitive=(Span(2, 6),))

    parts = Parts(Sensitive({}, hears=HEARS))
    first, second = await parts.ask(), await parts.ask()
    assert parts.hits() == 1
    assert first.llm_response == second.llm_response
    assert "text" not in second.llm_response


async def test_the_estimated_size_is_near_the_measured_one() -> None:
    parts = Parts(ScriptedDetector({"bad": 0.9}), max_bytes=100_000_000)
    await parts.ask("warm")
    # The journal and the observer of this test keep records too; they are emptied before measuring.
    gc.collect()
    tracemalloc.start()
    before, told = tracemalloc.get_traced_memory()[0], parts.remembered.size
    for number in range(500):
        for _ in range(2):  # what records say of it comes with the second time
            await parts.ask(f"text {number}")
    parts.journal.records.clear()
    parts.verdicts.clear()
    parts.detector.heard.clear()
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.7 < (parts.remembered.size - told) / used < 4


async def test_the_collector_does_not_follow_what_is_remembered() -> None:
    parts = Parts(ScriptedDetector({"bad": 0.9}))
    for _ in range(2):
        await parts.ask("a text")
    key = key_of("a text", Kind.RESPONSE, None, POLICY, None)
    known = parts.remembered.get(key)
    assert known is not None
    assert known.told is not None
    held = (
        known,
        known.decision,
        known.told,
        *known.coverage,
        *known.told.coverage,
        *known.decision.evidence,
    )
    assert len(held) > 5
    # Its full collections stopped all answers, longer the more was remembered.
    assert not any(gc.is_tracked(one) for one in held)


def test_a_cached_report_is_told_as_such() -> None:
    report = Ran(tier=1, detector="rules", ms=0.0, hears=HEARS, findings=Findings(), cached=True)
    assert coverage_entry(report).cached


def test_texts_and_contexts_cannot_be_mistaken_for_each_other() -> None:
    one = key_of('a{"b":1}', Kind.RESPONSE, None, POLICY, None)
    assert one != key_of("a", Kind.RESPONSE, {"b": 1}, POLICY, None)
