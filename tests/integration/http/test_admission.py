"""Slow callers and too many of them: problems in time, and nobody else is held up."""

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest
from support.app import client_for, started

from llmobs.app import create_app
from llmobs.detect.pipeline import Pipeline
from llmobs.settings import Settings

BODY = {"llm_response": "The library opens at nine."}


async def _raw(app: Any, path: str, receive: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "server": ("llmobs.test", 80),
        "client": ("127.0.0.1", 1),
        "asgi": {"version": "3.0"},
    }
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(one.get("body", b"") for one in sent[1:]))


async def test_a_body_that_does_not_come_in_time_is_408(settings: Settings) -> None:
    app = create_app(msgspec.structs.replace(settings, body_timeout_seconds=0.1))
    pieces = 0

    async def drip() -> dict[str, Any]:
        nonlocal pieces
        pieces += 1
        await asyncio.sleep(0.04)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async with started(app):
        status, headers, told = await _raw(app, "/v1/detect", drip)
        assert (status, told["type"]) == (408, "urn:llmobs:problem:body-timeout")
        assert headers["content-type"] == "application/problem+json"
        status, _, told = await _raw(app, "/v1/detect/batch", drip)
        assert (status, told["type"]) == (408, "urn:llmobs:problem:body-timeout")
        assert pieces < 10


async def test_a_request_beyond_its_deadline_is_503(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*_: Any) -> Any:
        await asyncio.sleep(5)

    monkeypatch.setattr(Pipeline, "weighed", slow)
    async with client_for(msgspec.structs.replace(settings, request_timeout_seconds=0.1)) as client:
        for path, body in (("/v1/detect", BODY), ("/v1/detect/batch", [BODY, BODY])):
            answer = await client.post(path, json=body)
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:llmobs:problem:deadline-exceeded"
            assert answer.headers["retry-after"] == "1"


async def test_too_many_at_once_get_503_with_retry_after_and_the_rest_their_verdict(
    settings: Settings,
) -> None:
    async with client_for(msgspec.structs.replace(settings, max_in_flight=5)) as client:
        answers = await asyncio.gather(*(client.post("/v1/detect", json=BODY) for _ in range(60)))
        taken = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(taken) + len(refused) == 60
        assert len(taken) >= 5
        assert refused
        for answer in refused:
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["type"] == "urn:llmobs:problem:overloaded"
            assert answer.json()["status"] == 503
        stats = (await client.get("/metrics/stats")).json()
        assert stats["total_detections"] == len(taken)
        metrics = (await client.get("/metrics")).text
        assert f'requests_shed_total{{reason="in_flight"}} {len(refused)}.0' in metrics
        assert f'status="503"}} {len(refused)}.0' in metrics
        assert (await client.post("/v1/detect", json=BODY)).status_code == 200


async def test_a_refusal_is_the_same_where_browsers_call(settings: Settings) -> None:
    crossing = msgspec.structs.replace(settings, max_in_flight=1, cors_origins="https://console.example")
    async with client_for(crossing) as client:
        answers = await asyncio.gather(*(client.post("/v1/detect", json=BODY) for _ in range(20)))
        refused = [answer for answer in answers if answer.status_code == 503]
        assert refused
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert refused[0].json()["instance"] == "/v1/detect"


async def test_a_batch_beside_others_is_answered_whole_and_in_order(client: httpx.AsyncClient) -> None:
    texts = [f"Reply {number}: the library opens at nine." for number in range(100)]
    batch, *singles = await asyncio.gather(
        client.post("/v1/detect/batch", json=[{"llm_response": text} for text in texts]),
        *(client.post("/v1/detect", json=BODY) for _ in range(30)),
    )
    assert {answer.status_code for answer in singles} == {200}
    assert batch.json()["total"] == 100
    ids = [item["request_id"] for item in batch.json()["results"]]
    rows = (await client.get("/logs/recent?limit=500")).json()["logs"]
    stored = {row["id"] if "request_id" not in row else row["request_id"] for row in rows}
    assert set(ids) <= stored
