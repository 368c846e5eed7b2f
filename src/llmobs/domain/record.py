"""What is kept of one request: the row of `detection_logs`, and all that an answer needs."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

import msgspec

from llmobs.domain.detection import Evidence, Failed, Ran, Report, Skipped
from llmobs.domain.risk import Action, Severity
from llmobs.domain.subject import Kind, Span
from llmobs.domain.verdict import Decision


class EvidenceEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One reason, flat as it is answered and stored. Offsets are half-open code points."""

    failure_class: str
    source: str
    start: int | None
    end: int | None
    score: float
    note: str
    trial: bool = False


class CoverageEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one detector did: `ran`, `skipped`, `failed` or `timed_out`."""

    tier: int
    detector: str
    status: str
    reason: str | None = None
    ms: float | None = None
    seen: float | None = None
    """Share of the text looked at, 0 to 1."""
    model: str | None = None
    """The language model that was asked."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    """Estimate; absent where no price is known."""
    cached: bool = False
    """The answer was known from an earlier, equal question."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One verdict with its request, as recorded."""

    request_id: str
    """UUIDv7 in its usual text form; unique."""
    created_at: datetime
    """Aware, UTC."""
    llm_response: str
    """The text as the storage setting keeps it: redacted, in full, or a hash."""
    context: dict[str, Any] | None
    kind: Kind
    action: Action
    blocked: bool
    tier_used: int
    method: str
    confidence: float
    processing_time_ms: float
    failure_class: str | None
    severity: Severity | None
    explanation: str
    scores: dict[str, float]
    evidence: tuple[EvidenceEntry, ...]
    coverage: tuple[CoverageEntry, ...]
    degraded: bool
    policy_id: str
    policy_version: int
    client_id: str | None = None
    subject_key: str | None = None
    """Keyed hash of the person whom the request names; None where it names none."""
    idempotency_key: str | None = None
    body_sha256: bytes | None = None
    """Digest of the request body, kept beside an idempotency key to tell a repeat from a reuse."""


def evidence_entry(evidence: Evidence) -> EvidenceEntry:
    """The flat form of a piece of evidence."""
    span = evidence.span
    return EvidenceEntry(
        failure_class=evidence.failure_class,
        source=evidence.source,
        start=None if span is None else span.start,
        end=None if span is None else span.end,
        score=round(evidence.score, 4),
        note=evidence.note,
        trial=evidence.trial,
    )


def coverage_entry(report: Report) -> CoverageEntry:
    """The flat form of a report."""
    match report:
        case Skipped():
            return _skipped(report.tier, report.detector, report.reason)
        case Ran():
            seen = report.findings.seen
            usage = report.findings.usage
            if usage is None:
                return CoverageEntry(
                    tier=report.tier,
                    detector=report.detector,
                    status="ran",
                    ms=round(report.ms, 3),
                    seen=None if seen >= 1.0 else round(seen, 4),
                    cached=report.cached,
                )
            unheard = report.findings.unheard
            return CoverageEntry(
                tier=report.tier,
                detector=report.detector,
                status="ran",
                ms=round(report.ms, 3),
                seen=None if seen >= 1.0 else round(seen, 4),
                model=usage.model,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cost_usd=None if usage.cost_usd is None else round(usage.cost_usd, 8),
                cached=usage.cached,
                reason="not judged: " + ", ".join(sorted(unheard)) if unheard else None,
            )
        case Failed():
            return CoverageEntry(
                tier=report.tier,
                detector=report.detector,
                status="timed_out" if report.timed_out else "failed",
                reason=report.reason,
                ms=round(report.ms, 3),
            )


class Told(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a record says of a decision and its reports."""

    scores: dict[str, float]
    evidence: tuple[EvidenceEntry, ...]
    coverage: tuple[CoverageEntry, ...]
    sensitive: tuple[Span, ...]
    """What is masked before the text is stored."""


def told(decision: Decision, coverage: Sequence[Report]) -> Told:
    """As a record has it: flat, and rounded to what means something."""
    return Told(
        scores={name: round(score, 4) for name, score in decision.scores.items()},
        evidence=tuple([evidence_entry(piece) for piece in decision.evidence]),
        coverage=tuple([coverage_entry(report) for report in coverage]),
        sensitive=tuple(
            [span for report in coverage if isinstance(report, Ran) for span in report.findings.sensitive]
        ),
    )


@cache
def _skipped(tier: int, detector: str, reason: str) -> CoverageEntry:
    return CoverageEntry(tier=tier, detector=detector, status="skipped", reason=reason)
