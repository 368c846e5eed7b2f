"""The client against scripted answers: what is tried again, when, and what a call ends in."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import httpx
import pytest

from llmobs import client as api
from llmobs.client import AsyncClient, Client, Retry
from llmobs.client.errors import answered
from llmobs.client.retry import retry_after_seconds
from llmobs.errors import Problem
from llmobs.http.problems import TYPE_PREFIX, details

VERDICT: dict[str, Any] = {
    "request_id": "01",
    "action": "allow",
    "blocked": False,
    "tier_used": 1,
    "method": "lexical",
    "failure_class": None,
    "severity": None,
    "confidence": 0.9,
    "processing_time_ms": 0.1,
    "explanation": "",
    "scores": {},
    "evidence": [],
    "coverage": [],
    "degraded": False,
    "policy": {"id": "default", "version": 1},
    "recorded": True,
}
QUICK = Retry(first=0.001, longest=0.002)
Handler = Callable[[httpx.Request], httpx.Response]


def problem(status: int, slug: str = "overloaded", **headers: str) -> httpx.Response:
    body = {"type": f"urn:llmobs:problem:{slug}", "title": "T", "status": status, "detail": "d"}
    return httpx.Response(status, json=body, headers=headers)


def client_of(handler: Any, **options: Any) -> AsyncClient:
    options = {"retry": QUICK, **options}
    return AsyncClient("http://llmobs.test", transport=httpx.MockTransport(handler), **options)


def scripted(*steps: httpx.Response | Exception) -> tuple[Handler, list[httpx.Request]]:
    left: Iterator[httpx.Response | Exception] = iter(steps)
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        step = next(left)
        if isinstance(step, Exception):
            raise step
        return step

    return handler, seen


def problem_classes(kind: type[Problem] = Problem) -> Iterator[type[Problem]]:
    for child in kind.__subclasses__():
        yield child
        yield from problem_classes(child)


async def test_passing_failures_are_tried_again_under_one_key() -> None:
    handler, seen = scripted(
        httpx.ConnectError("refused"),
        httpx.ReadError("cut off"),
        problem(503),
        problem(408, "body-timeout"),
        problem(429, "rate-limited"),
        httpx.Response(502, text="<html>"),
        httpx.Response(200, json=VERDICT),
    )
    async with client_of(handler) as client:
        assert (await client.detect("text")).action is api.Action.ALLOW
    assert len(seen) == 7
    assert len({request.headers["idempotency-key"] for request in seen}) == 1
    assert len({request.content for request in seen}) == 1


@pytest.mark.parametrize("kind", sorted(set(problem_classes()), key=lambda k: k.slug))
async def test_every_problem_of_the_service_is_a_typed_error(kind: type[Problem]) -> None:
    made = Problem.__new__(kind)
    Exception.__init__(made, "what went wrong")
    error = answered(details(made))
    assert type(error) is not api.Answered
    assert (error.slug, error.status) == (kind.slug, kind.status)
    assert error.problem.type == TYPE_PREFIX + kind.slug
    assert "what went wrong" in str(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, api.RequestRefused),
        (401, api.Unauthenticated),
        (403, api.Forbidden),
        (404, api.NotFound),
        (409, api.Conflict),
        (413, api.RequestRefused),
        (415, api.RequestRefused),
        (422, api.RequestRefused),
        (500, api.ServiceFailed),
    ],
)
async def test_lasting_failures_are_raised_at_once(status: int, kind: type[api.Answered]) -> None:
    handler, seen = scripted(problem(status, "some-problem", **{"x-request-id": "r-1"}))
    async with client_of(handler) as client:
        with pytest.raises(kind) as caught:
            await client.detect("text")
    assert type(caught.value) is kind
    assert len(seen) == 1
    assert (caught.value.slug, caught.value.request_id) == ("some-problem", "r-1")


async def test_a_time_that_the_service_names_is_kept_to() -> None:
    handler, seen = scripted(problem(503, **{"retry-after": "1"}), httpx.Response(200, json=VERDICT))
    started = monotonic()
    async with client_of(handler) as client:
        await client.detect("text")
    assert monotonic() - started >= 1.0
    assert len(seen) == 2


async def test_a_wait_past_the_deadline_ends_the_call_at_once() -> None:
    handler, seen = scripted(problem(429, "rate-limited", **{"retry-after": "60"}))
    started = monotonic()
    async with client_of(handler, deadline=5) as client:
        with pytest.raises(api.RateLimited) as caught:
            await client.detect("text")
    assert monotonic() - started < 2
    assert caught.value.retry_after == 60
    assert len(seen) == 1


async def test_the_deadline_bounds_a_call_that_hangs() -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        raise AssertionError

    started = monotonic()
    async with client_of(handler) as client:
        with pytest.raises(api.DeadlinePassed):
            await client.detect("text", deadline=0.2)
    assert monotonic() - started < 2


async def test_tries_are_bounded_and_the_last_failure_is_told() -> None:
    handler, seen = scripted(*[httpx.ConnectError("refused")] * 3)
    async with client_of(handler, retry=Retry(attempts=3, first=0.001)) as client:
        with pytest.raises(api.Unreachable, match="refused"):
            await client.detect("text")
    assert len(seen) == 3


def test_waits_grow_within_bounds_and_are_drawn_by_lot() -> None:
    retry = Retry(first=0.1, longest=5.0)
    assert [retry.wait(n, None, lambda: 1.0) for n in (1, 2, 3, 20)] == [0.1, 0.2, 0.4, 5.0]
    assert retry.wait(3, None, lambda: 0.0) == 0.0
    assert retry.wait(1, 2.0, lambda: 0.5) == 2.05
    assert len({retry.wait(9, None) for _ in range(20)}) > 10


def test_retry_after_is_read_in_both_forms() -> None:
    now = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
    assert retry_after_seconds("7") == 7.0
    assert retry_after_seconds("Mon, 23 Nov 2026 12:00:30 GMT", now) == 30.0
    assert retry_after_seconds("Mon, 23 Nov 2026 11:00:00 GMT", now) == 0.0
    assert [retry_after_seconds(odd) for odd in ("", "soon", "-3", "1.5", "²")] == [None] * 5


async def test_an_answer_that_is_none_of_ours_is_typed() -> None:
    for answer in (
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"action": "allow"}),
        httpx.Response(302, headers={"location": "/login"}),
    ):
        async with client_of(lambda _, answer=answer: answer) as client:
            with pytest.raises(api.AnswerUnreadable):
                await client.detect("text")


async def test_many_are_split_kept_in_order_and_bounded() -> None:
    running = most = taken = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        items = json.loads(request.content)
        await asyncio.sleep(0.01 if "7" in items[0]["llm_response"] else 0.002)
        running -= 1
        results = [VERDICT | {"request_id": item["llm_response"]} for item in items]
        return httpx.Response(200, json={"total": len(results), "results": results})

    def source() -> Iterator[str]:
        nonlocal taken
        for number in range(1003):
            taken += 1
            yield f"text {number}"

    async with client_of(handler) as client:
        names = []
        async for outcome in client.detect_each(source(), size=10, concurrency=3):
            assert isinstance(outcome, api.DetectAnswer)
            names.append(outcome.request_id)
            # Those under way, and the one that filled the batch.
            assert taken <= len(names) + 3 * 10 + 10 + 1
    assert names == [f"text {number}" for number in range(1003)]
    assert most == 3


async def test_one_bad_text_of_many_spares_the_others_and_passing_failures_go_again() -> None:
    single: list[str] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        key = request.headers["idempotency-key"]
        if request.url.path == "/v1/detect":
            single.append(key)
            return httpx.Response(200, json=VERDICT | {"request_id": "again"})
        refused = {"type": "urn:llmobs:problem:body-invalid", "title": "B", "status": 422}
        busy = {"type": "urn:llmobs:problem:overloaded", "title": "O", "status": 503}
        return httpx.Response(200, json={"total": 3, "results": [VERDICT, refused, busy]})

    async with client_of(handler) as client:
        good, bad, late = await client.detect_many(["a", "b", "c"])
    assert isinstance(good, api.DetectAnswer)
    assert isinstance(bad, api.RequestRefused)
    assert isinstance(late, api.DetectAnswer)
    assert late.request_id == "again"
    assert [key.rpartition("#")[2] for key in single] == ["2"]


async def test_a_batch_that_fails_is_an_outcome_for_each_text() -> None:
    async with client_of(lambda _: problem(401, "unauthenticated")) as client:
        outcomes = await client.detect_many(["a", "b", "c"], size=2)
    assert [type(outcome) for outcome in outcomes] == [api.Unauthenticated] * 3


async def test_the_key_of_the_caller_and_the_api_key_are_sent() -> None:
    handler, seen = scripted(httpx.Response(200, json=VERDICT))
    async with client_of(handler, api_key="llmobs_k") as client:
        await client.detect("text", idempotency_key="order-7")
        with pytest.raises(ValueError, match="visible ASCII"):
            await client.detect("text", idempotency_key="two words")
    assert seen[0].headers["idempotency-key"] == "order-7"
    assert seen[0].headers["authorization"] == "Bearer llmobs_k"


async def test_query_documents_and_context_arrive_as_the_service_reads_them() -> None:
    handler, seen = scripted(httpx.Response(200, json=VERDICT))
    async with client_of(handler) as client:
        await client.detect(
            "half a pair: \ud83d!",
            query="q",
            documents=["d", {"id": "2", "text": "e"}],
            context={"domain": "law", "query": "old"},
            kind="prompt",
            policy="thorough",
        )
    assert json.loads(seen[0].content) == {
        "llm_response": "half a pair: \ufffd!",
        "context": {"domain": "law", "query": "q", "documents": ["d", {"id": "2", "text": "e"}]},
        "kind": "prompt",
        "policy": "thorough",
    }


BLOCKED = VERDICT | {"action": "block", "blocked": True, "failure_class": "toxicity"}


async def test_a_guard_reads_the_functions_own_arguments() -> None:
    handler, seen = scripted(*[httpx.Response(200, json=VERDICT)] * 2)
    async with client_of(handler) as client:

        @client.guard(query=lambda question, **_: question, documents=lambda _, documents: documents)
        async def ask(question: str, *, documents: list[str]) -> str:
            return f"answer to {question}"

        assert await ask("why?", documents=["because"]) == "answer to why?"
        assert ask.__name__ == "ask"
    asked = json.loads(seen[0].content)
    assert asked["context"] == {"query": "why?", "documents": ["because"]}
    assert asked["llm_response"] == "answer to why?"


async def test_a_guard_blocks_or_replaces() -> None:
    seen: list[str | None] = []
    async with client_of(lambda _: httpx.Response(200, json=BLOCKED)) as client:

        @client.guard(seen=lambda verdict: seen.append(verdict.failure_class))
        async def ask() -> str:
            return "bad"

        @client.guard(on_block=lambda verdict: f"withheld: {verdict.failure_class}")
        async def ask_softly() -> str:
            return "bad"

        with pytest.raises(api.Blocked) as caught:
            await ask()
        assert caught.value.verdict.request_id == "01"
        assert await ask_softly() == "withheld: toxicity"
    assert seen == ["toxicity"]


async def test_a_guarded_block_must_show_its_text() -> None:
    async with client_of(lambda _: httpx.Response(200, json=VERDICT)) as client:
        async with client.guard(query="q") as guard:
            assert await guard.check("fine") == "fine"
        with pytest.raises(api.Unguarded):
            async with client.guard():
                pass
        with pytest.raises(KeyError):  # the block's own failure is not hidden
            async with client.guard():
                raise KeyError("x")


async def test_a_guard_is_closed_unless_told_and_never_open_for_refusals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ask() -> str:
        return "text"

    async with client_of(lambda _: problem(503), retry=Retry(attempts=1)) as client:
        with pytest.raises(api.Unavailable):
            await client.guard()(ask)()
        assert await client.guard(fail_open=True)(ask)() == "text"
    assert "went on unseen" in caplog.text
    async with client_of(lambda _: problem(413, "content-too-large")) as client:
        with pytest.raises(api.RequestRefused):
            await client.guard(fail_open=True)(ask)()


async def test_a_guard_refuses_what_it_cannot_read() -> None:
    async with client_of(lambda _: httpx.Response(200, json=VERDICT)) as client:

        @client.guard()
        async def ask() -> Any:
            return {"content": "text"}

        with pytest.raises(TypeError, match="text="):
            await ask()
        with pytest.raises(TypeError, match="stream"):

            @client.guard()  # type: ignore[arg-type]
            async def stream() -> Any:
                yield "a"


def test_the_plain_client_does_the_same_without_await() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/batch"):
            return httpx.Response(200, json={"total": 2, "results": [VERDICT, BLOCKED]})
        if request.url.path == "/v1/logs":
            return httpx.Response(200, json={"logs": [], "next_cursor": None})
        return httpx.Response(200, json=BLOCKED if b"bad" in request.content else VERDICT)

    with Client("http://llmobs.test", transport=httpx.MockTransport(handler)) as client:
        assert client.detect("fine").action is api.Action.ALLOW
        assert [one.blocked for one in client.detect_many(["a", "b"])] == [False, True]  # type: ignore[union-attr]
        assert list(client.logs(action="block")) == []

        @client.guard(on_block=lambda _: "withheld")
        def ask(what: str) -> str:
            return what

        assert (ask("fine"), ask("bad")) == ("fine", "withheld")
        with client.guard() as guard:
            assert guard.check("fine") == "fine"
        with pytest.raises(api.Unguarded), client.guard():
            pass
    client.close()


def test_importing_the_client_loads_nothing_heavy() -> None:
    heavy = "litestar sqlalchemy alembic granian onnxruntime numpy tokenizers re2 asyncpg aiosqlite ollama"
    code = (
        "import sys; before = set(sys.modules); import llmobs.client; "
        f"print(sorted(set({heavy.split()!r}) & (set(sys.modules) - before)), "
        "sorted(m for m in sys.modules if m.startswith(('llmobs.detect', 'llmobs.store', 'llmobs.app'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


async def test_the_callers_trace_goes_with_every_try() -> None:
    from opentelemetry import context, trace

    handler, seen = scripted(problem(503), httpx.Response(200, json=VERDICT))
    parent = trace.SpanContext(
        trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1)
    )
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
    try:
        async with client_of(handler) as client:
            await client.detect("text")
    finally:
        context.detach(token)
    told = [request.headers["traceparent"].split("-")[1] for request in seen]
    assert told == [f"{0xABC:032x}"] * 2
