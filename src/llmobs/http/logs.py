"""GET /logs/recent and /v1/logs: recorded verdicts, newest first."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request, Response, delete, get
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Meta

from llmobs.domain.access import Need, Principal
from llmobs.domain.audit import Deed, deed
from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind
from llmobs.errors import EntryUnknown, ParameterInvalid
from llmobs.http.access import needs, principal_of
from llmobs.http.columns import PARQUET, parquet_library, parquet_of
from llmobs.http.schemas import LogEntry, LogPage, RecentLogs
from llmobs.http.services import services
from llmobs.store.records import LogFilter, LoggedRecord, id_of

MAX_LIMIT = 500
MAX_WORD = 200
"""Letters of what is searched for."""
JSON_LINES = "application/x-ndjson"

AnyRequest = Request[Any, Any, Any]
Q = TypeVar("Q")

_encode = msgspec.json.Encoder().encode


class RecentQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of /logs/recent."""

    limit: int = 50


class LogQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of /v1/logs. Times are ISO 8601; one without an offset is UTC."""

    action: Action | None = None
    failure_class: str | None = None
    tier: int | None = None
    blocked: bool | None = None
    kind: Kind | None = None
    since: datetime | None = None
    until: datetime | None = None
    request_id: str | None = None
    client_id: str | None = None
    q: Annotated[str, Meta(min_length=2, max_length=MAX_WORD)] | None = None
    cursor: str | None = None
    limit: int = 50
    format: str = "json"


@get("/logs/recent", opt=needs(Need.LOGS_READ))
async def recent_logs(request: AnyRequest) -> Response[bytes]:
    """The newest verdicts."""
    query = read_query(request, RecentQuery)
    rows = await services(request).logs.recent(principal_of(request).view, checked_limit(query.limit))
    found = tuple(_entry(row) for row in rows)
    return Response(_encode(RecentLogs(total=len(found), logs=found)), media_type="application/json")


@get("/v1/logs", opt=needs(Need.LOGS_READ))
async def logs(request: AnyRequest) -> Response[bytes] | Stream:
    """Verdicts that match, a page at a time, or all of them as JSON lines or Parquet."""
    query = read_query(request, LogQuery)
    filters = LogFilter(
        action=query.action,
        failure_class=query.failure_class,
        tier_used=query.tier,
        blocked=query.blocked,
        kind=query.kind,
        since=_utc(query.since),
        until=_utc(query.until),
        request_id=query.request_id,
        client_id=query.client_id,
        text=query.q,
    )
    if query.format not in {"json", "jsonl", "parquet"}:
        raise ParameterInvalid("format is json, jsonl or parquet.")
    library = parquet_library() if query.format == "parquet" else None
    limit, before = checked_limit(query.limit), before_of(query.cursor)
    source, view = services(request).logs, principal_of(request).view
    if query.format != "json":
        await services(request).audit.tell(export_deed(principal_of(request), "logs.export", filters))
        chunks = source.export(view, filters, before)
        if library is None:
            return Stream(_lines(chunks), media_type=JSON_LINES)
        return Stream(parquet_of(_entries(chunks), library), media_type=PARQUET)
    rows, cursor = await source.page(view, filters, before, limit)
    page = LogPage(logs=tuple(_entry(row) for row in rows), next_cursor=cursor)
    return Response(_encode(page), media_type="application/json")


@delete("/v1/logs/{request_id:str}", status_code=200, opt=needs(Need.ADMIN))
async def erase_verdict(request: AnyRequest, request_id: FromPath[str]) -> Response[bytes]:
    """Erase a verdict with all that belongs to it."""
    who = principal_of(request)
    erased = await services(request).erasure.of_request(who.view, request_id, by=who.actor)
    if erased is None:
        raise EntryUnknown("No verdict is kept under this request id.")
    return Response(_encode(erased), media_type="application/json")


async def _lines(chunks: AsyncIterator[list[LoggedRecord]]) -> AsyncIterator[bytes]:
    async for rows in chunks:
        yield b"".join(_encode(_entry(row)) + b"\n" for row in rows)


async def _entries(chunks: AsyncIterator[list[LoggedRecord]]) -> AsyncIterator[list[LogEntry]]:
    async for rows in chunks:
        yield [_entry(row) for row in rows]


def _entry(row: LoggedRecord) -> LogEntry:
    return LogEntry(**{name: getattr(row, name) for name in LogEntry.__struct_fields__})


def export_deed(who: Principal, action: str, filters: msgspec.Struct) -> Deed:
    """Somebody took rows out; what for is in the filters, which name no text."""
    given = {name: value for name, value in msgspec.to_builtins(filters).items() if value is not None}
    if "text" in given:
        given["text"] = "searched for"  # what for may be just what must not stand here
    return deed(who.actor, action, who.client_id or "", **given)


def before_of(cursor: str | None) -> int | None:
    """The row id that a cursor stands for, None without one."""
    try:
        return None if cursor is None else id_of(cursor)
    except ValueError:
        raise ParameterInvalid("cursor is none that this service gave.") from None


def checked_limit(limit: int) -> int:
    """The limit, 1 to MAX_LIMIT."""
    if limit > MAX_LIMIT:
        raise ParameterInvalid(f"limit of {limit} exceeds maximum of {MAX_LIMIT}.")
    if limit < 1:
        raise ParameterInvalid("limit must be at least 1.")
    return limit


def _utc(when: datetime | None) -> datetime | None:
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when


def read_query(request: AnyRequest, form: type[Q]) -> Q:
    """The query string as `form`; ParameterInvalid for unknown, repeated or malformed parameters."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise ParameterInvalid(f"{name[:40]} is given twice.")
        if value == "null":  # which the converter would take for "not given"
            raise ParameterInvalid(f"{name[:40]} cannot be null; leave it out.")
        given[name] = value
    try:
        return msgspec.convert(given, form, strict=False)
    except msgspec.ValidationError as error:
        raise ParameterInvalid(f"{error}.") from None
