"""The client without async: the same client, run by a thread of its own."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from llmobs.client.calls import AsyncClient, Outcome
from llmobs.client.guard import Guard
from llmobs.http.schemas import DetectAnswer, DetectRequest, LogEntry

P = ParamSpec("P")
R = TypeVar("R")


class Client:
    """As AsyncClient, call for call, for code that does not await. Safe for concurrent threads."""

    def __init__(self, base_url: str = "http://127.0.0.1:8000", **options: Any) -> None:
        """`options` are those of AsyncClient."""
        self._entered = start_blocking_portal()
        self._portal: BlockingPortal = self._entered.__enter__()
        try:
            self._client = AsyncClient(base_url, **options)
        except BaseException:
            self._entered.__exit__(None, None, None)
            raise
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; safe to repeat."""
        if self._open:
            self._open = False
            try:
                self._portal.call(self._client.close)
            finally:
                self._entered.__exit__(None, None, None)

    def detect(self, text: str | DetectRequest, **options: Any) -> DetectAnswer:
        """The verdict on one text; `options` are those of AsyncClient.detect. Raises ClientError."""
        return self._portal.call(functools.partial(self._client.detect, text, **options))

    def detect_many(self, items: Iterable[str | DetectRequest], **options: Any) -> list[Outcome]:
        """What became of each text, in the order given. See AsyncClient.detect_each."""
        return self._portal.call(functools.partial(self._client.detect_many, items, **options))

    def logs(self, **filters: Any) -> Iterator[LogEntry]:
        """Recorded verdicts that match, newest first."""
        found = self._client.logs(**filters)

        async def after() -> LogEntry | None:
            return await anext(found, None)

        while (entry := self._portal.call(after)) is not None:
            yield entry

    def guard(self, **options: Any) -> "PlainGuard":
        """A guard for functions that return text, or for a block. `options` as of AsyncClient.guard."""
        return PlainGuard(self._client.guard(**options), self._portal)


class PlainGuard:
    """A Guard for code that does not await."""

    def __init__(self, guard: Guard, portal: BlockingPortal) -> None:
        self._guard = guard
        self._portal = portal

    def __enter__(self) -> Self:
        self._guard.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._guard.close(failed=error is not None)

    def check(self, result: R, *arguments: Any, **named: Any) -> R:
        """`result` when its text may go on. See Guard.check."""
        return self._portal.call(functools.partial(self._guard.check, result, *arguments, **named))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, with what it returns judged first."""
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                "a plain guard takes functions that return text; AsyncClient has one for the rest"
            )

        @functools.wraps(function)
        def guarded(*arguments: P.args, **named: P.kwargs) -> R:
            return self.check(function(*arguments, **named), *arguments, **named)

        return guarded
