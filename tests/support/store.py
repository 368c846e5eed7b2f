"""Databases at head, and records to put into them."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from llmobs.domain.record import CoverageEntry, EvidenceEntry, Record
from llmobs.domain.risk import Action, Severity
from llmobs.domain.subject import Kind
from llmobs.ids import new_request_id


class Heard:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.failures: list[str] = []

    def committed(self, rows: int, seconds: float) -> None:
        self.batches.append(rows)

    def commit_failed(self, reason: str) -> None:
        self.failures.append(reason)


def make_record(**changes: Any) -> Record:
    """A record with every field filled, changed as asked."""
    fields: dict[str, Any] = {
        "request_id": new_request_id(),
        "created_at": datetime.now(UTC),
        "llm_response": "The sky is blue.",
        "context": {"query": "Which colour?", "documents": [{"text": "blue", "id": "d1"}]},
        "kind": Kind.RESPONSE,
        "action": Action.WARN,
        "blocked": False,
        "tier_used": 1,
        "method": "rules",
        "confidence": 0.875,
        "processing_time_ms": 0.5,
        "failure_class": "toxicity",
        "severity": Severity.HIGH,
        "explanation": "toxicity at 0.88: warn.",
        "scores": {"toxicity": 0.875, "bias": 0.001},
        "evidence": (
            EvidenceEntry(
                failure_class="toxicity",
                source="rule:toxicity.insult",
                start=4,
                end=7,
                score=0.875,
                note="insult",
            ),
            EvidenceEntry(
                failure_class="bias", source="heads:x", start=None, end=None, score=0.1, note="", trial=True
            ),
        ),
        "coverage": (
            CoverageEntry(tier=1, detector="rules", status="ran", ms=0.25, seen=0.5),
            CoverageEntry(tier=2, detector="heads", status="skipped", reason="settled"),
        ),
        "degraded": True,
        "policy_id": "default",
        "policy_version": 3,
        "client_id": "client-1",
    }
    return Record(**(fields | changes))


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until the condition holds; TimeoutError when it does not come to hold."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # the condition is anyone's, and has no event
            await asyncio.sleep(0.01)
