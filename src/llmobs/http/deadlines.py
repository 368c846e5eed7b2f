"""Limits of time for many requests with one timer: a timer of its own costs a request more than a look into the memory of verdicts."""

import asyncio
from types import TracebackType
from typing import Any, Self

SWEEP_SECONDS = 0.02
"""How late a limit may be noticed."""


class Deadline:
    """Around what must be done in time; TimeoutError when it was not, as `asyncio.timeout` has it."""

    __slots__ = ("_asked", "_open", "_passed", "_task", "when")

    def __init__(self, opened: "dict[Deadline, None]", when: float) -> None:
        self.when = when
        """Time of the event loop; may be set anew inside."""
        self._open = opened
        self._passed = False
        self._task: asyncio.Task[Any] | None = None
        self._asked = 0

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task")
        self._task, self._asked = task, task.cancelling()
        self._open[self] = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._open.pop(self, None)
        # Somebody else's cancellation goes on; only what this deadline cancelled is its own to tell.
        if (
            self._passed
            and self._task is not None
            and self._task.uncancel() <= self._asked
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise TimeoutError from error

    def end(self) -> None:
        """Its time is over."""
        self._passed = True
        if self._task is not None:
            self._task.cancel()


class Deadlines:
    """All limits of a process that are open. All of it runs on the event loop."""

    def __init__(self) -> None:
        self._open: dict[Deadline, None] = {}
        self._sweeping = False

    def within(self, seconds: float) -> Deadline:
        """A limit from now on; enter it at once."""
        loop = asyncio.get_running_loop()
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)
        return Deadline(self._open, loop.time() + seconds)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for late in [one for one in self._open if one.when <= now]:
            del self._open[late]
            late.end()
        self._sweeping = bool(self._open)
        if self._sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)
