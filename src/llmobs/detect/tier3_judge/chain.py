"""Several providers as one: in order, each behind its breaker, within one limit of calls at a time."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic

import msgspec

from llmobs.detect.tier3_judge.breaker import Breaker, State
from llmobs.detect.tier3_judge.observer import JudgeObserver
from llmobs.detect.tier3_judge.provider import Ask, Completion, Provider, ProviderFailed, Trouble

HEDGE_AFTER_CALLS = 20
"""Calls that must have been timed before a p95 is one."""
USUAL_AFTER_CALLS = 5
LEAST_TIME_S = 0.05
TRIVIAL_WAIT_S = 0.05


class Price(msgspec.Struct, frozen=True):
    """US dollars for a million tokens."""

    input: float
    output: float

    def of(self, completion: Completion) -> float:
        """Dollars for one reply."""
        return (completion.input_tokens * self.input + completion.output_tokens * self.output) / 1e6


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A reply and who gave it."""

    completion: Completion
    provider: str
    model: str
    cost_usd: float | None


class NoAnswer(Exception):
    """No provider gave a reply; the message says why for each."""


class NoTurn(Exception):
    """Too many calls are out or wait."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Limiter:
    """At most `most` calls at a time; at most `queue` wait for their turn."""

    def __init__(self, most: int, queue: int) -> None:
        self._semaphore = asyncio.Semaphore(most)
        self._queue = queue
        self.waiting = 0
        self.in_flight = 0

    @asynccontextmanager
    async def turn(self, seconds: float) -> AsyncIterator[None]:
        """Hold a place while the block runs. NoTurn when none comes free in time."""
        if self._semaphore.locked() and self.waiting >= self._queue:
            raise NoTurn("queue full", f"{self.waiting} questions wait already")
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._semaphore.acquire()
        except TimeoutError:
            raise NoTurn("no turn", "no turn came in time") from None
        finally:
            self.waiting -= 1
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._semaphore.release()


class Seat:
    """A provider with what is known of it."""

    def __init__(self, provider: Provider, breaker: Breaker, price: Price | None) -> None:
        self.provider = provider
        self.breaker = breaker
        self.price = price
        self.resting_until = 0.0
        self._seconds: deque[float] = deque(maxlen=200)

    def timed(self, seconds: float) -> None:
        """A call took so long."""
        self._seconds.append(seconds)

    @property
    def usual(self) -> float:
        """What a call takes, in seconds: one that has less time left is not worth its money."""
        if len(self._seconds) < USUAL_AFTER_CALLS:
            return LEAST_TIME_S
        return max(LEAST_TIME_S, sorted(self._seconds)[len(self._seconds) // 2])

    @property
    def p95(self) -> float | None:
        """The 95th percentile of the latest calls in seconds; None while they are too few."""
        if len(self._seconds) < HEDGE_AFTER_CALLS:
            return None
        ordered = sorted(self._seconds)
        return ordered[int(0.95 * (len(ordered) - 1))]


class Chain:
    """Asks the first provider that may be asked; the next when it fails, or is slow.

    A round tries every provider that is admitted. When all failed in ways that may pass, one more
    round follows after a pause with jitter, or after what `Retry-After` asks for. The caller's
    deadline ends it all.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        *,
        observer: JudgeObserver,
        limiter: Limiter,
        call_timeout_s: float,
        rounds: int = 2,
        pause_s: float = 0.25,
        hedge: bool = False,
        prices: Mapping[str, Price] | None = None,
        breaker_failures: int = 5,
        breaker_rest_s: float = 5.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._observer = observer
        self._limiter = limiter
        self._call_timeout_s = call_timeout_s
        self._rounds = rounds
        self._pause_s = pause_s
        self._hedge = hedge
        self._clock = clock
        self.seats = tuple(
            Seat(
                provider,
                Breaker(
                    failures=breaker_failures,
                    rest_s=breaker_rest_s,
                    clock=clock,
                    changed=self._telling(provider.name),
                ),
                (prices or {}).get(provider.model),
            )
            for provider in providers
        )

    def _telling(self, name: str) -> Callable[[State], None]:
        return lambda state: self._observer.breaker_moved(name, state)

    async def ask(self, ask: Ask, until: float) -> Answer:
        """The first reply before `until`, a time of the clock. NoAnswer when there is none."""
        failures: dict[str, ProviderFailed] = {}
        for round_number in range(self._rounds):
            if round_number:
                pause = self._pause(round_number, failures.values())
                if self._clock() + pause + LEAST_TIME_S > until:
                    break
                await asyncio.sleep(pause)
            answer = await self._round(ask, until, failures)
            if answer is not None:
                return answer
            if not any(failure.may_pass for failure in failures.values()):
                break
        raise NoAnswer(self._why(failures))

    def _why(self, failures: Mapping[str, ProviderFailed]) -> str:
        reasons = []
        for seat in self.seats:
            name = seat.provider.name
            if name in failures:
                reasons.append(f"{name}: {failures[name]}")
            elif seat.resting_until > self._clock():
                reasons.append(f"{name}: asked to wait")
            else:
                reasons.append(f"{name}: resting after failures")
        return "; ".join(reasons)

    def _pause(self, round_number: int, failures: Iterable[ProviderFailed]) -> float:
        jittered = self._pause_s * 2.0 ** (round_number - 1) * random.uniform(0.5, 1.5)  # noqa: S311  # no secret
        asked = [failure.retry_after for failure in failures if failure.retry_after is not None]
        return max(jittered, min(asked) + TRIVIAL_WAIT_S) if asked else jittered

    async def _round(self, ask: Ask, until: float, failures: dict[str, ProviderFailed]) -> Answer | None:
        """Try the providers that may be tried now until one replies."""
        now = self._clock()
        left = deque(seat for seat in self.seats if seat.resting_until <= now)
        running: dict[asyncio.Task[Answer | ProviderFailed], Seat] = {}
        async with asyncio.TaskGroup() as group:

            def start_next() -> Seat | None:
                while left:
                    seat = left.popleft()
                    if seat.breaker.admit():
                        running[group.create_task(self._call(seat, ask, until))] = seat
                        return seat
                return None

            latest = start_next()
            while running:
                patience = latest.p95 if self._hedge and left and latest is not None else None
                done, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    slow, latest = latest, start_next()
                    if slow is not None and latest is not None:
                        self._observer.failed_over(slow.provider.name, "hedge")
                for task in done:
                    seat = running.pop(task)
                    result = task.result()
                    if isinstance(result, Answer):
                        for other in running:
                            other.cancel()
                        return result
                    failures[seat.provider.name] = result
                    started = start_next()
                    if started is not None:
                        latest = started
                        self._observer.failed_over(seat.provider.name, result.trouble.value)
        return None

    async def _call(self, seat: Seat, ask: Ask, until: float) -> Answer | ProviderFailed:
        """One call, told to breaker and telemetry however it ends."""
        provider = seat.provider
        settled = False
        try:
            async with self._limiter.turn(until - self._clock() - seat.usual):
                if seat.resting_until > self._clock():  # asked for while this call waited its turn
                    return ProviderFailed(Trouble.RATE_LIMITED, "asked to wait")
                started = self._clock()
                if until - started < seat.usual:  # what is usual was learnt while this call waited
                    self._observer.refused("no turn")
                    return ProviderFailed(Trouble.BUSY, "no turn came in time")
                seconds = min(self._call_timeout_s, until - started)
                with self._observer.call(provider.name, provider.model) as log:
                    try:
                        async with asyncio.timeout(seconds):
                            completion = await provider.complete(ask)
                    except (TimeoutError, ProviderFailed) as error:
                        failure = (
                            error
                            if isinstance(error, ProviderFailed)
                            else ProviderFailed(Trouble.TIMEOUT, f"no answer within {seconds:.3g} s")
                        )
                        log.failed(failure.trouble.value)
                        self._blame(seat, failure)
                        settled = True
                        return failure
                    cost = None if seat.price is None else seat.price.of(completion)
                    log.replied(completion, cost)
                seat.timed(self._clock() - started)
                seat.breaker.succeeded()
                settled = True
                return Answer(
                    completion=completion, provider=provider.name, model=provider.model, cost_usd=cost
                )
        except NoTurn as refusal:
            self._observer.refused(refusal.reason)
            return ProviderFailed(Trouble.BUSY, str(refusal))
        finally:
            if not settled:
                seat.breaker.dropped()

    def _blame(self, seat: Seat, failure: ProviderFailed) -> None:
        if failure.retry_after is not None:
            seat.resting_until = self._clock() + failure.retry_after
        if failure.trouble in {Trouble.RATE_LIMITED, Trouble.TOO_LONG}:
            seat.breaker.dropped()  # it works; it is busy, or the model rambles
        else:
            seat.breaker.failed()

    @property
    def in_flight(self) -> int:
        """Calls that are out now."""
        return self._limiter.in_flight

    async def close(self) -> None:
        """Close the providers' connections."""
        for seat in self.seats:
            await seat.provider.close()
