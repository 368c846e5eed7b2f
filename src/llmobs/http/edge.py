"""What every request passes: ids in and out, one metric, one log line."""

import os
import re
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from llmobs.errors import EncodingUnsupported, HeadersTooLarge, PathTooLong, Problem
from llmobs.http.problems import problem_answer
from llmobs.ids import new_request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from llmobs.http.responses import JsonAnswer
    from llmobs.lifecycle import Lifecycle
    from llmobs.telemetry.instruments import Telemetry
    from llmobs.telemetry.logs import RequestLog

    Scope = dict[str, Any]
    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]
    Quick = Callable[[Scope, Receive, dict[str, Any]], Awaitable[JsonAnswer]]
    """Answers a request, with fields for its log line put into the dict. Never raises a Problem."""

SPAN = "llmobs.traceparent"
"""Where the scope holds the server span as `traceparent`, while traces are exported."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MOST_HEADERS = 64
MOST_HEADER_BYTES = 32_768
"""Of names and values together; an identity provider's token takes a few thousand."""
MOST_PATH_BYTES = 8_192
"""Of path and query together."""
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""On every answer. TLS ends before the service, so Strict-Transport-Security is the proxy's to send."""
_CALLER_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Edge:
    """Wraps the whole application, so that unmatched paths are seen as well.

    `X-Request-ID` is the caller's when it sends a sound one, else ours; the caller's trace
    (`traceparent`, W3C Trace Context) is joined and told back with our span.
    """

    def __init__(
        self,
        app: "App",
        telemetry: "Telemetry",
        log: "RequestLog",
        quick: "Mapping[str, Quick] | None" = None,
        shed: "Callable[[str], JsonAnswer | None]" = lambda _: None,
        *,
        lifecycle: "Lifecycle | None" = None,
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._log = log
        self._shed = shed
        """Answers the refusal of a quick request while there is too much to do."""
        self._lifecycle = lifecycle
        self._quick = dict(quick or {})
        """POST paths that are answered here: the framework's way to a handler costs more than tier 1."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._lifecycle is not None:
            self._lifecycle.requests += 1
            if self._lifecycle.parting and not scope["http_version"].startswith("2"):
                send = _ending(send)
        quick = self._quick.get(scope["path"]) if scope["method"] == "POST" else None
        if quick is not None:
            refused = self._shed(scope["path"])
            if refused is not None:
                # Nothing else is done for it: what a refusal costs is taken from those inside.
                self._telemetry.request("POST", scope["path"], refused.status, 0.0)
                await refused(scope, receive, send)
                return
        started = perf_counter()
        caller_id, trace, encoding, held = _looked_at(scope["headers"])
        request_id = caller_id if caller_id and _CALLER_ID.fullmatch(caller_id) else b""
        traceparent = scope.get(SPAN) or (_joined(trace) if trace else b"")
        line: dict[str, Any] = {}
        status = 500
        seconds = 0.0
        quick, template = self._answered_here(scope, held, encoding)
        try:
            if quick is not None:
                scope["path_template"] = template
                answer = await quick(scope, receive, line)
                request_id = request_id or _own_id(line)
                answer.headers += _told(request_id, traceparent)
                status = answer.status
                # Before the answer leaves: who has it may look at /metrics the next moment.
                seconds = perf_counter() - started
                self._telemetry.request(_method(scope), template, status, seconds)
                await answer(scope, receive, send)
                return
            state: dict[str, Any] = scope.setdefault("state", {})

            async def sending(message: "Message") -> None:
                nonlocal status, request_id
                if message["type"] == "http.response.start":
                    status = message["status"]
                    request_id = request_id or _own_id(state)
                    message["headers"] = [
                        *message.get("headers", ()),
                        *_told(request_id, traceparent),
                        *state.get("headers", ()),
                    ]
                await send(message)

            try:
                await self._app(scope, receive, sending)
            finally:
                line |= state.get("line", {})
                if "problem" in state:
                    line["problem"] = state["problem"]
        finally:
            self._finish(
                scope,
                line,
                status=status,
                started=started,
                counted=seconds,
                request_id=request_id,
                traceparent=traceparent,
            )

    def _answered_here(
        self, scope: "Scope", header_bytes: int, encoding: bytes
    ) -> "tuple[Quick | None, str]":
        """What answers in the framework's stead, if anything does, and the path to count it under."""
        refusal = _refusal(scope, header_bytes, encoding)
        if refusal is not None:
            return partial(_refuse, refusal), "unmatched"
        return (self._quick.get(scope["path"]) if scope["method"] == "POST" else None), scope["path"]

    def _finish(
        self,
        scope: "Scope",
        line: dict[str, Any],
        *,
        status: int,
        started: float,
        counted: float,
        request_id: bytes,
        traceparent: bytes,
    ) -> None:
        """One metric, unless it was `counted` (seconds) before, and one log line."""
        seconds = counted or perf_counter() - started
        method = _method(scope)
        path = scope.get("path_template") or "unmatched"
        if not counted:
            self._telemetry.request(method, path, status, seconds)
        told = {
            "method": method,
            "path": path,
            "status": status,
            "ms": round(seconds * 1000, 2),
            "request_id": request_id.decode(),
        }
        if traceparent:
            told["trace_id"] = traceparent[3:35].decode()
            told["span_id"] = traceparent[36:52].decode()
        told.update(line)
        self._log(told)


def _ending(send: "Send") -> "Send":
    """Answers that end their connection: the caller opens its next one where there is somebody to stay."""

    async def sending(message: "Message") -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await send(message)

    return sending


def _looked_at(headers: "list[tuple[bytes, bytes]]") -> tuple[bytes, bytes, bytes, int]:
    """The caller's id, its trace and the body's encoding, and the bytes of all headers, in one pass."""
    caller_id = trace = encoding = b""
    held = 0
    for name, value in headers:
        held += len(name) + len(value)
        if name == b"x-request-id":
            caller_id = value
        elif name == b"traceparent":
            trace = value
        elif name == b"content-encoding":
            encoding = value
    return caller_id, trace, encoding, held


def _refusal(scope: "Scope", header_bytes: int, encoding: bytes) -> Problem | None:
    """What is refused before anything of the request is read."""
    if len(scope["path"]) + len(scope.get("query_string", b"")) > MOST_PATH_BYTES:
        return PathTooLong(f"Path and query may have {MOST_PATH_BYTES} bytes.")
    if header_bytes > MOST_HEADER_BYTES or len(scope["headers"]) > MOST_HEADERS:
        return HeadersTooLarge(
            f"A request may have {MOST_HEADERS} header fields of {MOST_HEADER_BYTES} bytes."
        )
    if encoding and encoding.strip().lower() != b"identity":
        return EncodingUnsupported("Send the body uncompressed.")
    return None


async def _refuse(problem: Problem, scope: "Scope", _: "Receive", line: dict[str, Any]) -> "JsonAnswer":
    line["problem"] = problem.slug
    return problem_answer(scope["path"][:200], problem)


def _method(scope: "Scope") -> str:
    """One of a few words: a metric's label must not grow with what strangers send."""
    method: str = scope["method"]
    return method if method in METHODS else "other"


def _own_id(known: "dict[str, Any]") -> bytes:
    """A verdict's own id serves for its request as well."""
    return (known.get("verdict_id") or new_request_id()).encode()


def _told(request_id: bytes, traceparent: bytes) -> list[tuple[bytes, bytes]]:
    """Headers that every answer has."""
    headers = [(b"x-request-id", request_id), *SECURITY_HEADERS]
    if traceparent:
        headers.append((b"traceparent", traceparent))
    return headers


def _joined(traceparent: bytes) -> bytes:
    """The caller's trace with a span of ours; empty when there is none or it is malformed."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or match[1] == b"ff" or not match[2].strip(b"0") or not match[3].strip(b"0"):
        return b""
    return b"00-%b-%b-%b" % (match[2], os.urandom(8).hex().encode(), match[4])
