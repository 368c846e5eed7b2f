"""What a call can end in other than a verdict, drawn once.

ClientError
├── Answered              the service answered with a problem document (RFC 9457)
│   ├── RequestRefused    400, 405, 413, 415, 422: the same request will be refused again
│   ├── Unauthenticated   401
│   ├── Forbidden         403
│   ├── NotFound          404
│   ├── Conflict          409
│   ├── RateLimited       429
│   ├── Unavailable       503, 408 (the body did not come), and 502 and 504 of what stands between
│   └── ServiceFailed     any other 5xx
├── Unreachable           no whole answer came, however often it was tried
├── DeadlinePassed        the time for the call was used up
├── AnswerUnreadable      an answer came that is none of this service's
├── Blocked               a guard's text was blocked; holds the verdict
└── Unguarded             a guard was opened and nothing was shown to it
"""

from llmobs.http.schemas import DetectAnswer, ProblemDetails

PREFIX = "urn:llmobs:problem:"


class ClientError(Exception):
    """A call that did not end in a verdict, or a verdict that a guard acts on."""


class Answered(ClientError):
    """The service answered with a problem."""

    def __init__(
        self, problem: ProblemDetails, *, request_id: str = "", retry_after: float | None = None
    ) -> None:
        """`retry_after` is in seconds, None where the service named no time."""
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}".removesuffix(": "))
        self.problem = problem
        self.request_id = request_id
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def slug(self) -> str:
        """The stable name of the problem, such as `body-invalid`; the whole type where it is not ours."""
        return self.problem.type.removeprefix(PREFIX)


class RequestRefused(Answered):
    """The request cannot be taken as it is; the same request will be refused again."""


class Unauthenticated(Answered):
    """No credential was sent, or none that is good."""


class Forbidden(Answered):
    """The credential is good but does not reach that far."""


class NotFound(Answered):
    """There is nothing there, or nothing that this caller may see."""


class Conflict(Answered):
    """What is kept stands in the way: an idempotency key that came with another body."""


class RateLimited(Answered):
    """More was asked than this caller may ask now."""


class Unavailable(Answered):
    """The service cannot answer now."""


class ServiceFailed(Answered):
    """The service failed in a way that it did not expect."""


class Unreachable(ClientError):
    """No whole answer came: refused, reset, cut off."""


class DeadlinePassed(ClientError):
    """The time for the call was used up. The cause is what the last try ended in, where there was one."""


class AnswerUnreadable(ClientError):
    """An answer came that does not have the documented form."""


class Blocked(ClientError):
    """A guarded text was blocked."""

    def __init__(self, verdict: DetectAnswer) -> None:
        super().__init__(f"blocked: {verdict.failure_class} ({verdict.request_id})")
        self.verdict = verdict


class Unguarded(ClientError):
    """A guard's block ended without a text shown to it: silence must not pass for a clean text."""


_BY_STATUS: dict[int, type[Answered]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
    408: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def answered(problem: ProblemDetails, *, request_id: str = "", retry_after: float | None = None) -> Answered:
    """The error for a problem, by its status."""
    fallback = ServiceFailed if problem.status >= 500 else RequestRefused
    return _BY_STATUS.get(problem.status, fallback)(problem, request_id=request_id, retry_after=retry_after)
