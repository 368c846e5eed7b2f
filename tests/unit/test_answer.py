"""The answer to one text is a DetectAnswer, however it is written."""

import gc
import sys

import msgspec
import pytest
from support.store import make_record

from llmobs.domain.record import CoverageEntry, EvidenceEntry, Record
from llmobs.domain.risk import Action, Severity
from llmobs.http.schemas import DetectAnswer, PolicyReference, detect_answer
from llmobs.store.records import row_of

COVERAGE = (
    CoverageEntry(tier=1, detector="rules", status="ran", ms=0.1),
    CoverageEntry(tier=2, detector="encoder", status="skipped", reason="settled"),
)
AGAIN = (CoverageEntry(tier=1, detector="rules", status="ran", ms=0.0, cached=True),)
EVIDENCE = (
    EvidenceEntry(
        failure_class="bad", source="rule:a.b", start=0, end=2, score=0.9, note='says "\u0000" \u2028'
    ),
)


def whole(record: Record, *, recorded: bool) -> DetectAnswer:
    """The answer, field by field."""
    same = {name: getattr(record, name) for name in DetectAnswer.__struct_fields__ if hasattr(record, name)}
    policy = PolicyReference(id=record.policy_id, version=record.policy_version)
    return DetectAnswer(**same, policy=policy, recorded=recorded)


@pytest.mark.parametrize("coverage", [COVERAGE, AGAIN])
@pytest.mark.parametrize("recorded", [True, False])
def test_it_is_written_as_its_schema_has_it(coverage: tuple[CoverageEntry, ...], recorded: bool) -> None:
    record = make_record(
        coverage=coverage,
        evidence=EVIDENCE,
        scores={"bad": 0.9},
        action=Action.BLOCK,
        severity=Severity.HIGH,
        failure_class="bad",
    )
    for _ in range(2):  # of a repeated text the second is written from what the first left
        answer = detect_answer(record, recorded=recorded)
        assert msgspec.json.decode(answer, type=DetectAnswer) == whole(record, recorded=recorded)
        assert answer == msgspec.json.encode(whole(record, recorded=recorded))


def test_a_shared_part_is_not_taken_for_another_record_s() -> None:
    first = make_record(coverage=AGAIN, evidence=EVIDENCE, scores={"bad": 0.9})
    other = msgspec.structs.replace(first, evidence=(), scores={"bad": 0.1})
    for record in (first, other, first):
        assert msgspec.json.decode(detect_answer(record, recorded=True), type=DetectAnswer) == whole(
            record, recorded=True
        )


def test_no_record_is_kept_for_what_it_shares() -> None:
    record = make_record(
        coverage=(msgspec.structs.replace(AGAIN[0], tier=2),), llm_response="a text of its own"
    )
    detect_answer(record, recorded=True)
    row_of(record, postgres=False)
    held = sys.getrefcount(record)
    assert held <= 2, gc.get_referrers(record)  # this function's, and the count's own
