"""Windows of many texts through a few threads, fairly and with an end."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from llmobs.detect.detector import DetectorFailed
from llmobs.domain.urgency import CAN_WAIT

Item = TypeVar("Item")
Result = TypeVar("Result")

_REMEMBERED = 16
"""Calls that the pace is taken from, about."""
SIDE_BY_SIDE = 2
"""Windows of one text in work at a time: a long text may not hold every thread."""


class Workers:
    """A bounded thread pool. Nothing here blocks the event loop."""

    def __init__(self, pool: ThreadPoolExecutor, most_waiting: int = 512) -> None:
        self.longest_wait = float("inf")
        """Seconds that a single text may be expected to wait for a thread; past that it is refused."""
        self._pool = pool
        self._most = most_waiting
        self._waiting = 0
        self._threads: int = pool._max_workers  # noqa: SLF001  # the pool tells nobody
        self._busy = 0
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._patient: deque[asyncio.Future[None]] = deque()
        self._pace = 0.0
        """Seconds that a call takes, of late."""

    @property
    def waiting(self) -> int:
        """Texts in work or waiting."""
        return self._waiting

    async def call(self, work: Callable[[], Result]) -> Result:
        """One piece of work in a thread; batches' work waits for that of single texts."""
        await self._thread()
        started = perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._pace += (perf_counter() - started - self._pace) / _REMEMBERED
            self._free()

    async def _thread(self) -> None:
        if self._busy < self._threads:
            self._busy += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._patient if CAN_WAIT.get() else self._urgent).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free()  # it was our turn, and we are gone
            raise

    def _free(self) -> None:
        """The thread goes to who waits, or rests."""
        for queue in (self._urgent, self._patient):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._busy -= 1

    async def each(
        self, items: Sequence[Item], work: Callable[[Item], Result], ends: float
    ) -> list[tuple[int, Result]]:
        """`work` of every item with its index, as many as start before `ends` (perf_counter seconds).

        At least one is worked on. Raises DetectorFailed when too many texts wait already.
        """
        if self._waiting >= self._most:
            raise DetectorFailed(f"{self._waiting} texts wait for the encoder already")
        expected = len(self._urgent) * self._pace / self._threads
        if expected > self.longest_wait and not CAN_WAIT.get():
            # Now, while its answer is still in time: a queue that only grows would fail everybody.
            raise DetectorFailed(f"the encoder is busy for {expected * 1000:.0f} ms")
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
