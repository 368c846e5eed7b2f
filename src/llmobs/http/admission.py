"""Who may come in, and whose turn it is: what keeps waiting short however much is asked.

Tier 1 runs on the event loop, so too many texts at once would keep the loop from everything else,
refusals included. Texts therefore take turns, a few each round of the loop. Requests of one text go
first and in order; items of batches go one by one where there is room, and while anybody with a single
text is inside they get `ITEM_SHARE` of the time. Whoever would have to wait too long is refused at
once: an answer that comes too late helps nobody. How long that would be is told by the length of the
queue and the pace of the turns; how long the first has waited already tells it too late, for at four
times the capacity four times as many have come behind by then. A burst may wait `BURST` times longer,
a queue that stands may not.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Protocol

from llmobs.settings import Settings

ROUND_SECONDS = 0.004
"""How long one round of the loop should take."""
MOST_A_ROUND = 64
ITEM_SHARE = 0.15
"""What part of the loop's time items of batches may take while a single text is inside."""
GAP_SHARE = 0.5
"""The same between two single texts: the next one should rather find the loop free."""
GUARANTEE_SECONDS = 0.25
"""An item gets its turn at least so often, whoever else waits and however long it takes."""
CALM_SECONDS = 1.0
"""So long after the last single text batches have whole rounds to themselves."""
BURST = 4.0
"""So many times the longest wait is let in while the queue was short a moment ago."""
STANDING_SECONDS = 0.1
"""How long a moment is."""
BURST_AGAIN_SECONDS = 1.0
"""So long after a refusal there is no burst: else a queue under overload would empty and fill in turns, and those in
it would wait as long as if it stood."""
FIRST_PACE = 0.001
"""Seconds a turn is taken to need before any was measured."""
MOST_ITEMS = 2000
"""Items of batches that may wait: twenty full batches."""

Waiter = tuple[float, asyncio.Future[None]]


class Counter(Protocol):
    """Counts by name and attributes."""

    def count(self, name: str, attributes: tuple[str, ...], amount: float = 1) -> None: ...


class Admission:
    """The door and the queue of one process. All of it runs on the event loop."""

    def __init__(self, settings: Settings, counter: Counter, journal_is_late: Callable[[], bool]) -> None:
        self._most_inside = settings.max_in_flight
        self._longest = settings.queue_ms / 1000
        self._journal_is_late = journal_is_late
        self._counter = counter
        self._singles: deque[Waiter] = deque()
        self._items: deque[Waiter] = deque()
        self._items_inside = 0
        self._granted = 0
        """Turns given in this round."""
        self._most = 4
        self._pace = FIRST_PACE
        """Seconds a turn takes while others wait."""
        self._short_at = perf_counter()
        """When the queue was last seen short."""
        self._refused_at = -BURST_AGAIN_SECONDS
        """When somebody was last refused for the queue's sake."""
        self._round_began = 0.0
        self._round_open = False
        self._later: asyncio.TimerHandle | None = None
        self._item_due = 0.0
        """When the next item of a batch may go though a single text is inside."""
        self._gap_due = 0.0
        """When it may while none is, but one was a moment ago."""
        self._item_began: float | None = None
        """When the round began that an item was let into."""
        self._last_single = 0.0
        self.inside = 0
        """Requests of one text that are not answered yet."""

    @property
    def is_crowded(self) -> bool:
        """Whether more than one text is inside."""
        return self.inside + self._items_inside > 1

    @property
    def waiting(self) -> int:
        """Single texts that wait for their turn, and items of batches that are not answered."""
        return len(self._singles) + self._items_inside

    def refusal(self) -> str | None:
        """Why a request of one text cannot come in now; None when it can. It is counted."""
        reason = None
        if self.inside >= self._most_inside:
            reason = "in_flight"
        elif self._is_late():
            reason = "queue"
        elif self._journal_is_late():
            reason = "journal"
        if reason is not None:
            self._counter.count("requests_shed", (reason,))
        return reason

    def batch_refusal(self, items: int) -> str | None:
        """The same for a batch."""
        if self._items_inside + items > MOST_ITEMS:
            reason = "batch"
        elif self._journal_is_late():
            reason = "journal"
        else:
            return None
        self._counter.count("requests_shed", (reason,))
        return reason

    @contextmanager
    def batch(self, items: int) -> Iterator[None]:
        """Around a batch of so many items."""
        self._items_inside += items
        try:
            yield
        finally:
            self._items_inside -= items

    def enter(self) -> None:
        """A request of one text comes in."""
        self.inside += 1
        self._last_single = perf_counter()

    def leave(self) -> None:
        """It is answered."""
        self.inside -= 1
        if self._items and not self.inside:
            self._open_round()

    async def turn(self) -> None:
        """Return when a single text may be examined."""
        if not self._singles and self._granted < self._most:
            self._granted += 1
            self._open_round()
            return
        await self._wait(self._singles)

    async def item_turn(self) -> None:
        """Return when an item of a batch may be."""
        await self._wait(self._items)

    async def _wait(self, queue: deque[Waiter]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append((perf_counter(), future))
        self._open_round()
        await future

    def _is_late(self) -> bool:
        queue = self._singles
        while queue and queue[0][1].done():  # given up
            queue.popleft()
        now = perf_counter()
        expected = len(queue) * self._pace
        if expected <= self._longest / 2:
            self._short_at = now
        standing = now - self._short_at > STANDING_SECONDS or now - self._refused_at < BURST_AGAIN_SECONDS
        late = expected > (self._longest if standing else self._longest * BURST) or (
            bool(queue) and now - queue[0][0] > self._longest
        )
        if late:
            self._refused_at = now
        return late

    def _open_round(self) -> None:
        if not self._round_open:
            self._round_open = True
            self._round_began = perf_counter()
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        now = perf_counter()
        took = now - self._round_began
        if self._singles and self._granted:
            self._pace += (took / self._granted - self._pace) / 16
        if self._granted >= self._most:
            if took > ROUND_SECONDS:
                self._most = max(1, self._most - 1)
            elif took < ROUND_SECONDS / 2:
                self._most = min(MOST_A_ROUND, self._most + 1)
        if self._item_began is not None:
            lasted = now - self._item_began
            self._item_due = now + min(lasted * (1 / ITEM_SHARE - 1), GUARANTEE_SECONDS)
            self._gap_due = now + min(lasted * (1 / GAP_SHARE - 1), GUARANTEE_SECONDS)
            self._item_began = None
        self._round_open = False
        self._granted = _give(self._singles, self._most)
        if self._items:
            given = _give(self._items, self._room_for_items(now))
            if given:
                self._item_began = now
                self._granted += given
        if self._singles or self._granted:
            self._open_round()
        elif self._items:
            if self._later is not None:
                self._later.cancel()  # it may be due sooner now
            due = self._item_due if self.inside else self._gap_due
            self._later = asyncio.get_running_loop().call_later(max(0.0, due - now), self._wake)

    def _room_for_items(self, now: float) -> int:
        if self.inside:
            return 1 if now >= self._item_due else 0
        if now - self._last_single > CALM_SECONDS:
            return self._most
        return 1 if now >= self._gap_due else 0

    def _wake(self) -> None:
        self._later = None
        self._open_round()


def _give(queue: deque[Waiter], most: int) -> int:
    """Let so many go on; how many did."""
    given = 0
    while queue and given < most:
        _, future = queue.popleft()
        if not future.done():
            future.set_result(None)
            given += 1
    return given
