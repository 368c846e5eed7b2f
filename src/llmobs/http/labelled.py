"""POST /v1/admin/policies/dry-run/labelled: a policy tried on a file of labelled texts before it takes force."""

import asyncio
from typing import Annotated, Any, cast

import msgspec
from litestar import Request, Response, post
from msgspec import Meta

from llmobs.domain.access import Need
from llmobs.errors import BodyInvalid, PolicyUnknown, TextTooLong
from llmobs.evaluation import Row, inquiry_of
from llmobs.http.access import needs
from llmobs.http.bodies import read_body
from llmobs.http.departure import Departure
from llmobs.http.policy_changes import PolicyDraft, drafted
from llmobs.http.schemas import MAX_DEPTH, is_too_deep, read_as
from llmobs.http.services import services
from llmobs.settings import Settings

MAX_FILE = 8 * 2**20
"""Bytes of a body, with the policy and the file in it."""
MOST_ROWS = 500
LONGEST_ID = 200
"""Of a row, in characters; a task's name likewise."""

AnyRequest = Request[Any, Any, Any]

_encode = msgspec.json.Encoder().encode


class LabelledTrial(PolicyDraft, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/admin/policies/dry-run/labelled."""

    labelled: Annotated[
        str,
        Meta(description=f"The file: JSON lines as `llmobs eval` reads them, {MOST_ROWS} rows at most."),
    ]
    compared_with: Annotated[
        str | None, Meta(description="Id of a policy in force; null: the same id, or the default.")
    ] = None


@post(
    "/v1/admin/policies/dry-run/labelled",
    status_code=200,
    opt=needs(Need.ADMIN),
    request_max_body_size=MAX_FILE,
)
async def try_on_labelled(request: AnyRequest) -> Response[bytes]:
    """What a policy makes of labelled texts, beside the one in force; nothing is recorded or changed."""
    asked = await read_body(request, LabelledTrial)
    departed = Departure(cast("Any", request.receive))
    written, _ = drafted(asked)
    parts = services(request)
    policy = parts.desk.checked(written)
    known = parts.policies.current
    name = asked.compared_with or (written.id if written.id in known else parts.settings.default_policy)
    if name not in known:
        raise PolicyUnknown(f"No policy is called {name!r}; there are: {', '.join(sorted(known))}.")
    rows = await asyncio.to_thread(labelled_rows, asked.labelled, parts.settings)
    tried = await parts.labelled.run(rows, known[name], policy, departed)
    return Response(_encode(tried), media_type="application/json")


HANDLERS = (try_on_labelled,)


def labelled_rows(lines: str, settings: Settings) -> list[Row]:
    """The rows of a file. BodyInvalid and TextTooLong name the line and what is wrong with it, never quoting its text."""
    found: list[Row] = []
    # Not splitlines(): a text may hold other separators of lines as they are.
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        if len(found) == MOST_ROWS:
            raise TextTooLong(f"The file has more than {MOST_ROWS} rows.")
        try:
            found.append(_row(line.encode(), settings))
        except (BodyInvalid, TextTooLong) as problem:
            raise type(problem)(f"Line {number}: {problem}") from None
    if not found:
        raise BodyInvalid("The file holds no row.")
    return found


def _row(line: bytes, settings: Settings) -> Row:
    """One row, within the limits that a request has."""
    row = read_as(Row, line)
    if is_too_deep(line):
        raise BodyInvalid(f"It is nested deeper than {MAX_DEPTH} levels.")
    if row.label not in {0, 1}:
        raise BodyInvalid("label is 1 or 0.")
    for name, value in (("id", row.id), ("task", row.task)):
        if not 0 < len(value) <= LONGEST_ID:
            raise BodyInvalid(f"{name} has 1 to {LONGEST_ID} characters.")
    if not row.text:
        raise BodyInvalid("text is empty.")
    if len(row.text) > settings.max_text_chars:
        raise TextTooLong(
            f"text has {len(row.text)} characters; at most {settings.max_text_chars} are taken."
        )
    size = len(_encode(inquiry_of(row).context))
    if size > settings.max_context_bytes:
        raise TextTooLong(
            f"query, context and system_prompt have {size} bytes; at most {settings.max_context_bytes} are taken."
        )
    return row
