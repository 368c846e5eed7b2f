"""Guards: text that a function returns, or a block makes, is judged before anyone reads it."""

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

from llmobs.client.errors import (
    Blocked,
    ClientError,
    DeadlinePassed,
    RateLimited,
    ServiceFailed,
    Unavailable,
    Unguarded,
    Unreachable,
)
from llmobs.client.items import Documents
from llmobs.domain.subject import Kind
from llmobs.http.schemas import DetectAnswer

P = ParamSpec("P")
R = TypeVar("R")

QueryFrom = str | Callable[..., str | None] | None
DocumentsFrom = Documents | Callable[..., Documents | None] | None
TextOf = Callable[[Any], str]
OnBlock = Callable[[DetectAnswer], Any]
Seen = Callable[[DetectAnswer], None]

PASSING = (Unreachable, DeadlinePassed, Unavailable, RateLimited, ServiceFailed)
"""Errors that say nothing about the request; only these may let a text through unseen."""

log = logging.getLogger("llmobs.client")


class Detect(Protocol):
    """What a guard asks."""

    async def __call__(
        self,
        text: str,
        *,
        query: str | None = None,
        documents: Documents | None = None,
        kind: Kind | str = Kind.RESPONSE,
        policy: str | None = None,
        deadline: float | None = None,
    ) -> DetectAnswer: ...


class Guard:
    """Judges text before it goes on.

    As a decorator of an async function:

        @client.guard(query=lambda question: question)
        async def ask(question: str) -> str: ...

    or around a block, where each text is shown to it:

        async with client.guard(query=question) as guard:
            answer = await guard.check(await model(question))

    `query` and `documents` are values, or functions of the guarded function's own arguments. `text`
    takes the text out of what the function returns, where that is not a string. A blocked text raises
    Blocked, or becomes what `on_block(verdict)` returns. `seen` is told every verdict. With
    `fail_open` a text goes on unseen, with a logged warning, while the service cannot answer;
    otherwise the error is raised and the text is kept back.
    """

    def __init__(
        self,
        detect: Detect,
        *,
        query: QueryFrom = None,
        documents: DocumentsFrom = None,
        policy: str | None = None,
        kind: Kind | str = Kind.RESPONSE,
        text: TextOf | None = None,
        on_block: OnBlock | None = None,
        seen: Seen | None = None,
        fail_open: bool = False,
        deadline: float | None = None,
    ) -> None:
        self._detect = detect
        self._query = query
        self._documents = documents
        self._policy = policy
        self._kind = kind
        self._text = text
        self._on_block = on_block
        self._seen = seen
        self._fail_open = fail_open
        self._deadline = deadline
        self._shown = False

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)

    def open(self) -> None:
        """A block begins, in which at least one text is to be shown."""
        self._shown = False

    def close(self, *, failed: bool) -> None:
        """The block ends. Raises Unguarded when nothing was shown and the block did not fail."""
        if not failed and not self._shown:
            raise Unguarded("no text was shown to the guard")

    async def check(self, result: R, *arguments: Any, **named: Any) -> R:
        """`result` when its text may go on. The arguments are those that `query` and `documents` read."""
        text = self._text(result) if self._text is not None else result
        if not isinstance(text, str):
            raise TypeError(f"a guard reads text, not {type(text).__name__}; say text=... to take it out")
        self._shown = True
        if not text:  # nothing to read, and the service takes no empty text
            return result
        try:
            verdict = await self._detect(
                text,
                query=_value(self._query, arguments, named),
                documents=_value(self._documents, arguments, named),
                policy=self._policy,
                kind=self._kind,
                deadline=self._deadline,
            )
        except ClientError as error:
            if self._fail_open and isinstance(error, PASSING):
                log.warning("a text went on unseen: %s", type(error).__name__)
                return result
            raise
        if self._seen is not None:
            self._seen(verdict)
        if verdict.blocked:
            if self._on_block is None:
                raise Blocked(verdict)
            return cast(R, self._on_block(verdict))
        return result

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """The function, with what it returns judged first."""
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError("a guard reads whole texts; gather the stream first")

        @functools.wraps(function)
        async def guarded(*arguments: P.args, **named: P.kwargs) -> R:
            return await self.check(await function(*arguments, **named), *arguments, **named)

        return guarded


def _value(source: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return source(*arguments, **named) if callable(source) else source
