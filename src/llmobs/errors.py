"""Everything we raise on purpose, drawn once.

    LlmobsError
    ├── ConfigurationError      settings, rules or policies that cannot be used
    │   ├── SettingsInvalid
    │   ├── RulesInvalid
    │   └── PolicyInvalid
    ├── StoreUnavailable        the database did not take or give rows
    └── Problem                 leaves as application/problem+json
        ├── BodyInvalid, ParameterInvalid, BatchTooLarge, PolicyUnknown, ...

A problem's class attributes give status, slug and title; the message is the `detail`.
"""

from collections.abc import Iterable
from typing import ClassVar


class LlmobsError(Exception):
    """Something that we expected could go wrong."""


class ConfigurationError(LlmobsError):
    """The configuration cannot be used; the message names the place and the reason."""


class SettingsInvalid(ConfigurationError):
    """A setting is unknown or has a bad value."""


class RulesInvalid(ConfigurationError):
    """A rule pack was refused; the message names file, rule and reason."""


class PolicyInvalid(ConfigurationError):
    """A policy was refused; the message names file, class and reason."""


class StoreUnavailable(LlmobsError):
    """The database did not answer, or refused."""


class Problem(LlmobsError):
    """The request cannot be served; leaves as RFC 9457 problem details."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal server error"
    retry_after: ClassVar[int | None] = None
    """Seconds for the `Retry-After` header, or None for no header."""

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Headers of its own that the answer carries."""
        return () if self.retry_after is None else ((b"retry-after", b"%d" % self.retry_after),)


class BodyInvalid(Problem):
    """The body is not JSON, or does not have the documented form."""

    status = 422
    slug = "body-invalid"
    title = "Body does not validate"


class ParameterInvalid(Problem):
    """A query parameter or header has a bad value."""

    status = 400
    slug = "parameter-invalid"
    title = "Bad parameter"


class BatchTooLarge(Problem):
    """The batch has more items than allowed."""

    status = 400
    slug = "batch-too-large"
    title = "Batch too large"


class PolicyUnknown(Problem):
    """The body names a policy that is not loaded."""

    status = 422
    slug = "policy-unknown"
    title = "Unknown policy"


class PolicyRefused(Problem):
    """A policy sent to be checked, tried or put in force is not sound; `detail` names all its faults."""

    status = 422
    slug = "policy-refused"
    title = "Policy is not sound"


class ValueRefused(Problem):
    """The body has the documented form, but a value in it cannot be taken."""

    status = 422
    slug = "value-refused"
    title = "Value cannot be taken"


class TextTooLong(Problem):
    """The text or its context is larger than allowed."""

    status = 413
    slug = "content-too-large"
    title = "Content too large"


class MediaTypeUnsupported(Problem):
    """The body is not sent as application/json."""

    status = 415
    slug = "media-type-unsupported"
    title = "Unsupported media type"


class EncodingUnsupported(Problem):
    """The body is compressed. It is taken plain only, so that a small one cannot grow when unpacked."""

    status = 415
    slug = "encoding-unsupported"
    title = "Unsupported content encoding"

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What is taken instead (RFC 9110, 15.5.16)."""
        return ((b"accept-encoding", b"identity"),)


class PathTooLong(Problem):
    """Path and query together are longer than allowed."""

    status = 414
    slug = "path-too-long"
    title = "Path too long"


class HeadersTooLarge(Problem):
    """There are more header fields, or more bytes in them, than allowed."""

    status = 431
    slug = "headers-too-large"
    title = "Header fields too large"


class IdempotencyConflict(Problem):
    """The idempotency key was used before with another body."""

    status = 409
    slug = "idempotency-conflict"
    title = "Idempotency key reused"


class Unauthenticated(Problem):
    """No credential came with the request, or none that is good."""

    status = 401
    slug = "unauthenticated"
    title = "Credentials needed"

    def __init__(self, detail: str, *, error: str | None = None) -> None:
        """`error` is RFC 6750's code, where a credential was sent."""
        super().__init__(detail)
        self._error = error

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The challenge of RFC 6750."""
        told = "" if self._error is None else f', error="{self._error}"'
        return ((b"www-authenticate", f'Bearer realm="llmobs"{told}'.encode()),)


class Forbidden(Problem):
    """The credential is good, but does not let its holder do this."""

    status = 403
    slug = "forbidden"
    title = "Not allowed"

    def __init__(self, detail: str, *, scope: str) -> None:
        """`scope` is the one that would do."""
        super().__init__(detail)
        self._scope = scope

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The challenge of RFC 6750, with the scope that would do."""
        told = f'Bearer realm="llmobs", error="insufficient_scope", scope="{self._scope}"'
        return ((b"www-authenticate", told.encode()),)


class NotFound(Problem):
    """Nothing lives at this path."""

    status = 404
    slug = "not-found"
    title = "Not found"


class EntryUnknown(Problem):
    """Nothing is kept under this id, or nothing that the caller may see."""

    status = 404
    slug = "entry-unknown"
    title = "No such entry"


class EntryConflict(Problem):
    """What is kept already stands in the way of this change."""

    status = 409
    slug = "entry-conflict"
    title = "Conflict with what is kept"


class MethodNotAllowed(Problem):
    """The path does not serve this method."""

    status = 405
    slug = "method-not-allowed"
    title = "Method not allowed"


class RequestInvalid(Problem):
    """The request is malformed in some other way."""

    status = 400
    slug = "request-invalid"
    title = "Bad request"


class RateLimited(Problem):
    """The client's allowance is spent. Try again when `Retry-After` says."""

    status = 429
    slug = "rate-limited"
    title = "Too many requests"

    def __init__(
        self, detail: str, *, seconds: int, told: Iterable[tuple[bytes, bytes]] = (), reason: str = "quota"
    ) -> None:
        """`seconds` until there is more; `told` are headers about the allowance; `reason` is for the metric."""
        super().__init__(detail)
        self.reason = reason
        self._seconds = seconds
        self._told = tuple(told)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """How long to wait, and what the allowance is."""
        return ((b"retry-after", b"%d" % self._seconds), *self._told)


class RecordUnavailable(Problem):
    """The verdict could not be recorded, so it is not given. Nothing was lost; try again."""

    status = 503
    slug = "record-unavailable"
    title = "Record unavailable"
    retry_after = 1


class DatabaseUnavailable(Problem):
    """The log cannot be read now. Try again."""

    status = 503
    slug = "database-unavailable"
    title = "Database unavailable"
    retry_after = 1


class CredentialsUnchecked(Problem):
    """The credential cannot be checked now, because what it is checked against does not answer. Try again."""

    status = 503
    slug = "credentials-unchecked"
    title = "Credentials cannot be checked"
    retry_after = 1


class Overloaded(Problem):
    """More work is waiting than the service takes on. Try again."""

    status = 503
    slug = "overloaded"
    title = "Overloaded"
    retry_after = 1


class DeadlineExceeded(Problem):
    """The request took longer than it may. It may have been recorded: use an Idempotency-Key."""

    status = 503
    slug = "deadline-exceeded"
    title = "Deadline exceeded"
    retry_after = 1


class BodyTimeout(Problem):
    """The body did not come in time."""

    status = 408
    slug = "body-timeout"
    title = "Request timeout"


class InternalError(Problem):
    """Something unexpected happened; the log has the details under the request id."""
