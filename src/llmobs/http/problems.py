"""Errors leave as RFC 9457 problem details, on every path, saying nothing of what is inside."""

from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from llmobs import errors
from llmobs.errors import Problem, StoreUnavailable
from llmobs.http.schemas import ProblemDetails

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:llmobs:problem:"

log = structlog.get_logger("llmobs.http")

AnyRequest = Request[Any, Any, Any]

_BY_STATUS: dict[int, type[Problem]] = {
    400: errors.RequestInvalid,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.TextTooLong,
    415: errors.MediaTypeUnsupported,
}


def details(problem: Problem, instance: str | None = None) -> ProblemDetails:
    """The wire form of a problem."""
    return ProblemDetails(
        type=TYPE_PREFIX + problem.slug,
        title=problem.title,
        status=problem.status,
        detail=str(problem),
        instance=instance,
    )


def problem_response(request: AnyRequest, problem: Problem) -> Response[bytes]:
    """A problem as an HTTP answer."""
    headers = {} if problem.retry_after is None else {"retry-after": str(problem.retry_after)}
    request.scope["state"]["problem"] = problem.slug
    return Response(
        msgspec.json.encode(details(problem, request.scope["path"])),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def framework_response(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """What the framework refuses, in our form."""
    kind = _BY_STATUS.get(error.status_code)
    if kind is None:
        return unexpected_response(request, error)
    detail = {
        404: f"There is nothing at {request.scope['path']}.",
        405: f"{request.scope['path']} does not take {request.scope['method']}.",
        413: "The body is larger than this path takes.",
    }.get(error.status_code, error.detail)
    response = problem_response(request, kind(detail))
    for name, value in (error.headers or {}).items():
        if name.lower() == "allow":
            response.headers[name] = value
    return response


def unexpected_response(request: AnyRequest, error: Exception) -> Response[bytes]:
    """A bug: seen in the log, with nothing of it in the answer."""
    log.error("unexpected error", exc_info=error)
    return problem_response(request, errors.InternalError("The log has the details under this request's id."))


def store_response(request: AnyRequest, error: StoreUnavailable) -> Response[bytes]:
    """The database did not answer a question about the log."""
    log.warning("store unavailable", reason=str(error))
    return problem_response(request, errors.DatabaseUnavailable("The log cannot be read now; try again."))


EXCEPTION_HANDLERS: Any = {
    Problem: problem_response,
    StoreUnavailable: store_response,
    HTTPException: framework_response,
    Exception: unexpected_response,
}
