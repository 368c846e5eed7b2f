"""Counting what a client uses in windows of time: pure arithmetic, the same in every store.

A process takes allowance from the store in one go for all requests that wait, and a little ahead while
there is plenty, so that most requests ask nobody. What it took and did not use it hands back. So a limit
is never exceeded, and the last of it is given out one by one.
"""

from enum import StrEnum

import msgspec

SECOND = 1_000_000
"""Times are whole microseconds."""
HOUR = 3600 * SECOND
BURST = 10 * SECOND
AHEAD_SHARE = 16
"""At most this part of what is left is taken ahead of need."""
NO_LIMIT = 1_000_000_000_000


class Meter(StrEnum):
    """What is counted apart."""

    REQUESTS = "requests"
    BATCH_TEXTS = "batch_texts"
    TIER2 = "tier2"
    TIER3 = "tier3"


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a process asks of the store."""

    client_id: str
    meter: Meter
    allowed: int
    """In an hour from the first use on."""
    burst: int = NO_LIMIT
    """In ten seconds from the first use on."""
    wanted: int
    """For requests that wait."""
    ahead: int = 0
    """Beyond that, if there is plenty."""
    returned: int = 0
    """What was taken in the windows below, and not used."""
    started_at: int = 0
    burst_at: int = 0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What a store keeps of a client and meter."""

    started_at: int
    used: int
    burst_at: int
    burst_used: int


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What the store gives, and the window as it is after that."""

    granted: int
    window: Window
    now: int

    def left(self, ask: Ask) -> int:
        """What is still to be had in the hour."""
        return max(0, ask.allowed - self.window.used)

    def burst_left(self, ask: Ask) -> int:
        """What is still to be had in the ten seconds."""
        return max(0, ask.burst - self.window.burst_used)


def settle(window: Window | None, ask: Ask, now: int) -> Grant:
    """The one rule that every store follows."""
    before = window or Window(started_at=now, used=0, burst_at=now, burst_used=0)
    if before.started_at + HOUR <= now:
        started_at, used = now, 0
    else:
        mine = ask.returned if before.started_at == ask.started_at else 0
        started_at, used = before.started_at, max(0, before.used - mine)
    if before.burst_at + BURST <= now:
        burst_at, burst_used = now, 0
    else:
        mine = ask.returned if before.burst_at == ask.burst_at else 0
        burst_at, burst_used = before.burst_at, max(0, before.burst_used - mine)
    left = max(0, min(ask.allowed - used, ask.burst - burst_used))
    granted = min(ask.wanted, left) + min(ask.ahead, max(0, left - ask.wanted) // AHEAD_SHARE)
    after = Window(
        started_at=started_at, used=used + granted, burst_at=burst_at, burst_used=burst_used + granted
    )
    return Grant(granted=granted, window=after, now=now)
