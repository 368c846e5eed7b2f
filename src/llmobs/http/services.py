"""What handlers work with: made once in app.py, held in the application's state."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import msgspec
from litestar import Request

from llmobs.book import Book
from llmobs.http.schemas import Check
from llmobs.screen import Screen
from llmobs.settings import Settings
from llmobs.store.records import LogFilter, LoggedRecord, TierCounts
from llmobs.telemetry.instruments import Telemetry


class Logs(Protocol):
    """Reads recorded verdicts."""

    async def recent(self, limit: int) -> list[LoggedRecord]: ...
    async def page(
        self, filters: LogFilter, before_id: int | None, limit: int
    ) -> tuple[list[LoggedRecord], str | None]: ...
    def export(
        self, filters: LogFilter, before_id: int | None = None
    ) -> AsyncIterator[list[LoggedRecord]]: ...
    async def counts(self) -> TierCounts: ...


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """The service's parts, by what handlers do with them."""

    settings: Settings
    screen: Screen
    logs: Logs
    telemetry: Telemetry
    books: tuple[Book[Any], ...]
    checks: Callable[[], Awaitable[tuple[Check, ...]]]
    """The conditions of readiness, tried now."""


def services(request: Request[Any, Any, Any]) -> Services:
    """The parts behind a request."""
    found: Services = request.app.state["services"]
    return found
