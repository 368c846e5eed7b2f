"""Traces and metrics as a real OTLP receiver gets them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.trace import format_span_id
from support.app import client_for
from support.judge_server import HONEST_WORD, JudgeServer
from support.otlp import Received, over_grpc, over_http, plain

from llmobs.app import create_app
from llmobs.errors import SettingsInvalid
from llmobs.http.edge import Edge
from llmobs.settings import Settings, Synchronous
from llmobs.store.migrate import upgrade
from llmobs.telemetry.otlp import protocol, wanted

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{CALLER}-00f067aa0ba902b7-01"
RULES = """
[pack]
id = "doubtful"
failure_class = "toxicity"
description = "Leaves a text in doubt."
[[rule]]
id = "doubtful.wheelbarrow"
note = "a wheelbarrow"
pattern = "wheelbarrow"
score = 0.6
match = ["a ⟦wheelbarrow⟧"]
skip = ["a cart"]
"""
TEXT = f"The wheelbarrow of the {HONEST_WORD} stands in the rain."

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/doubtful.toml").write_text(RULES)

    @asynccontextmanager
    async def serving(server: JudgeServer | None = None, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
        values: dict[str, Any] = {
            "database_url": f"sqlite:///{tmp_path}/llmobs.db",
            "spool_dir": str(tmp_path / "spool"),
            "sqlite_synchronous": Synchronous.NORMAL,
            "rules_dir": str(tmp_path / "rules"),
            "encoder": False,  # it would settle what these tests leave in doubt
            "canary_seconds": 0.0,
        }
        if server is not None:
            values |= {"judge_base_url": server.openai_url, "judge_model": "scripted"}
        settings = Settings(**(values | more))
        await asyncio.to_thread(upgrade, settings)
        async with client_for(settings) as client:
            yield client

    return serving


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def to(received: Received, **more: str) -> None:
        values = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }
        for name, value in (values | more).items():
            monkeypatch.setenv(name, value)

    return to


async def _arrive(received: Received, condition: Callable[[], Any]) -> None:
    await asyncio.to_thread(received.until, condition)


@pytest.mark.parametrize("receiver", [over_http, over_grpc])
async def test_the_callers_trace_goes_on_from_the_request_to_the_judge_and_the_journal(
    serve: Serve, exporting: Callable[..., None], receiver: Any, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    with receiver() as received:
        exporting(received, OTEL_EXPORTER_OTLP_PROTOCOL="grpc" if receiver is over_grpc else "http/protobuf")
        async with JudgeServer() as server, serve(server) as client:
            answer = await client.post(
                "/v1/detect", json={"llm_response": TEXT}, headers={"traceparent": PARENT}
            )
            assert answer.json()["method"] == "judge"
            await client.get("/health/ready")
            await _arrive(received, lambda: any(s.name == "POST /v1/detect" for s in received.spans()))
    spans = {span.name: span for span in received.spans()}
    assert set(spans) == {"POST /v1/detect", "detect", "tier 1", "tier 3", "chat scripted", "journal"}
    assert {span.trace_id.hex() for span in spans.values()} == {CALLER}
    tree = {
        name: next(
            (n for n, other in spans.items() if other.span_id == span.parent_span_id),
            span.parent_span_id.hex(),
        )
        for name, span in spans.items()
    }
    assert tree == {
        "POST /v1/detect": "00f067aa0ba902b7",
        "detect": "POST /v1/detect",
        "tier 1": "detect",
        "tier 3": "detect",
        "chat scripted": "tier 3",
        "journal": "detect",
    }
    root = plain(spans["POST /v1/detect"].attributes)
    assert (root["http.route"], root["http.response.status_code"]) == ("/v1/detect", 200)
    detect = plain(spans["detect"].attributes)
    assert (detect["llmobs.action"], detect["llmobs.failure_class"]) == ("block", "toxicity")
    assert detect["llmobs.request_id"] == answer.json()["request_id"]
    (event,) = spans["detect"].events
    assert event.name == "gen_ai.evaluation.result"
    assert plain(event.attributes)["gen_ai.evaluation.score.label"] == "block"
    assert plain(spans["chat scripted"].attributes)["gen_ai.usage.input_tokens"] == 100
    assert plain(spans["journal"].attributes)["llmobs.recorded"] is True
    own = format_span_id(int.from_bytes(spans["POST /v1/detect"].span_id))
    assert answer.headers["traceparent"] == f"00-{CALLER}-{own}-01"
    lines = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines() if line.startswith(b"{")]
    (line,) = [line for line in lines if line.get("path") == "/v1/detect"]
    assert (line["trace_id"], line["span_id"]) == (CALLER, own)
    exported = b"".join(request.SerializeToString() for request in [*received.traces, *received.metrics])
    assert HONEST_WORD.encode() not in exported
    assert b"stands in the rain" not in exported


async def test_latency_comes_with_exemplars_that_name_the_span(
    serve: Serve, exporting: Callable[..., None]
) -> None:
    with over_http() as received:
        exporting(received)
        async with serve() as client:
            await client.post("/v1/detect", json={"llm_response": TEXT}, headers={"traceparent": PARENT})
            await _arrive(received, lambda: received.pushes_of("http_request_duration") and received.spans())
    exemplars = [
        exemplar
        for metric in received.pushes_of("http_request_duration")
        for point in metric.histogram.data_points
        if plain(point.attributes)["path"] == "/v1/detect"
        for exemplar in point.exemplars
    ]
    assert len(exemplars) == 1  # told once, with the push after the request
    root = next(span for span in received.spans() if span.name == "POST /v1/detect")
    assert (exemplars[0].trace_id, exemplars[0].span_id) == (root.trace_id, root.span_id)
    assert exemplars[0].as_double > 0
    for name in ("detection_processing_time",):
        assert any(p.exemplars for m in received.pushes_of(name) for p in m.histogram.data_points)


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
async def test_pushed_metrics_say_what_the_scrape_says(
    serve: Serve, exporting: Callable[..., None], temporality: str
) -> None:
    with over_http() as received:
        exporting(received, OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=temporality)
        async with serve() as client:
            for _ in range(3):
                await client.post("/v1/detect", json={"llm_response": TEXT})
                pushes = len(received.metrics)
                await _arrive(received, lambda pushes=pushes: len(received.metrics) > pushes + 1)
            scraped = (await client.get("/metrics")).text
        assert 'http_request_duration_seconds_count{method="POST",path="/v1/detect"} 3.0' in scraped

        def counted(name: str, value: Callable[[Any], float]) -> list[float]:
            return [
                value(point)
                for metric in received.pushes_of(name)
                for point in (metric.histogram if metric.HasField("histogram") else metric.sum).data_points
                if plain(point.attributes).get("path", "/v1/detect") == "/v1/detect"
            ]

        posts = counted("http_request_duration", lambda point: float(point.count))
        requests = counted("http_requests", lambda point: point.as_double)
        batches = counted("journal_batch_rows", lambda point: point.sum)
        total = sum if temporality == "delta" else max
        assert total(posts) == total(requests) == total(batches) == 3
        kind = received.pushes_of("http_request_duration")[-1].histogram.aggregation_temporality
        assert kind == (1 if temporality == "delta" else 2)


async def test_the_resource_is_what_the_environment_says(
    serve: Serve, exporting: Callable[..., None]
) -> None:
    with over_http() as received:
        exporting(
            received,
            OTEL_SERVICE_NAME="guard",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=seven",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        )
        async with serve() as client:
            await client.post("/v1/detect", json={"llm_response": TEXT})
    # The shutdown has sent what waited.
    assert received.spans()
    assert received.metrics
    told = received.resources()
    assert {r["service.name"] for r in told} == {"guard"}
    assert {r["deployment.environment.name"] for r in told} == {"test"}
    assert len({r["service.instance.id"] for r in told}) == 1
    assert {h["x-tenant"] for h in received.headers} == {"seven"}
    assert {h["content-encoding"] for h in received.headers} == {"gzip"}


async def test_the_sampler_is_the_environments_and_the_caller_may_decline(
    serve: Serve, exporting: Callable[..., None]
) -> None:
    with over_http() as received:
        exporting(received)
        async with serve() as client:
            unsampled = await client.post(
                "/v1/detect", json={"llm_response": TEXT}, headers={"traceparent": PARENT[:-2] + "00"}
            )
    assert unsampled.headers["traceparent"].endswith("-00")
    assert received.spans() == []
    with over_http() as received:
        exporting(received, OTEL_TRACES_SAMPLER="always_off")
        async with serve() as client:
            await client.post("/v1/detect", json={"llm_response": TEXT}, headers={"traceparent": PARENT})
    assert received.spans() == []
    assert received.metrics


async def test_a_failed_tier_and_a_failed_request_are_errors(
    serve: Serve, exporting: Callable[..., None], tmp_path: Path
) -> None:
    with over_http() as received:
        exporting(received)
        async with JudgeServer() as server, serve(server) as client:
            await server.stop()
            answer = await client.post("/v1/detect", json={"llm_response": TEXT})
            assert answer.json()["degraded"] is True
            assert (await client.post("/v1/detect", json={"llm_response": 1})).status_code == 422
            assert (await client.get("/nowhere/42")).status_code == 404
    by_name: dict[str, list[Any]] = {}
    for span in received.spans():
        by_name.setdefault(span.name, []).append(span)
    assert by_name["tier 3"][0].status.code == 2
    assert "error.type" in plain(by_name["tier 3"][0].events[0].attributes)
    assert sorted(plain(s.attributes)["http.response.status_code"] for s in by_name["POST /v1/detect"]) == [
        200,
        422,
    ]
    assert "GET" in by_name  # a path that is no route is told by no name of its own
    assert not any("42" in span.name for span in received.spans())


def test_nothing_is_exported_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/x.db", spool_dir=str(tmp_path), encoder=False)
    assert type(create_app(settings)) is Edge
    for environ in ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {"OTEL_SERVICE_NAME": "x"}):
        assert not wanted(environ, "TRACES")
        assert not wanted(environ, "METRICS")


def test_the_standard_variables_decide_what_is_exported() -> None:
    there = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
    assert wanted(there, "TRACES")
    assert wanted(there, "METRICS")
    assert not wanted(there | {"OTEL_SDK_DISABLED": "true"}, "TRACES")
    assert not wanted(there | {"OTEL_TRACES_EXPORTER": "none"}, "TRACES")
    assert wanted(there | {"OTEL_TRACES_EXPORTER": "none"}, "METRICS")
    assert not wanted(there | {"OTEL_METRICS_EXPORTER": "prometheus"}, "METRICS")
    assert wanted({"OTEL_TRACES_EXPORTER": "otlp"}, "TRACES")
    only = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}
    assert wanted(only, "TRACES")
    assert not wanted(only, "METRICS")
    with pytest.raises(SettingsInvalid, match="zipkin"):
        wanted({"OTEL_TRACES_EXPORTER": "zipkin"}, "TRACES")
    assert protocol({}, "TRACES") == "http/protobuf"
    mixed = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf"}
    assert (protocol(mixed, "TRACES"), protocol(mixed, "METRICS")) == ("grpc", "http/protobuf")
    with pytest.raises(SettingsInvalid, match="http/json"):
        protocol({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "TRACES")


async def test_a_collector_that_is_away_costs_no_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    async with serve() as client:
        for _ in range(5):
            answer = await client.post("/v1/detect", json={"llm_response": TEXT})
            assert answer.status_code == 200
            assert len(answer.headers["traceparent"]) == 55
