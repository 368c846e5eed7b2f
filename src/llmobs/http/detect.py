"""POST /v1/detect and /v1/detect/batch."""

import asyncio
import re
from typing import TYPE_CHECKING, Any, cast

import msgspec
from litestar import Request, post
from litestar.types import ASGIApp

from llmobs.domain.access import Need, Principal
from llmobs.domain.urgency import CAN_WAIT
from llmobs.errors import (
    BatchTooLarge,
    BodyTimeout,
    DeadlineExceeded,
    MediaTypeUnsupported,
    Overloaded,
    ParameterInvalid,
    Problem,
    TextTooLong,
)
from llmobs.http.access import Told, enter, needs, principal_of
from llmobs.http.admission import Admission
from llmobs.http.departure import Departure
from llmobs.http.problems import as_problem, details, problem_answer
from llmobs.http.responses import JsonAnswer
from llmobs.http.schemas import (
    MAX_BATCH,
    BatchAnswer,
    ProblemDetails,
    detect_answer,
    read_batch,
    read_context,
    read_detect,
)
from llmobs.http.services import Services, services
from llmobs.screen import Inquiry

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmobs.http.edge import Quick, Receive, Scope

JSON = b"application/json"
MAX_BATCH_BYTES = 32 * 1024 * 1024
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_encode = msgspec.json.Encoder().encode

OVERLOADED = "More is asked than this service can answer in time; try again."

AnyRequest = Request[Any, Any, Any]


PATHS = ("/v1/detect", "/detect")


async def answer_detect(
    parts: Services, who: Principal, scope: "Scope", receive: "Receive", line: dict[str, Any]
) -> JsonAnswer:
    """The answer to one text; `line` gets what the request's log line says of it. Raises Problem."""
    parts.admission.enter()
    settings = parts.settings
    most = _largest_item(parts)
    body: bytes | None = None
    try:
        key = _idempotency_key(scope, most)
        with parts.deadlines.within(
            min(settings.body_timeout_seconds, settings.request_timeout_seconds)
        ) as limit:
            last = limit.when + max(0.0, settings.request_timeout_seconds - settings.body_timeout_seconds)
            body = await _whole_body(receive, most)
            limit.when = last
            inquiry = _inquiry(parts, who, body, key, Departure(receive))
            # A key is looked up in the database first, so it takes its turn in any case.
            recalled = parts.screen.recall(inquiry) if key is None else None
            if recalled is None or recalled.known is None:
                await parts.admission.turn()
            screened = await parts.screen.screen(inquiry, recalled)
    except TimeoutError:
        if body is None and settings.body_timeout_seconds <= settings.request_timeout_seconds:
            raise _body_late(parts) from None
        raise _too_late(parts) from None
    finally:
        parts.admission.leave()
    record = screened.record
    line["verdict_id"] = record.request_id
    line["action"] = record.action.value
    line["failure_class"] = record.failure_class
    line["tier_used"] = record.tier_used
    line["chars"] = len(record.llm_response)
    answer = detect_answer(record, recorded=screened.recorded)
    return JsonAnswer(answer, (b"idempotent-replayed", b"true")) if screened.replayed else JsonAnswer(answer)


def shedding(admission: Admission) -> "Callable[[str], JsonAnswer | None]":
    """For the edge: the refusal where one is due. Made without a look at the request, for it must be cheap."""
    templates = {path: problem_answer(path, Overloaded(OVERLOADED)) for path in PATHS}

    def shed(path: str) -> JsonAnswer | None:
        if admission.refusal() is None:
            return None
        template = templates[path]
        answer = JsonAnswer(b"")
        answer.status, answer.body, answer.headers = template.status, template.body, [*template.headers]
        return answer

    return shed


def quick_detect(parts: Services) -> "Quick":
    """`answer_detect` for the edge, which answers these paths itself; problems are answers as well."""

    async def answer(scope: "Scope", receive: "Receive", line: dict[str, Any]) -> JsonAnswer:
        told: Told = []
        try:
            who, told = await enter(parts, scope["headers"], Need.DETECT)
            answered = await answer_detect(parts, who, scope, receive, line)
        except Exception as error:  # noqa: BLE001  # the HTTP edge: a bug is told as a problem, too
            problem = as_problem(error)
            line["problem"] = problem.slug
            answered = problem_answer(scope["path"], problem)
        answered.headers += told
        return answered

    return answer


@post(list(PATHS), status_code=200, request_max_body_size=None, opt=needs(Need.DETECT))
async def detect(request: AnyRequest) -> ASGIApp:
    """Screen one text, where the framework has a part in the answer (CORS)."""
    line: dict[str, Any] = {}
    if services(request).admission.refusal() is not None:
        raise Overloaded(OVERLOADED)
    answer = await answer_detect(services(request), principal_of(request), *_channels(request), line)
    state = request.scope["state"]
    state["verdict_id"] = line["verdict_id"]
    state["line"] = line
    return answer


@post(
    ["/v1/detect/batch", "/detect/batch"],
    status_code=200,
    request_max_body_size=None,
    opt=needs(Need.DETECT),
)
async def detect_batch(request: AnyRequest) -> ASGIApp:
    """Screen up to 100 texts; a bad item answers its problem in place."""
    parts, who = services(request), principal_of(request)
    scope, receive = _channels(request)
    departed = Departure(receive)
    most = min(MAX_BATCH_BYTES, MAX_BATCH * _largest_item(parts))
    body, key = await _json_body(parts, scope, receive, most)
    items = read_batch(body)
    if len(items) > MAX_BATCH:
        raise BatchTooLarge(f"Batch of {len(items)} exceeds maximum of {MAX_BATCH}.")
    if parts.admission.batch_refusal(len(items)) is not None:
        raise Overloaded(OVERLOADED)
    await parts.limiter.batch(who, len(items))
    try:
        with parts.admission.batch(len(items)):
            async with asyncio.timeout(parts.settings.request_timeout_seconds), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        _item(parts, who, bytes(item), None if key is None else f"{key}#{index}", departed)
                    )
                    for index, item in enumerate(items)
                ]
    except TimeoutError:
        raise _too_late(parts) from None
    results = tuple(task.result() for task in tasks)
    failed = sum(isinstance(result, ProblemDetails) for result in results)
    request.scope["state"]["line"] = {"items": len(results), "failed_items": failed}
    return JsonAnswer(_encode(BatchAnswer(total=len(results), results=results)))


async def _item(
    parts: Services, who: Principal, item: bytes, key: str | None, departed: Departure
) -> msgspec.Raw | ProblemDetails:
    """One item's answer; its problem is a value, so that it spares its siblings."""
    try:
        if len(item) > _largest_item(parts):
            raise TextTooLong(f"The item has {len(item)} bytes; at most {_largest_item(parts)} are taken.")
        CAN_WAIT.set(True)  # of this item's task
        inquiry = _inquiry(parts, who, item, key, departed)
        recalled = parts.screen.recall(inquiry) if key is None else None
        if recalled is None or recalled.known is None:
            await parts.admission.item_turn()
        screened = await parts.screen.screen(inquiry, recalled)
    except Problem as problem:
        return details(problem)
    return msgspec.Raw(detect_answer(screened.record, recorded=screened.recorded))


def _inquiry(parts: Services, who: Principal, body: bytes, key: str | None, departed: Departure) -> Inquiry:
    """What a body asks. Raises Problem where it cannot be read, or is too large."""
    asked = read_detect(body)
    longest = parts.settings.max_text_chars
    if len(asked.llm_response) > longest:
        raise TextTooLong(
            f"llm_response has {len(asked.llm_response)} characters; at most {longest} are taken."
        )
    context, context_bytes = read_context(asked.context, parts.settings.max_context_bytes)
    return Inquiry(
        text=asked.llm_response,
        kind=asked.kind,
        context=context,
        context_bytes=context_bytes,
        policy=asked.policy or who.policy,
        client_id=who.client_id,
        idempotency_key=key,
        body_sha256=None if key is None else parts.screen.body_digest(body),
        departed=departed,
    )


def _channels(request: AnyRequest) -> "tuple[Scope, Receive]":
    """What the edge has as well; the framework's own types are closed."""
    return cast("Scope", request.scope), cast("Receive", request.receive)


def _too_late(parts: Services) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"No answer within {parts.settings.request_timeout_seconds:g} s; the verdict may have been recorded."
    )


def _largest_item(parts: Services) -> int:
    """Bytes that a body within all limits can take: every code point escaped as a surrogate pair."""
    return parts.settings.max_text_chars * 12 + parts.settings.max_context_bytes + 4096


async def _json_body(
    parts: Services, scope: "Scope", receive: "Receive", most: int
) -> tuple[bytes, str | None]:
    """The body, bounded, and the idempotency key."""
    key = _idempotency_key(scope, most)
    try:
        async with asyncio.timeout(parts.settings.body_timeout_seconds):
            return await _whole_body(receive, most), key
    except TimeoutError:
        raise _body_late(parts) from None


def _body_late(parts: Services) -> BodyTimeout:
    return BodyTimeout(f"The body did not come within {parts.settings.body_timeout_seconds:g} s.")


def _idempotency_key(scope: "Scope", most: int) -> str | None:
    """The key, of a request whose headers announce a body that can be read. One pass: this path is hot."""
    media_type = b""
    announced = b""
    key: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value
        elif name == b"content-length":
            announced = value
        elif name == b"idempotency-key":
            key = value
    if media_type != JSON and media_type.partition(b";")[0].strip().lower() != JSON:
        stated = media_type.decode("latin-1")[:80] or "nothing stated"
        raise MediaTypeUnsupported(f"Send the body as {JSON.decode()}, not as {stated}.")
    if key is not None and not _KEY.fullmatch(key):
        raise ParameterInvalid("Idempotency-Key must be 1 to 255 visible ASCII characters.")
    if announced.isdigit() and int(announced) > most:
        raise TextTooLong(f"The body has {announced.decode()} bytes; at most {most} are taken.")
    return None if key is None else key.decode("ascii")


async def _whole_body(receive: "Receive", most: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            # Nobody hears it, unless it is this server that is ending: then it is worth another try.
            raise BodyTimeout("The connection ended before the whole body had come.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise TextTooLong(f"The body has more than {most} bytes.")
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else bytes(chunk)
        chunks.append(chunk)
