"""Equal questions at the same time are asked once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class Landed(Exception):
    """The work was ended from outside."""


class Flights(Generic[V]):
    """Work under way, by key. Its tasks live in the task group given, not in any one caller's."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._flights: dict[str, _Flight[V]] = {}

    async def join(self, key: str, work: Callable[[], Awaitable[V]]) -> tuple[V, bool]:
        """What the work under `key` brings, and whether it was under way already.

        An error of the work reaches everyone who waits. The work is cancelled when the last one
        who waits is. Landed when `drain` ended it.
        """
        flight = self._flights.get(key)
        shared = flight is not None
        if flight is None:
            flight = self._flights[key] = _Flight(self._group.create_task(_outcome(work)))
            flight.task.add_done_callback(lambda _: self._forget(key, flight))
        flight.waiting += 1
        try:
            await asyncio.wait({flight.task})  # cancelling who waits leaves the task alone
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._forget(key, flight)
                flight.task.cancel()
        if flight.task.cancelled():
            raise Landed("the service is shutting down")
        result = flight.task.result()
        if isinstance(result, _Error):
            raise result.error
        return result, shared

    async def drain(self, seconds: float) -> None:
        """Let what is under way finish for so long, then cancel it."""
        tasks = {flight.task for flight in self._flights.values()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()

    @property
    def under_way(self) -> int:
        """How many are under way."""
        return len(self._flights)

    def _forget(self, key: str, flight: "_Flight[V]") -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class _Error:
    """An error as a value: raised in the task it would bring down the group with all other work."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Flight(Generic[V]):
    __slots__ = ("task", "waiting")

    def __init__(self, task: "asyncio.Task[V | _Error]") -> None:
        self.task = task
        self.waiting = 0


async def _outcome(work: Callable[[], Awaitable[V]]) -> V | _Error:
    try:
        return await work()
    except Exception as error:  # noqa: BLE001  # handed to those who wait, where a bug surfaces
        return _Error(error)
