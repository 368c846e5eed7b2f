"""The service's parts with spans around them: request -> detect -> tier -> (judge's calls), journal.

They stand in for the plain parts only where traces are exported, so the plain ones carry no cost.
Attributes hold names, counts and actions, never any text.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_span_id, format_trace_id

from llmobs.detect.pipeline import Departed, Pipeline, Tier
from llmobs.domain.detection import Failed, Ran, Report, Skipped
from llmobs.domain.record import Record
from llmobs.domain.subject import Subject
from llmobs.http.edge import METHODS, SPAN, Edge
from llmobs.screen import Inquiry, Journal, Recalled, Receipt, Screen, Screened

UNTRACED = ("/health", "/metrics", "/docs")
"""Paths of probes, scrapes and pages: spans of them tell nothing and outnumber the rest."""

Message = dict[str, Any]


class TracedEdge:
    """A server span for each request, joined to the caller's trace."""

    def __init__(self, edge: Edge, tracer: Tracer) -> None:
        self._edge = edge
        self._tracer = tracer

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http" or scope["path"].startswith(UNTRACED):
            await self._edge(scope, receive, send)
            return
        fields = propagate.get_global_textmap().fields
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name.decode("latin-1") in fields
        }
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._tracer.start_as_current_span(
            method,
            context=propagate.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.scheme": scope.get("scheme", "http")},
        ) as span:
            context = span.get_span_context()
            scope[SPAN] = (
                f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
                f"-{int(context.trace_flags):02x}"
            ).encode()
            try:
                await self._edge(scope, receive, sending)
            finally:
                if span.is_recording():
                    _answered(span, method, scope.get("path_template"), status)


def _answered(span: Span, method: str, route: str | None, status: int) -> None:
    if route:
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))


class TracedScreen(Screen):
    """A span `detect` for each text, with what was decided as a `gen_ai.evaluation.result` event."""

    def __init__(self, tracer: Tracer, **parts: Any) -> None:
        super().__init__(**parts)
        self._tracer = tracer

    async def screen(self, inquiry: Inquiry, recalled: Recalled | None = None) -> Screened:
        """See Screen."""
        with self._tracer.start_as_current_span("detect", record_exception=False) as span:
            screened = await super().screen(inquiry, recalled)
            if span.is_recording():
                _decided(span, inquiry, screened)
            return screened


def _decided(span: Span, inquiry: Inquiry, screened: Screened) -> None:
    record = screened.record
    label = record.action.value
    span.set_attributes(
        {
            "llmobs.request_id": record.request_id,
            "llmobs.kind": inquiry.kind.value,
            "llmobs.chars": len(inquiry.text),
            "llmobs.policy.id": record.policy_id,
            "llmobs.policy.version": record.policy_version,
            "llmobs.action": label,
            "llmobs.failure_class": record.failure_class or "none",
            "llmobs.tier_used": record.tier_used,
            "llmobs.degraded": record.degraded,
            "llmobs.replayed": screened.replayed,
        }
    )
    span.add_event(
        "gen_ai.evaluation.result",
        {
            "gen_ai.evaluation.name": record.failure_class or "llmobs",
            "gen_ai.evaluation.score.label": label,
            "gen_ai.evaluation.score.value": record.confidence,
        },
    )


class TracedPipeline(Pipeline):
    """A span for each tier that is asked, with one event a detector."""

    def __init__(self, pipeline: Pipeline, tracer: Tracer) -> None:
        super().__init__(pipeline.tiers, pipeline.crowded)
        self._tracer = tracer

    async def _ask(
        self, tier: Tier, subject: Subject, asked: frozenset[str], departed: Departed | None
    ) -> list[Report]:
        if not asked:
            return await super()._ask(tier, subject, asked, departed)
        with self._tracer.start_as_current_span(
            f"tier {tier.number}",
            attributes={"llmobs.tier": tier.number, "llmobs.tier.name": tier.name},
        ) as span:
            reports = await super()._ask(tier, subject, asked, departed)
            if span.is_recording():
                for report in reports:
                    _reported(span, report)
            return reports


def _reported(span: Span, report: Report) -> None:
    told: dict[str, str | float] = {"llmobs.detector": report.detector}
    match report:
        case Ran():
            told |= {"llmobs.status": "ran", "llmobs.ms": round(report.ms, 3)}
        case Skipped():
            told |= {"llmobs.status": "skipped", "llmobs.reason": report.reason}
        case Failed():
            told |= {"llmobs.status": "failed", "llmobs.ms": round(report.ms, 3)}
            told["error.type"] = "timeout" if report.timed_out else "detector_failed"
            span.set_status(Status(StatusCode.ERROR, f"{report.detector} failed"))
    span.add_event("detector", told)


class TracedJournal:
    """A span `journal` from the handing over of a verdict to its commit."""

    def __init__(self, journal: Journal, tracer: Tracer) -> None:
        self._journal = journal
        self._tracer = tracer

    async def append(self, record: Record) -> Receipt:
        """See Journal."""
        with self._tracer.start_as_current_span("journal", record_exception=False) as span:
            receipt = await self._journal.append(record)
            span.set_attribute("llmobs.recorded", receipt.recorded)
            return receipt

    async def by_idempotency_key(self, client_id: str | None, key: str) -> Record | None:
        """See Journal."""
        with self._tracer.start_as_current_span("journal lookup", record_exception=False):
            return await self._journal.by_idempotency_key(client_id, key)
