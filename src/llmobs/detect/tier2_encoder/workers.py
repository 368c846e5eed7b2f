"""Windows of many texts through a few threads, fairly and with an end."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from llmobs.detect.detector import DetectorFailed

Item = TypeVar("Item")
Result = TypeVar("Result")

SIDE_BY_SIDE = 2
"""Windows of one text in work at a time: a long text may not hold every thread."""


class Workers:
    """A bounded thread pool. Nothing here blocks the event loop."""

    def __init__(self, pool: ThreadPoolExecutor, most_waiting: int = 512) -> None:
        self._pool = pool
        self._most = most_waiting
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Texts in work or waiting."""
        return self._waiting

    async def call(self, work: Callable[[], Result]) -> Result:
        """One piece of work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def each(
        self, items: Sequence[Item], work: Callable[[Item], Result], ends: float
    ) -> list[tuple[int, Result]]:
        """`work` of every item with its index, as many as start before `ends` (perf_counter seconds).

        At least one is worked on. Raises DetectorFailed when too many texts wait already.
        """
        if self._waiting >= self._most:
            raise DetectorFailed(f"{self._waiting} texts wait for the encoder already")
        self._waiting += 1
        try:
            if len(items) == 1:
                return [(0, await self.call(lambda: work(items[0])))]
            found: list[tuple[int, Result]] = []
            order = iter(spread(len(items)))

            async def lane() -> None:
                for index in order:
                    if found and perf_counter() > ends:
                        return
                    item = items[index]
                    found.append((index, await self.call(lambda item=item: work(item))))  # type: ignore[misc]

            async with asyncio.TaskGroup() as group:
                for _ in range(min(SIDE_BY_SIDE, len(items))):
                    group.create_task(lane())
            return sorted(found, key=lambda pair: pair[0])
        finally:
            self._waiting -= 1


def spread(count: int) -> list[int]:
    """First and last, then ever finer between: what is left out for lack of time is left out evenly."""
    order = list(dict.fromkeys((0, count - 1)))
    taken = set(order)
    step = 1
    while step * 2 < count:
        step *= 2
    while step >= 1:
        for index in range(0, count, step):
            if index not in taken:
                taken.add(index)
                order.append(index)
        step //= 2
    return order
