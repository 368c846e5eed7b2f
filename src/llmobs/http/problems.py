"""Errors leave as RFC 9457 problem details, on every path, saying nothing of what is inside."""

from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from llmobs import errors
from llmobs.errors import Problem, StoreUnavailable
from llmobs.http.responses import JsonAnswer
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


def as_problem(error: Exception) -> Problem:
    """What a caller is told of an error; a bug is seen in the log and nothing of it is told."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StoreUnavailable):
        log.warning("store unavailable", reason=str(error))
        return errors.DatabaseUnavailable("The log cannot be read now; try again.")
    log.error("unexpected error", exc_info=error)
    return errors.InternalError("The log has the details under this request's id.")


def problem_answer(path: str, problem: Problem) -> JsonAnswer:
    """A problem as an HTTP answer."""
    return JsonAnswer(
        msgspec.json.encode(details(problem, path)),
        *problem.headers,
        status=problem.status,
        media_type=MEDIA_TYPE.encode(),
    )


def problem_response(request: AnyRequest, problem: Problem) -> Response[bytes]:
    """A problem as the framework's answer."""
    request.scope["state"]["problem"] = problem.slug
    answer = problem_answer(request.scope["path"], problem)
    headers = {name.decode(): value.decode() for name, value in answer.headers[2:]}
    return Response(answer.body, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


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
    """Whatever else goes wrong."""
    return problem_response(request, as_problem(error))


EXCEPTION_HANDLERS: Any = {
    Problem: problem_response,
    HTTPException: framework_response,
    Exception: unexpected_response,
}
