"""A typed client of the service, asynchronous and plain.

    async with AsyncClient("http://127.0.0.1:8000", api_key=...) as client:
        verdict = await client.detect("Paris is in France.", query="Where is Paris?")

Importing this loads none of the service: no web framework, no database, no models.
"""

from llmobs.client.calls import AsyncClient
from llmobs.client.errors import (
    Answered,
    AnswerUnreadable,
    Blocked,
    ClientError,
    Conflict,
    DeadlinePassed,
    Forbidden,
    NotFound,
    RateLimited,
    RequestRefused,
    ServiceFailed,
    Unauthenticated,
    Unavailable,
    Unguarded,
    Unreachable,
)
from llmobs.client.guard import Guard
from llmobs.client.items import item
from llmobs.client.plain import Client, PlainGuard
from llmobs.client.retry import Retry
from llmobs.domain.record import CoverageEntry, EvidenceEntry
from llmobs.domain.risk import Action, FailureClass, Severity
from llmobs.domain.subject import Kind
from llmobs.http.schemas import (
    DetectAnswer,
    DetectRequest,
    LogEntry,
    LogPage,
    PolicyReference,
    ProblemDetails,
)

__all__ = [
    "Action",
    "AnswerUnreadable",
    "Answered",
    "AsyncClient",
    "Blocked",
    "Client",
    "ClientError",
    "Conflict",
    "CoverageEntry",
    "DeadlinePassed",
    "DetectAnswer",
    "DetectRequest",
    "EvidenceEntry",
    "FailureClass",
    "Forbidden",
    "Guard",
    "Kind",
    "LogEntry",
    "LogPage",
    "NotFound",
    "PlainGuard",
    "PolicyReference",
    "ProblemDetails",
    "RateLimited",
    "RequestRefused",
    "Retry",
    "ServiceFailed",
    "Severity",
    "Unauthenticated",
    "Unavailable",
    "Unguarded",
    "Unreachable",
    "item",
]
