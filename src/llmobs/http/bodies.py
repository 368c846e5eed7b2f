"""Reading small JSON bodies."""

from typing import Any, TypeVar

from litestar import Request

from llmobs.errors import MediaTypeUnsupported
from llmobs.http.schemas import read_as

B = TypeVar("B")

MAX_BODY = 65_536
"""Bytes; for routes whose bodies hold no text to screen."""


async def read_body(request: Request[Any, Any, Any], form: type[B]) -> B:
    """The JSON body as `form`. MediaTypeUnsupported, or BodyInvalid with what is wrong and where."""
    stated = request.headers.get("content-type", "")
    if stated.partition(";")[0].strip().lower() != "application/json":
        raise MediaTypeUnsupported("Send the body as application/json.")
    return read_as(form, await request.body())
