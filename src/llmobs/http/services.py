"""What handlers work with: made once in app.py, held in the application's state."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec
from litestar import Request

from llmobs.access.gate import Gate
from llmobs.access.limits import Limiter
from llmobs.access.persons import PersonKeys
from llmobs.access.registry import Registry
from llmobs.access.sessions import Sessions
from llmobs.book import Book
from llmobs.detect.tier1_patterns.book import RuleBook
from llmobs.domain.access import View
from llmobs.http.admission import Admission
from llmobs.http.deadlines import Deadlines
from llmobs.http.schemas import Check
from llmobs.labelled import LabelledTrials
from llmobs.lifecycle import Lifecycle
from llmobs.policies import PolicyBook
from llmobs.policy_desk import PolicyDesk
from llmobs.screen import Screen
from llmobs.settings import Settings
from llmobs.store.audit import Audit
from llmobs.store.erasure import Erasure
from llmobs.store.feedback import Opinions
from llmobs.store.records import LogFilter, LoggedRecord, RuleHits, TierCounts
from llmobs.store.summary import Slice
from llmobs.telemetry.instruments import Telemetry


class Watching(Protocol):
    """Counts the streams that are open."""

    def check(self) -> None: ...
    def one(self) -> AbstractContextManager[None]: ...


class Logs(Protocol):
    """Reads recorded verdicts."""

    async def recent(self, view: View, limit: int) -> list[LoggedRecord]: ...
    async def page(
        self, view: View, filters: LogFilter, before_id: int | None, limit: int
    ) -> tuple[list[LoggedRecord], str | None]: ...
    def export(
        self, view: View, filters: LogFilter, before_id: int | None = None
    ) -> AsyncIterator[list[LoggedRecord]]: ...
    async def counts(self, view: View) -> TierCounts: ...
    async def rule_hits(self, view: View) -> tuple[int, list[RuleHits]]: ...
    async def slices(self, view: View, span: timedelta, now: datetime) -> list[Slice]: ...


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """The service's parts, by what handlers do with them."""

    settings: Settings
    screen: Screen
    logs: Logs
    telemetry: Telemetry
    gate: Gate
    limiter: Limiter
    registry: Registry
    sessions: Sessions | None
    """Keeps people signed in to the page; None: nobody can."""
    opinions: Opinions
    admission: Admission
    deadlines: Deadlines
    audit: Audit
    desk: PolicyDesk
    labelled: LabelledTrials
    erasure: Erasure
    persons: PersonKeys | None
    """Turns the ids by which requests name persons into what their rows carry; None: no pepper is set."""
    books: tuple[Book[Any], ...]
    rules: RuleBook
    policies: PolicyBook
    lifecycle: Lifecycle
    watchers: Watching
    checks: Callable[[], Awaitable[tuple[Check, ...]]]
    """The conditions of readiness, tried now."""


def services(request: Request[Any, Any, Any]) -> Services:
    """The parts behind a request."""
    found: Services = request.app.state["services"]
    return found
