"""The asynchronous client: one call, many calls, the log."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import httpx
import msgspec
from opentelemetry import propagate, trace

from llmobs import __version__
from llmobs.client import errors
from llmobs.client.guard import DocumentsFrom, Guard, OnBlock, QueryFrom, Seen, TextOf
from llmobs.client.items import Documents, item
from llmobs.client.retry import Retry, retry_after_seconds
from llmobs.domain.subject import Kind
from llmobs.http.schemas import (
    MAX_BATCH,
    DetectAnswer,
    DetectRequest,
    LogEntry,
    LogPage,
    ProblemDetails,
)

MAY_PASS = frozenset({408, 429, 502, 503, 504})
"""Statuses that the same request may not meet again."""
BATCH_BYTES = 4 * 1024 * 1024
"""A batch is sent before it grows past this, whatever its number of texts."""
MAX_ANSWER_PROBLEM = 2_000

T = TypeVar("T")
Outcome = DetectAnswer | errors.ClientError
"""What became of one text of many."""

_encode = msgspec.json.Encoder().encode
_KEY = re.compile(r"[\x21-\x7e]{1,250}")


class _RawBatch(msgspec.Struct):
    results: list[msgspec.Raw]


class _Status(msgspec.Struct):
    """Only a problem has a status: it tells the two kinds of result apart."""

    status: int | None = None


_answer = msgspec.json.Decoder(DetectAnswer)
_batch = msgspec.json.Decoder(_RawBatch)
_problem = msgspec.json.Decoder(ProblemDetails)
_status = msgspec.json.Decoder(_Status)
_page = msgspec.json.Decoder(LogPage)


class AsyncClient:
    """Calls the service over kept connections. One per process is enough; safe for concurrent tasks.

    Every text is sent with an `Idempotency-Key`, so a call that is repeated after a lost answer gets
    the first verdict again and leaves one row. Calls raise ClientError and nothing else of ours.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        deadline: float = 30.0,
        retry: Retry | None = None,
        connections: int = 20,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`deadline` is in seconds, for a whole call with all its tries; `connections` at most are open."""
        own = {"user-agent": f"llmobs-client/{__version__}", **(headers or {})}
        if api_key is not None:
            own["authorization"] = f"Bearer {api_key}"
        self._deadline = deadline
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=own,
            # One try may take as long as the call has left, which the call's own clock sees to.
            timeout=httpx.Timeout(deadline, pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            transport=transport,
        )
        self._tracer = trace.get_tracer("llmobs.client", __version__)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def detect(
        self,
        text: str | DetectRequest,
        *,
        query: str | None = None,
        documents: Documents | None = None,
        context: Mapping[str, Any] | None = None,
        kind: Kind | str = Kind.RESPONSE,
        policy: str | None = None,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> DetectAnswer:
        """The verdict on one text. `deadline` is in seconds. Raises ClientError."""
        asked = (
            text
            if isinstance(text, DetectRequest)
            else item(text, query=query, documents=documents, context=context, kind=kind, policy=policy)
        )
        key = _checked(idempotency_key)
        body = await self._call("POST", "/v1/detect", deadline, body=_encode(asked), key=key)
        return _read(_answer, body)

    async def detect_many(
        self,
        items: Iterable[str | DetectRequest],
        *,
        size: int = 50,
        concurrency: int = 4,
        deadline: float | None = None,
    ) -> list[Outcome]:
        """What became of each text, in the order given. See `detect_each`."""
        return [
            outcome
            async for outcome in self.detect_each(
                items, size=size, concurrency=concurrency, deadline=deadline
            )
        ]

    async def detect_each(
        self,
        items: Iterable[str | DetectRequest],
        *,
        size: int = 50,
        concurrency: int = 4,
        deadline: float | None = None,
    ) -> AsyncIterator[Outcome]:
        """What became of each text, in the order given, as it comes.

        Texts go out in batches of at most `size` (1 to 100), `concurrency` batches at a time, and no
        more of `items` is taken than is under way, so a source of any length needs little memory. A
        text that cannot be judged is a ClientError among the outcomes; it is not raised. `deadline`
        is in seconds, a batch.
        """
        if not 1 <= size <= MAX_BATCH or concurrency < 1:
            raise ValueError(f"size is 1 to {MAX_BATCH}, concurrency at least 1")
        waiting: deque[asyncio.Task[list[Outcome]]] = deque()
        try:
            for bodies in _batches(items, size):
                waiting.append(asyncio.create_task(self._send_batch(bodies, deadline)))
                if len(waiting) >= concurrency:
                    for outcome in await waiting[0]:
                        yield outcome
                    waiting.popleft()
            while waiting:
                for outcome in await waiting[0]:
                    yield outcome
                waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def logs(self, *, deadline: float | None = None, **filters: Any) -> AsyncIterator[LogEntry]:
        """Recorded verdicts that match, newest first, page after page. Filters as of `GET /v1/logs`."""
        asked = {name: _word(value) for name, value in filters.items() if value is not None}
        while True:
            body = await self._call("GET", "/v1/logs", deadline, params=asked)
            page = _read(_page, body)
            for entry in page.logs:
                yield entry
            if page.next_cursor is None:
                return
            asked["cursor"] = page.next_cursor

    def guard(
        self,
        *,
        query: QueryFrom = None,
        documents: DocumentsFrom = None,
        policy: str | None = None,
        kind: Kind | str = Kind.RESPONSE,
        text: TextOf | None = None,
        on_block: OnBlock | None = None,
        seen: Seen | None = None,
        fail_open: bool = False,
        deadline: float | None = None,
    ) -> Guard:
        """A guard for functions that return text, or for a block of code. See `Guard`."""
        return Guard(
            self.detect,
            query=query,
            documents=documents,
            policy=policy,
            kind=kind,
            text=text,
            on_block=on_block,
            seen=seen,
            fail_open=fail_open,
            deadline=deadline,
        )

    async def _send_batch(self, bodies: Sequence[bytes], deadline: float | None) -> list[Outcome]:
        """The outcomes of one batch; what failed in passing is sent again, each by itself."""
        key = uuid4().hex
        ends = monotonic() + (self._deadline if deadline is None else deadline)
        try:
            answer = await self._call(
                "POST",
                "/v1/detect/batch",
                ends - monotonic(),
                body=b"[" + b",".join(bodies) + b"]",
                key=key,
            )
            results = _read(_batch, answer).results
            if len(results) != len(bodies):
                raise errors.AnswerUnreadable(f"{len(bodies)} texts got {len(results)} results")
            outcomes = [_outcome(result) for result in results]
        except errors.ClientError as error:
            return [error] * len(bodies)

        async def again(index: int) -> None:
            # The service keeps a batch's items under these very keys.
            try:
                found = await self._call(
                    "POST", "/v1/detect", ends - monotonic(), body=bodies[index], key=f"{key}#{index}"
                )
                outcomes[index] = _read(_answer, found)
            except errors.ClientError as error:
                outcomes[index] = error

        lost = [
            index
            for index, outcome in enumerate(outcomes)
            if isinstance(outcome, errors.Answered) and outcome.status in MAY_PASS
        ]
        if lost:
            async with asyncio.TaskGroup() as group:
                for index in lost:
                    group.create_task(again(index))
        return outcomes

    async def _call(
        self,
        method: str,
        path: str,
        deadline: float | None,
        *,
        body: bytes | None = None,
        key: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of a good answer, after as many tries as it takes and the deadline allows."""
        ends = monotonic() + (self._deadline if deadline is None else deadline)
        headers: dict[str, str] = {}
        if body is not None:
            headers["content-type"] = "application/json"
        if key is not None:
            headers["idempotency-key"] = key
        with self._tracer.start_as_current_span(
            f"{method} {path}",
            kind=trace.SpanKind.CLIENT,
            attributes={
                "http.request.method": method,
                "server.address": self._http.base_url.host,
                "url.path": path,
            },
        ) as span:
            propagate.inject(headers)
            tried = 0
            failure: errors.ClientError | None = None
            while True:
                left = ends - monotonic()
                if left <= 0:
                    raise errors.DeadlinePassed("the time for the call was used up") from failure
                tried += 1
                try:
                    async with asyncio.timeout(left):
                        answer = await self._http.request(
                            method, path, content=body, headers=headers, params=params
                        )
                except TimeoutError:
                    raise errors.DeadlinePassed("the time for the call was used up") from failure
                except httpx.TimeoutException as error:
                    failure = errors.DeadlinePassed(type(error).__name__)
                except httpx.TransportError as error:
                    failure = errors.Unreachable(f"{type(error).__name__}: {error}")
                except (httpx.InvalidURL, httpx.DecodingError, httpx.TooManyRedirects) as error:
                    raise errors.Unreachable(f"{type(error).__name__}: {error}") from error
                else:
                    span.set_attribute("http.response.status_code", answer.status_code)
                    if answer.status_code == 200:
                        return answer.content
                    failure = _failure(answer)
                    if answer.status_code not in MAY_PASS:
                        raise failure
                span.set_attribute("http.request.resend_count", tried)
                asked_for = failure.retry_after if isinstance(failure, errors.Answered) else None
                wait = self._retry.wait(tried, asked_for)
                if tried >= self._retry.attempts or monotonic() + wait >= ends:
                    # What happened tells more than that the time would not have been enough.
                    raise failure
                await asyncio.sleep(wait)


def _batches(items: Iterable[str | DetectRequest], size: int) -> Iterator[list[bytes]]:
    held: list[bytes] = []
    weight = 0
    for one in items:
        body = _encode(item(one) if isinstance(one, str) else one)
        if held and (len(held) >= size or weight + len(body) > BATCH_BYTES):
            yield held
            held, weight = [], 0
        held.append(body)
        weight += len(body)
    if held:
        yield held


def _checked(key: str | None) -> str:
    if key is None:
        return uuid4().hex
    if not _KEY.fullmatch(key):
        raise ValueError("an idempotency key is 1 to 250 visible ASCII characters")
    return key


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _read(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise errors.AnswerUnreadable(f"the answer is none of this service's: {error}") from None


def _outcome(result: msgspec.Raw) -> Outcome:
    if _read(_status, result).status is not None:
        return errors.answered(_read(_problem, result))
    return _read(_answer, result)


def _failure(answer: httpx.Response) -> errors.ClientError:
    """The error for an answer that is not 200; one without a problem document gets one of its status."""
    try:
        problem = _problem.decode(answer.content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        if answer.status_code < 400:
            return errors.AnswerUnreadable(f"status {answer.status_code} is none of this service's")
        problem = ProblemDetails(
            type="about:blank",
            title=answer.reason_phrase or "Error",
            status=answer.status_code,
            detail=answer.text[:MAX_ANSWER_PROBLEM],
        )
    return errors.answered(
        problem,
        request_id=answer.headers.get("x-request-id", ""),
        retry_after=retry_after_seconds(answer.headers.get("retry-after", "")),
    )
