"""What the process does between the store and its callers."""

import asyncio
from pathlib import Path

import pytest

from llmobs.access.limits import ASK_AGAIN, IDLE_SECONDS, Limiter, MemoryAllowances
from llmobs.access.tiers import Tier, load_tiers
from llmobs.domain.access import ALL_SCOPES, ANYONE, Principal, View
from llmobs.domain.allowance import SECOND, Ask, Grant, Meter
from llmobs.errors import RateLimited, SettingsInvalid, StoreUnavailable

WHO = Principal(actor="key:k", client_id="c", scopes=ALL_SCOPES, view=View(frozenset({"c"})), tier="t")


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    def micros(self) -> int:
        return int(self.at * SECOND)


class Counting(MemoryAllowances):
    """A store that several processes share, counting what it is asked; it may be away, and takes its time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.micros)
        self.asked = 0
        self.away = False

    async def take(self, ask: Ask) -> Grant:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("away")
        return await super().take(ask)

    def used(self, meter: Meter = Meter.REQUESTS) -> int:
        return self._windows["c", meter].used


class House:
    def __init__(self, processes: int = 1, **tier: int) -> None:
        self.clock = Clock()
        self.store = Counting(self.clock)
        self.limiters = [
            Limiter(self.store, {"t": Tier(**({"requests": 0} | tier))}, self.clock) for _ in range(processes)
        ]

    async def accepted(self, times: int, process: int = 0) -> int:
        results = await asyncio.gather(
            *(self.limiters[process].request(WHO) for _ in range(times)), return_exceptions=True
        )
        assert all(isinstance(r, list | RateLimited) for r in results), results
        return sum(isinstance(r, list) for r in results)


async def test_exactly_the_limit_is_let_in_by_one_and_by_three_processes() -> None:
    for processes in (1, 3):
        house = House(processes, requests=500)
        counts = await asyncio.gather(*(house.accepted(2000, n) for n in range(processes)))
        assert sum(counts) == 500
        assert house.store.used() == 500


async def test_what_one_process_took_ahead_and_left_another_gets_in_the_end() -> None:
    house = House(2, requests=1000)
    for _ in range(20):
        await house.accepted(5, 0)
    assert house.store.used() > 100
    first = await house.accepted(1000, 1)
    house.clock.at += IDLE_SECONDS + 1
    await house.limiters[0].sweep()
    assert house.store.used() == 100 + first
    assert first + await house.accepted(1000, 1) == 900
    assert house.store.used() == 1000


async def test_most_requests_ask_nobody() -> None:
    house = House(requests=10_000)
    for _ in range(1000):
        await house.accepted(1)
    assert house.store.asked <= 20
    assert house.store.used() >= 1000


async def test_the_last_of_it_is_given_out_one_by_one() -> None:
    house = House(requests=20)
    for used in range(1, 21):
        assert await house.accepted(1) == 1
        held = house.limiters[0]._shares["c", Meter.REQUESTS].have
        assert house.store.used() == used + held
        assert held <= 1
    assert await house.accepted(1) == 0


async def test_the_hour_starts_with_the_first_request_and_ends_for_all() -> None:
    house = House(2, requests=3)
    assert await house.accepted(5, 0) == 3
    house.clock.at += 3599
    assert await house.accepted(5, 1) == 0
    house.clock.at += 2
    assert await house.accepted(5, 1) == 3
    assert await house.accepted(5, 0) == 0


async def test_a_burst_is_over_in_ten_seconds_and_what_it_left_is_not_lost() -> None:
    house = House(requests=640, burst=64)
    assert await house.accepted(100) == 64
    house.clock.at += 10.1
    for _ in range(20):
        await house.accepted(1)
    house.clock.at += 10.1
    await house.accepted(1)
    held = house.limiters[0]._shares["c", Meter.REQUESTS].have
    assert house.store.used() == 64 + 20 + 1 + held
    await house.accepted(100)
    with pytest.raises(RateLimited) as refused:
        await house.limiters[0].request(WHO)
    headers = dict(refused.value.headers)
    assert int(headers[b"retry-after"]) <= 10
    assert headers[b"ratelimit-policy"] == b"64;w=10"


async def test_headers_tell_limit_rest_and_reset() -> None:
    house = House(requests=100)
    told = dict(await house.limiters[0].request(WHO))
    assert told == {
        b"ratelimit-limit": b"100",
        b"ratelimit-remaining": b"99",
        b"ratelimit-reset": b"3600",
        b"ratelimit-policy": b"100;w=3600",
    }
    await house.accepted(99)
    house.clock.at += 600
    with pytest.raises(RateLimited) as refused:
        await house.limiters[0].request(WHO)
    headers = dict(refused.value.headers)
    assert (headers[b"retry-after"], headers[b"ratelimit-remaining"]) == (b"3000", b"0")


async def test_a_refusal_is_believed_for_a_moment_only() -> None:
    house = House(requests=5)
    await house.accepted(10)
    asked = house.store.asked
    await house.accepted(50)
    assert house.store.asked == asked
    house.clock.at += ASK_AGAIN
    await house.accepted(50)
    assert house.store.asked == asked + 1


async def test_texts_in_batches_have_an_allowance_of_their_own_and_go_together() -> None:
    house = House(requests=5, batch_texts=150)
    [limiter] = house.limiters
    await limiter.batch(WHO, 100)
    with pytest.raises(RateLimited, match="150 texts in batches"):
        await limiter.batch(WHO, 100)
    await limiter.batch(WHO, 50)
    with pytest.raises(RateLimited):
        await limiter.batch(WHO, 1)
    assert await house.accepted(10) == 5


async def test_tiers_2_and_3_have_allowances_of_their_own() -> None:
    house = House(requests=100, tier2=3, tier3=1)
    [limiter] = house.limiters
    await limiter.request(WHO)
    assert [await limiter.allows(2, "c") for _ in range(4)] == [None, None, None, "allowance spent"]
    assert [await limiter.allows(3, "c") for _ in range(2)] == [None, "allowance spent"]
    assert await limiter.allows(1, "c") is None
    assert await limiter.allows(3, None) is None


async def test_nobody_known_and_no_limit_are_not_counted() -> None:
    house = House(requests=0)
    assert await house.limiters[0].request(ANYONE) == []
    assert await house.accepted(1000) == 1000
    assert house.store.asked == 0
    off = Limiter(house.store, {}, house.clock)
    assert await off.request(WHO) == []


async def test_a_tier_that_is_gone_limits_like_the_narrowest() -> None:
    clock = Clock()
    tiers = {"wide": Tier(requests=1000), "narrow": Tier(requests=2)}
    limiter = Limiter(Counting(clock), tiers, clock)
    told = await limiter.request(WHO)
    assert (b"ratelimit-limit", b"2") in told


async def test_a_store_that_is_away_stops_nobody_below_the_limit_of_this_process() -> None:
    house = House(requests=10)
    house.store.away = True
    assert await house.accepted(30) == 10
    asked = house.store.asked
    assert asked <= 2


async def test_closing_hands_back_what_is_held() -> None:
    house = House(requests=6400)
    await house.accepted(1)
    assert house.store.used() > 1
    await house.limiters[0].close()
    assert house.store.used() == 1


async def test_a_caller_that_gives_up_waiting_leaves_no_trace() -> None:
    house = House(requests=10)
    waiting = asyncio.ensure_future(house.limiters[0].request(WHO))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert house.limiters[0]._shares["c", Meter.REQUESTS].waiting == 0
    assert await house.accepted(20) >= 9


def test_the_built_in_tiers_are_the_documented_ones(tmp_path: Path) -> None:
    tiers = load_tiers()
    assert {name: tier.requests for name, tier in tiers.items()} == {
        "free": 100,
        "pro": 1000,
        "enterprise": 10_000,
    }
    own = tmp_path / "tiers.toml"
    own.write_text("[gold]\nrequests = 7\n")
    assert load_tiers(own) == {"gold": Tier(requests=7)}
    for wrong in ("[gold]\nburst = 7\n", "[gold]\nrequests = -1\n", "[gold]\nrequests = 1\nother = 2\n", "["):
        own.write_text(wrong)
        with pytest.raises(SettingsInvalid, match="LLMOBS_TIERS_FILE"):
            load_tiers(own)


@pytest.mark.parametrize(
    ("tier", "reason"), [({"requests": 100, "burst": 2}, "rate"), ({"requests": 2}, "quota")]
)
async def test_the_reason_of_a_refusal_is_counted(tier: dict[str, int], reason: str) -> None:
    counted: list[tuple[str, tuple[str, ...]]] = []
    clock = Clock()
    limiter = Limiter(
        Counting(clock), {"t": Tier(**tier)}, clock, count=lambda name, told: counted.append((name, told))
    )
    for _ in range(2):
        await limiter.request(WHO)
    with pytest.raises(RateLimited):
        await limiter.request(WHO)
    assert counted == [("requests_limited", (reason,))]


async def test_a_detection_tier_without_allowance_is_no_refused_request() -> None:
    counted: list[str] = []
    clock = Clock()
    limiter = Limiter(
        Counting(clock),
        {"t": Tier(requests=10, tier2=1)},
        clock,
        count=lambda name, told: counted.append(name),
    )
    await limiter.request(WHO)
    assert [await limiter.allows(2, "c") for _ in range(2)] == [None, "allowance spent"]
    assert counted == []
