"""Rate limits: what each client may still do, right across processes, at little cost a request."""

import asyncio
import math
import time
from collections.abc import Callable
from time import monotonic
from typing import Protocol

import structlog

from llmobs.access.tiers import Tier, Tiers
from llmobs.domain.access import Principal
from llmobs.domain.allowance import NO_LIMIT, SECOND, Ask, Grant, Meter, Window, settle
from llmobs.errors import RateLimited, StoreUnavailable

log = structlog.get_logger("llmobs.limits")

IDLE_SECONDS = 5.0
"""How long allowance that was taken ahead lies unused before it is handed back."""
ASK_AGAIN = 1.0
"""Seconds that a refusal of the store is believed: another process may hand something back."""
LOCAL_SECONDS = 1.0
"""How long a store that failed is left alone, and the process counts by itself."""
SWEEP_SECONDS = 1.0
_SHARE = 64

Headers = list[tuple[bytes, bytes]]


class Allowances(Protocol):
    """Keeps the count for all processes."""

    async def take(self, ask: Ask) -> Grant:
        """Give what is left, as `settle` says. Raises StoreUnavailable."""

    async def close(self) -> None: ...


class MemoryAllowances:
    """Counts for one process."""

    def __init__(self, now: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._windows: dict[tuple[str, Meter], Window] = {}
        self._now = now

    async def take(self, ask: Ask) -> Grant:
        """Give what is left, as `settle` says."""
        grant = settle(self._windows.get((ask.client_id, ask.meter)), ask, self._now())
        self._windows[ask.client_id, ask.meter] = grant.window
        return grant

    async def close(self) -> None:
        """Nothing to close."""


class _Share:
    """What this process holds of one client's allowance for one meter."""

    __slots__ = (
        "burst_ends",
        "ends",
        "grant",
        "have",
        "is_burst",
        "last_ask",
        "lock",
        "refused_until",
        "speed",
        "spent",
        "used_at",
        "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.have = 0
        self.ends = self.burst_ends = 0.0
        """When the windows end, on the monotonic clock."""
        self.grant: Grant | None = None
        self.last_ask: Ask | None = None
        self.refused_until = 0.0
        self.is_burst = False
        """Whether it was the burst that was spent."""
        self.spent = self.speed = 0
        """Since the last sweep, and between the two before it."""
        self.used_at = 0.0
        self.waiting = 0
        self.lock = asyncio.Lock()

    def use(self, amount: int, now: float) -> bool:
        """Take from what is held; whether there was enough."""
        if self.have < amount or now >= self.ends or now >= self.burst_ends:
            return False
        self.have -= amount
        self.spent += amount
        self.used_at = now
        return True

    def resets_in(self, now: float) -> float:
        """Seconds until more can be had."""
        return max(0.0, (self.burst_ends if self.is_burst else self.ends) - now)


class Limiter:
    """Holds clients to their tiers. One per process; call `sweep` about once a second."""

    def __init__(
        self,
        store: Allowances,
        tiers: Tiers,
        now: Callable[[], float] = monotonic,
        *,
        count: Callable[[str, tuple[str, ...]], None] = lambda *_: None,
    ) -> None:
        """`count` counts a metric: its name and its attributes."""
        self._count = count
        self._store = store
        self._own = MemoryAllowances()
        self._tiers = tiers
        self._now = now
        self._shares: dict[tuple[str, Meter], _Share] = {}
        self._tier_of: dict[str, Tier] = {}
        """As its latest credential says; asked for when a detection tier is about to look."""
        self._away_until = 0.0

    async def request(self, who: Principal) -> Headers:
        """Count a request; the headers that its answer is to carry. RateLimited when there are no more."""
        tier = self._tier(who)
        if tier is None or who.client_id is None:
            return []
        self._tier_of[who.client_id] = tier
        if not (tier.requests or tier.burst):
            return []
        share = await self._counted(who.client_id, Meter.REQUESTS, tier, 1)
        return _told(share, tier.requests or tier.burst, self._now())

    async def batch(self, who: Principal, texts: int) -> None:
        """Count the texts of a batch. RateLimited when there is no allowance for all of them."""
        tier = self._tier(who)
        if tier is not None and who.client_id is not None and tier.batch_texts and texts:
            await self._counted(who.client_id, Meter.BATCH_TEXTS, tier, texts)

    async def allows(self, number: int, client_id: str | None) -> str | None:
        """Whether a detection tier may look at one more text of a client; None, or why not."""
        tier = self._tier_of.get(client_id or "")
        if tier is None or client_id is None or number not in {2, 3}:
            return None
        meter = Meter.TIER2 if number == 2 else Meter.TIER3
        if getattr(tier, meter.value):
            try:
                await self._take(client_id, meter, tier, 1)
            except RateLimited:
                return "allowance spent"
        return None

    async def sweep(self) -> None:
        """Learn how fast clients go, hand back what lies unused, and forget who has gone."""
        now = self._now()
        for (client_id, meter), share in list(self._shares.items()):
            share.speed, share.spent = share.spent, 0
            if share.lock.locked() or share.waiting or now - share.used_at < IDLE_SECONDS:
                continue
            if share.have and now < share.ends:
                await self._hand_back(share)
            elif now >= share.ends:
                del self._shares[client_id, meter]

    async def close(self) -> None:
        """Hand back what is held, and let go of the store."""
        for share in self._shares.values():
            if share.have and self._now() < share.ends:
                await self._hand_back(share)
        await self._store.close()

    def _tier(self, who: Principal) -> Tier | None:
        # A tier that the operator took away limits like the narrowest that is left, not like none.
        if who.tier is None:
            return None
        found = self._tiers.get(who.tier)
        return found or min(self._tiers.values(), key=lambda tier: tier.requests or NO_LIMIT, default=None)

    async def _counted(self, client_id: str, meter: Meter, tier: Tier, amount: int) -> _Share:
        """Take for a request, which is refused where there is no more."""
        try:
            return await self._take(client_id, meter, tier, amount)
        except RateLimited as refused:
            self._count("requests_limited", (refused.reason,))
            raise

    async def _take(self, client_id: str, meter: Meter, tier: Tier, amount: int) -> _Share:
        share = self._shares.get((client_id, meter))
        if share is None:
            share = self._shares[client_id, meter] = _Share()
        if share.use(amount, self._now()):
            return share
        if share.last_ask is not None and share.last_ask.allowed != (getattr(tier, meter.value) or NO_LIMIT):
            share.refused_until = 0.0  # the client has another tier since
        share.waiting += amount
        try:
            async with share.lock:
                now = self._now()
                if share.use(amount, now):
                    return share
                if now >= share.refused_until or amount > 1:
                    await self._ask(share, client_id, meter, tier)
                    if share.use(amount, self._now()):
                        return share
        finally:
            share.waiting -= amount
        raise _limited(share, meter, tier, self._now())

    async def _ask(self, share: _Share, client_id: str, meter: Meter, tier: Tier) -> None:
        """Take for all who wait, and hand back what is left of windows that have ended for us."""
        allowed = getattr(tier, meter.value) or NO_LIMIT
        over = self._now() >= min(share.ends, share.burst_ends)
        before = None if share.grant is None else share.grant.window
        ask = Ask(
            client_id=client_id,
            meter=meter,
            allowed=allowed,
            burst=(tier.burst or NO_LIMIT) if meter is Meter.REQUESTS else NO_LIMIT,
            wanted=share.waiting if over else max(0, share.waiting - share.have),
            ahead=max(2 * share.speed, allowed // _SHARE) if allowed < NO_LIMIT else 2 * share.speed,
            returned=share.have if over else 0,
            started_at=0 if before is None else before.started_at,
            burst_at=0 if before is None else before.burst_at,
        )
        grant = await self._granted(ask)
        now = self._now()
        share.have = grant.granted + (0 if over else share.have)
        share.grant, share.last_ask = grant, ask
        share.ends = now + (grant.window.started_at - grant.now) / SECOND + 3600.0
        share.burst_ends = now + (grant.window.burst_at - grant.now) / SECOND + 10.0
        share.is_burst = grant.left(ask) > 0 and grant.burst_left(ask) == 0
        if grant.granted < ask.wanted:
            share.refused_until = now + min(ASK_AGAIN, share.resets_in(now))

    async def _granted(self, ask: Ask) -> Grant:
        """From the store; while it does not answer, this process counts by itself."""
        if self._now() >= self._away_until:
            try:
                return await self._store.take(ask)
            except StoreUnavailable as error:
                self._away_until = self._now() + LOCAL_SECONDS
                log.warning("rate limits counted in this process alone", reason=str(error))
        return await self._own.take(ask)

    async def _hand_back(self, share: _Share) -> None:
        ask = share.last_ask
        if ask is None or share.grant is None:
            return
        async with share.lock:
            unused, share.have = share.have, 0
            window = share.grant.window
            back = Ask(
                client_id=ask.client_id,
                meter=ask.meter,
                allowed=ask.allowed,
                burst=ask.burst,
                wanted=0,
                returned=unused,
                started_at=window.started_at,
                burst_at=window.burst_at,
            )
            share.grant = await self._granted(back)


def _limited(share: _Share, meter: Meter, tier: Tier, now: float) -> RateLimited:
    allowed, period = getattr(tier, meter.value), "an hour"
    if share.is_burst:
        allowed, period = tier.burst, "ten seconds"
    what = "texts in batches" if meter is Meter.BATCH_TEXTS else "requests"
    seconds = max(1, math.ceil(share.resets_in(now)))
    return RateLimited(
        f"The allowance of {allowed:,} {what} {'in' if share.is_burst else ''} {period} is spent.".replace(
            "  ", " "
        ),
        seconds=seconds,
        told=_told(share, allowed, now),
        reason="rate" if share.is_burst else "batch_texts" if meter is Meter.BATCH_TEXTS else "quota",
    )


def _told(share: _Share, allowed: int, now: float) -> Headers:
    """The `RateLimit-*` headers, as far as this process knows: others may have used some since."""
    ask, grant = share.last_ask, share.grant
    left = share.have if ask is None or grant is None else share.have + grant.left(ask)
    window = 10 if share.is_burst else 3600
    return [
        (b"ratelimit-limit", b"%d" % allowed),
        (b"ratelimit-remaining", b"%d" % (0 if share.is_burst and not share.have else min(left, allowed))),
        (b"ratelimit-reset", b"%d" % math.ceil(share.resets_in(now))),
        (b"ratelimit-policy", b"%d;w=%d" % (allowed, window)),
    ]
