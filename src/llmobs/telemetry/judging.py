"""What the LLM judge does, as spans and metrics after OpenTelemetry's conventions for generative AI."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from time import perf_counter
from typing import Protocol

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from llmobs.telemetry.instruments import SCOPE, Telemetry

CHAT = "chat"


class Tokens(Protocol):
    """A reply, as far as telemetry looks at it."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...


class CallRecord:
    """Takes down how one call ended, on its span and in the metrics."""

    def __init__(self, telemetry: Telemetry, span: Span, provider: str, model: str) -> None:
        self._telemetry = telemetry
        self._span = span
        self._provider = provider
        self._model = model
        self.error = ""
        """Why it failed; empty for a reply."""

    def replied(self, completion: Tokens, cost_usd: float | None) -> None:
        """It brought a reply."""
        into, out = completion.input_tokens, completion.output_tokens
        self._span.set_attribute("gen_ai.usage.input_tokens", into)
        self._span.set_attribute("gen_ai.usage.output_tokens", out)
        for kind, tokens in (("input", into), ("output", out)):
            key = (CHAT, self._provider, self._model, kind)
            self._telemetry.observe("gen_ai.client.token.usage", key, tokens)
        if cost_usd is not None:
            self._telemetry.count("judge_cost_usd", (self._provider, self._model), cost_usd)

    def failed(self, reason: str) -> None:
        """It brought none; `reason` comes out of a bounded set."""
        self.error = reason
        self._span.set_attribute("error.type", reason)
        self._span.set_status(Status(StatusCode.ERROR))


class JudgeTelemetry:
    """Listens to the judge. Holds no text and no client's name."""

    def __init__(self, telemetry: Telemetry, tracer: trace.Tracer | None = None) -> None:
        self._telemetry = telemetry
        self._tracer = tracer or trace.get_tracer(SCOPE)
        self._states: dict[str, int] = {}
        telemetry.gauges["judge_breaker_state"] = self._breakers
        for result in ("memory", "database", "shared", "miss"):
            telemetry.count("judge_lookups", (result,), 0)

    def watch(self, providers: Iterable[str], in_flight: Callable[[], int]) -> None:
        """Show these providers' breakers, and how many calls are out, from the first scrape on."""
        self._states |= dict.fromkeys(providers, 0)
        self._telemetry.gauges["judge_in_flight"] = lambda: [((), in_flight())]

    def _breakers(self) -> Iterable[tuple[tuple[str, ...], float]]:
        return [((name,), float(state)) for name, state in self._states.items()]

    @contextmanager
    def call(self, provider: str, model: str) -> Iterator[CallRecord]:
        """A client span `chat {model}` and its duration, however the call ends."""
        started = perf_counter()
        with self._tracer.start_as_current_span(
            f"{CHAT} {model}",
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": CHAT,
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": model,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            record = CallRecord(self._telemetry, span, provider, model)
            try:
                yield record
            except BaseException:
                record.failed("cancelled")
                raise
            finally:
                key = (CHAT, provider, model, record.error)
                self._telemetry.observe("gen_ai.client.operation.duration", key, perf_counter() - started)

    def failed_over(self, provider: str, reason: str) -> None:
        """The next provider was tried."""
        self._telemetry.count("judge_failovers", (provider, reason))

    def breaker_moved(self, provider: str, state: IntEnum) -> None:
        """A provider's breaker changed its state."""
        self._states[provider] = int(state)
        self._telemetry.count("judge_breaker_moves", (provider, state.name.lower()))

    def looked_up(self, result: str) -> None:
        """Where a decision came from."""
        self._telemetry.count("judge_lookups", (result,))

    def refused(self, reason: str) -> None:
        """A question was not asked."""
        self._telemetry.count("judge_refusals", (reason,))

    def mended(self, outcome: str) -> None:
        """A reply did not hold the form."""
        self._telemetry.count("judge_bad_replies", (outcome,))

    def quote_dropped(self) -> None:
        """A quotation does not occur in the text."""
        self._telemetry.count("judge_quotes_dropped", ())

    def lowering_refused(self) -> None:
        """A score was not lowered, for the control was not seen."""
        self._telemetry.count("judge_lowerings_refused", ())
