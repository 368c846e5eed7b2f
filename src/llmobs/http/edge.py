"""What every request passes: ids in and out, one metric, one log line."""

import os
import re
from time import perf_counter
from typing import TYPE_CHECKING, Any

from llmobs.ids import new_request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmobs.telemetry.instruments import Telemetry
    from llmobs.telemetry.logs import RequestLog

    Scope = dict[str, Any]
    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CALLER_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Edge:
    """Wraps the whole application, so that unmatched paths are seen as well.

    `X-Request-ID` is the caller's when it sends a sound one, else ours; the caller's trace
    (`traceparent`, W3C Trace Context) is joined and told back with our span.
    """

    def __init__(self, app: "App", telemetry: "Telemetry", log: "RequestLog") -> None:
        self._app = app
        self._telemetry = telemetry
        self._log = log

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        caller_id = trace = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                caller_id = value
            elif name == b"traceparent":
                trace = value
        request_id = caller_id if caller_id and _CALLER_ID.fullmatch(caller_id) else b""
        traceparent = _joined(trace) if trace else b""
        status = 500

        async def sending(message: "Message") -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                # A verdict's own id serves for its request as well.
                request_id = request_id or (state.get("verdict_id") or new_request_id()).encode()
                headers = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id),
                    (b"x-content-type-options", b"nosniff"),
                ]
                if traceparent:
                    headers.append((b"traceparent", traceparent))
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            seconds = perf_counter() - started
            method = scope["method"] if scope["method"] in METHODS else "other"
            path = scope.get("path_template") or "unmatched"
            self._telemetry.request(method, path, status, seconds)
            line = {
                "method": method,
                "path": path,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "request_id": request_id.decode(),
            }
            if traceparent:
                line["trace_id"] = traceparent[3:35].decode()
            if "problem" in state:
                line["problem"] = state["problem"]
            line |= state.get("line", {})
            self._log(line)


def _joined(traceparent: bytes) -> bytes:
    """The caller's trace with a span of ours; empty when there is none or it is malformed."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or match[1] == b"ff" or not match[2].strip(b"0") or not match[3].strip(b"0"):
        return b""
    return b"00-%b-%b-%b" % (match[2], os.urandom(8).hex().encode(), match[4])
