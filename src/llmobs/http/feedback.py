"""POST and GET /v1/feedback: what people say of verdicts."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.response import Stream
from msgspec import Meta

from llmobs.domain.access import Need
from llmobs.domain.feedback import KeptOpinion, LabelledText, Opinion, true_class_of
from llmobs.errors import EntryUnknown, ParameterInvalid, ValueRefused
from llmobs.evaluation import row_of
from llmobs.http.access import needs, principal_of
from llmobs.http.bodies import MAX_BODY, read_body
from llmobs.http.logs import JSON_LINES, before_of, checked_limit, export_deed, read_query
from llmobs.http.services import services
from llmobs.store.feedback import OpinionFilter

MAX_NOTE = 4000
AnyRequest = Request[Any, Any, Any]

_encode = msgspec.json.Encoder().encode


class NewFeedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/feedback."""

    request_id: Annotated[str, Meta(description="`request_id` of the verdict.")]
    correct: Annotated[bool, Meta(description="Whether the verdict was right.")]
    correct_class: Annotated[
        str | None,
        Meta(description="Where it was wrong: the class that the text really is of; null: harmless."),
    ] = None
    note: Annotated[str, Meta(max_length=MAX_NOTE, description="For people. Kept masked, as texts are.")] = ""


class FeedbackPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of feedback, newest first."""

    feedback: tuple[KeptOpinion, ...]
    next_cursor: Annotated[
        str | None, Meta(description="Pass it as `cursor` for the next page; null at the end.")
    ]


class FeedbackQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of GET /v1/feedback."""

    correct: bool | None = None
    failure_class: str | None = None
    true_class: str | None = None
    harmless: bool | None = None
    request_id: str | None = None
    client_id: str | None = None
    cursor: str | None = None
    limit: int = 50
    format: str = "json"


@post("/v1/feedback", opt=needs(Need.DETECT), request_max_body_size=MAX_BODY)
async def give_feedback(request: AnyRequest) -> Response[bytes]:
    """Say whether a verdict was right; a later word on it replaces the earlier one."""
    asked = await read_body(request, NewFeedback)
    parts, who = services(request), principal_of(request)
    verdict = await parts.opinions.judged(who.view, asked.request_id)
    if verdict is None:
        raise EntryUnknown("No verdict is recorded under this request_id.")
    known = parts.screen.classes(who.client_id)
    if asked.correct_class is not None and asked.correct_class not in known:
        raise ValueRefused(f"correct_class is none of {', '.join(sorted(known))}.")
    try:
        truth = true_class_of(verdict, correct=asked.correct, correct_class=asked.correct_class)
    except ValueError as error:
        raise ValueRefused(str(error)) from None
    kept, fresh = await parts.opinions.keep(
        Opinion(
            request_id=verdict.request_id,
            client_id=verdict.client_id,
            created_at=datetime.now(UTC),
            given_by=who.actor,
            correct=asked.correct,
            true_class=truth,
            note=parts.screen.kept_note(asked.note),
            action=verdict.action,
            failure_class=verdict.failure_class,
        )
    )
    return Response(_encode(kept), status_code=201 if fresh else 200, media_type="application/json")


@get("/v1/feedback", opt=needs(Need.LOGS_READ))
async def list_feedback(request: AnyRequest) -> Response[bytes] | Stream:
    """Feedback that matches: by page, or the labelled texts as rows for `llmobs eval` and `calibrate`."""
    query = read_query(request, FeedbackQuery)
    if query.format not in {"json", "rows"}:
        raise ParameterInvalid("format is json or rows.")
    limit, before = checked_limit(query.limit), before_of(query.cursor)
    filters = OpinionFilter(**{name: getattr(query, name) for name in OpinionFilter.__struct_fields__})
    source, view = services(request).opinions, principal_of(request).view
    if query.format == "rows":
        await services(request).audit.tell(export_deed(principal_of(request), "feedback.export", filters))
        return Stream(_rows(source.labelled(view, filters, before)), media_type=JSON_LINES)
    rows, cursor = await source.page(view, filters, before, limit)
    page = FeedbackPage(feedback=tuple(rows), next_cursor=cursor)
    return Response(_encode(page), media_type="application/json")


HANDLERS = (give_feedback, list_feedback)


async def _rows(chunks: AsyncIterator[list[LabelledText]]) -> AsyncIterator[bytes]:
    async for texts in chunks:
        yield b"".join(_encode(row_of(text)) + b"\n" for text in texts)
