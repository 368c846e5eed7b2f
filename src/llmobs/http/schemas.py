"""Bodies in and out. What a client may send is validated here, with the words that it is told."""

from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from llmobs.by_identity import ByIdentity
from llmobs.domain.interval import Interval
from llmobs.domain.record import CoverageEntry, EvidenceEntry, Record
from llmobs.domain.risk import Action, Severity
from llmobs.domain.subject import Kind
from llmobs.errors import BodyInvalid, TextTooLong

MAX_BATCH = 100
MAX_DEPTH = 64
"""Levels of nesting that a context may have."""

NO_CONTEXT = msgspec.Raw(b"null")

T = TypeVar("T")


class DetectRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One text to screen, with what is known about where it came from."""

    llm_response: Annotated[str, Meta(min_length=1, description="The text to look at.")]
    context: Annotated[
        msgspec.Raw,
        Meta(
            description="Free JSON object, up to 64 levels deep. Understood keys: `query`, `documents` (strings or `{id, text}`), "
            "`reference`, `system_prompt`, `domain`; `subject_id` names a person and is kept as a keyed hash alone; others are stored and ignored.",
            extra_json_schema={"type": ["object", "null"]},
        ),
    ] = msgspec.field(default_factory=lambda: NO_CONTEXT)
    kind: Annotated[
        Kind, Meta(description="`response`: a model answered; `prompt`: a user or a tool wrote it.")
    ] = Kind.RESPONSE
    policy: Annotated[str | None, Meta(description="Id of a loaded policy; null for the default.")] = None


class PolicyReference(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The policy that decided."""

    id: str
    version: int


class DetectAnswer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The verdict on one text."""

    request_id: Annotated[str, Meta(description="UUIDv7; names the row in the log.")]
    action: Action
    blocked: bool
    tier_used: Annotated[int, Meta(ge=1, le=3)]
    method: str
    failure_class: str | None
    severity: Severity | None
    confidence: Annotated[float, Meta(ge=0, le=1, description="Probability that the decision is right.")]
    processing_time_ms: float
    explanation: str
    scores: Annotated[dict[str, float], Meta(description="Calibrated probability per class looked for.")]
    evidence: Annotated[
        tuple[EvidenceEntry, ...],
        Meta(description="`start` and `end` are half-open code points of the text as received."),
    ]
    coverage: tuple[CoverageEntry, ...]
    degraded: Annotated[bool, Meta(description="A failed detector left an open class unheard.")]
    policy: PolicyReference
    recorded: Annotated[bool, Meta(description="The verdict stands in the log.")]


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error, as RFC 9457 has it."""

    type: Annotated[str, Meta(description="Stable; docs/errors.md lists them.")]
    title: str
    status: int
    detail: str = ""
    instance: str | None = None


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The verdicts on a batch, in the order of the items; a failed item holds its problem."""

    total: int
    results: Annotated[
        tuple[Any, ...],
        Meta(
            extra_json_schema={
                "items": {
                    "oneOf": [
                        {"$ref": "#/components/schemas/DetectAnswer"},
                        {"$ref": "#/components/schemas/ProblemDetails"},
                    ]
                }
            }
        ),
    ]


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded verdict."""

    id: int
    request_id: str
    created_at: datetime
    llm_response: Annotated[str, Meta(description="The text as STORE_TEXT keeps it.")]
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
    client_id: str | None


class RecentLogs(msgspec.Struct, frozen=True, kw_only=True):
    """The newest verdicts, newest first."""

    total: Annotated[int, Meta(description="How many `logs` holds.")]
    logs: tuple[LogEntry, ...]


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of verdicts, newest first."""

    logs: tuple[LogEntry, ...]
    next_cursor: Annotated[
        str | None, Meta(description="Pass it as `cursor` for the next page; null at the end.")
    ]


class TierDistribution(msgspec.Struct, frozen=True, kw_only=True):
    """Share of recorded verdicts by highest tier used, in percent."""

    tier1_pct: float
    tier2_pct: float
    tier3_pct: float


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How the service is."""

    status: Annotated[str, Meta(description="`healthy`, `degraded` or `unhealthy`.")]
    tier_distribution: TierDistribution
    health_message: str


class TrafficHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the tiers share the traffic as expected."""

    is_healthy: bool
    message: str


class ClassPrecision(msgspec.Struct, frozen=True, kw_only=True):
    """What feedback says of one class: of its warnings and blocks, how many were right."""

    failure_class: str
    flagged: Annotated[int, Meta(description="Warnings and blocks with feedback.")]
    right: Annotated[int, Meta(description="Of those, the right ones.")]
    precision: Annotated[
        Interval | None, Meta(description="Their share with its 95 % Wilson interval; null of nothing.")
    ]
    missed: Annotated[int, Meta(description="Texts of the class, by feedback, that were not flagged for it.")]


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts from the database: the same on every replica."""

    total_detections: int
    tier1_count: int
    tier2_count: int
    tier3_count: int
    distribution: TierDistribution
    health: TrafficHealth
    feedback: Annotated[tuple[ClassPrecision, ...], Meta(description="Precision by class, from feedback.")]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of readiness."""

    name: str
    ok: bool
    detail: str
    required: bool = True
    """Whether the service is not ready without it."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether requests may be sent here, and why not."""

    ready: bool
    checks: tuple[Check, ...]


class Liveness(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers."""

    status: str


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """What answers here."""

    service: str
    version: str
    status: str
    docs: str


_encode = msgspec.json.Encoder().encode
_detect_decoder = msgspec.json.Decoder(DetectRequest)
_batch_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_object_decoder = msgspec.json.Decoder(dict[str, Any])


def read_as(form: type[T], body: bytes) -> T:
    """A body of that form; BodyInvalid says what is wrong and where, never quoting it."""
    return _decode(msgspec.json.Decoder(form), body)


def read_detect(body: bytes | msgspec.Raw) -> DetectRequest:
    """One request; BodyInvalid says what is wrong and where, never quoting the text."""
    return _decode(_detect_decoder, body)


def read_batch(body: bytes) -> list[msgspec.Raw]:
    """The items of a batch, each still to be validated by itself."""
    return _decode(_batch_decoder, body)


def read_context(raw: msgspec.Raw, max_bytes: int) -> tuple[dict[str, Any] | None, int]:
    """The context and its size in bytes. TextTooLong past `max_bytes`, BodyInvalid past MAX_DEPTH."""
    data = bytes(raw)
    if data == b"null":
        return None, 0
    if len(data) > max_bytes:
        raise TextTooLong(f"context has {len(data)} bytes; at most {max_bytes} are taken.")
    if is_too_deep(data):
        raise BodyInvalid(f"context is nested deeper than {MAX_DEPTH} levels.")
    try:
        return _decode(_object_decoder, data), len(data)
    except BodyInvalid as error:
        raise BodyInvalid(f"context: {error}") from None


def is_too_deep(data: bytes) -> bool:
    """Whether JSON is nested deeper than MAX_DEPTH levels."""
    return data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH


def _decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    if not body:
        raise BodyInvalid("The body is empty; send JSON.")
    try:
        return decoder.decode(body)
    except UnicodeDecodeError:
        raise BodyInvalid("The body is not UTF-8.") from None
    except RecursionError:
        raise BodyInvalid("The body is nested too deeply.") from None
    except msgspec.ValidationError as error:
        raise BodyInvalid(f"{error}.") from None
    except msgspec.DecodeError as error:
        # The decoder says "truncated" of a lone surrogate escape as well.
        raise BodyInvalid(
            f"{str(error).replace('truncated', 'truncated, or holds half a surrogate pair')}."
        ) from None


def _depth(data: bytes) -> int:
    """Deepest nesting of valid JSON, in levels."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in data:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


class _Written(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """DetectAnswer with its longest parts written already."""

    request_id: str
    action: Action
    blocked: bool
    tier_used: int
    method: str
    failure_class: str | None
    severity: Severity | None
    confidence: float
    processing_time_ms: float
    explanation: str
    scores: msgspec.Raw
    evidence: msgspec.Raw
    coverage: msgspec.Raw
    degraded: bool
    policy: PolicyReference
    recorded: bool


MOST_SHARED = 1_000
"""Repeated verdicts of which parts of the answer are at hand."""
_Parts = tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]
_shared: ByIdentity[tuple[tuple[EvidenceEntry, ...], dict[str, float], _Parts]] = ByIdentity(MOST_SHARED)
"""By the coverage: the evidence and the scores beside it, and the JSON of all three. No record is held, for it has a text."""


def detect_answer(record: Record, *, recorded: bool) -> bytes:
    """The answer that a record stands for: a DetectAnswer in JSON."""
    scores, evidence, coverage = _parts(record)
    return _encode(
        _Written(
            request_id=record.request_id,
            action=record.action,
            blocked=record.blocked,
            tier_used=record.tier_used,
            method=record.method,
            failure_class=record.failure_class,
            severity=record.severity,
            confidence=record.confidence,
            processing_time_ms=record.processing_time_ms,
            explanation=record.explanation,
            scores=scores,
            evidence=evidence,
            coverage=coverage,
            degraded=record.degraded,
            policy=PolicyReference(id=record.policy_id, version=record.policy_version),
            recorded=recorded,
        )
    )


def _parts(record: Record) -> _Parts:
    """Scores, evidence and coverage. Records of a repeated text share them, and they are written once."""
    known = _shared.get(record.coverage)
    if known is not None and known[0] is record.evidence and known[1] is record.scores:
        return known[2]
    parts = (
        msgspec.Raw(_encode(record.scores)),
        msgspec.Raw(_encode(record.evidence)),
        msgspec.Raw(_encode(record.coverage)),
    )
    if any(entry.cached for entry in record.coverage):
        _shared.put(record.coverage, (record.evidence, record.scores, parts))
    return parts
