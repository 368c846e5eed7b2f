"""Spans and metrics of the judge's calls."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.judge_server import Fault, JudgeServer
from support.judging import asked, judging, openai_settings, subject

from llmobs.detect.detector import DetectorFailed
from llmobs.telemetry.instruments import Telemetry
from llmobs.telemetry.judging import JudgeTelemetry


async def test_calls_are_client_spans_after_the_conventions() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry()
    listening = JudgeTelemetry(telemetry, provider.get_tracer("test"))
    async with JudgeServer() as server:
        settings = openai_settings(server, judge_prices="scripted=10/100", judge_call_timeout_ms=200)
        async with judging(settings, listening) as judge:
            listening.watch(["openai"], lambda: judge.judge.chain.in_flight)
            await judge.detector.detect(subject("One gadfly."), asked("toxicity"))
            server.fault = Fault.HANGING
            with pytest.raises(DetectorFailed):
                await judge.detector.detect(subject("Two."), asked("toxicity"))
    good, *bad = exporter.get_finished_spans()
    assert (good.name, good.kind) == ("chat scripted", SpanKind.CLIENT)
    assert dict(good.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
    }
    assert {(span.attributes or {})["error.type"] for span in bad} == {"timeout"}
    assert all(span.status.status_code is StatusCode.ERROR for span in bad)
    shown = telemetry.exposition().decode()
    assert "gadfly" not in shown
    assert "gen_ai_client_token_usage_sum{" in shown
    assert 'judge_cost_usd_total{model="scripted",provider="openai"} 0.003' in shown
    assert 'judge_lookups_total{result="miss"} 2.0' in shown
    assert "judge_in_flight 0.0" in shown
    telemetry.close()
