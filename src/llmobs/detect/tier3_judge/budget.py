"""What may be spent a minute, by one client and by all together."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

import msgspec

MAX_CLIENTS = 10_000
"""Clients whose spending is remembered; the one unheard of for longest is forgotten first."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Calls and tokens a minute; 0 is no limit."""

    calls: int = 0
    tokens: int = 0


class BudgetSpent(Exception):
    """A budget does not cover the call."""

    def __init__(self, scope: str, kind: str) -> None:
        super().__init__(f"the {scope} budget of {kind} a minute is spent")
        self.scope = scope
        self.kind = kind


class _Bucket:
    """Fills at a steady rate and holds one minute's worth, so that no minute can get two."""

    __slots__ = ("level", "rate", "seen", "size")

    def __init__(self, size: int, now: float) -> None:
        self.size = float(size)
        self.rate = size / 60.0
        self.level = self.size
        self.seen = now

    def fill(self, now: float) -> None:
        self.level = min(self.size, self.level + (now - self.seen) * self.rate)
        self.seen = now

    def covers(self, amount: float) -> bool:
        # A call dearer than the whole budget passes on a full one: otherwise it never could.
        return self.level >= min(amount, self.size)


class Budget:
    """Token buckets. A call is booked with an estimate before it goes out and corrected afterwards."""

    def __init__(self, *, total: Limits, client: Limits, clock: Callable[[], float] = monotonic) -> None:
        self._client_limits = client
        self._clock = clock
        self._total = _buckets(total, clock())
        self._clients: OrderedDict[str, dict[str, _Bucket]] = OrderedDict()

    def book(self, client: str | None, tokens: int) -> None:
        """Take one call and an estimate of tokens. BudgetSpent when a budget does not cover them."""
        now = self._clock()
        wanted = {"calls": 1.0, "tokens": float(tokens)}
        books = [("client", self._of(client, now)), ("total", self._total)]
        for scope, buckets in books:
            for kind, bucket in buckets.items():
                bucket.fill(now)
                if not bucket.covers(wanted[kind]):
                    raise BudgetSpent(scope, kind)
        for _, buckets in books:
            for kind, bucket in buckets.items():
                bucket.level -= wanted[kind]

    def correct(self, client: str | None, estimated: int, used: int) -> None:
        """Put back what the estimate took too much, or take what it lacked."""
        for buckets in (self._of(client, self._clock()), self._total):
            if "tokens" in buckets:
                bucket = buckets["tokens"]
                bucket.level = min(bucket.size, bucket.level + estimated - used)

    def _of(self, client: str | None, now: float) -> dict[str, _Bucket]:
        name = client or ""
        found = self._clients.get(name)
        if found is None:
            found = self._clients[name] = _buckets(self._client_limits, now)
            if len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)
        else:
            self._clients.move_to_end(name)
        return found


def _buckets(limits: Limits, now: float) -> dict[str, _Bucket]:
    sizes = {"calls": limits.calls, "tokens": limits.tokens}
    return {kind: _Bucket(size, now) for kind, size in sizes.items() if size}
