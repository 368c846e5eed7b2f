"""Decisions already taken: the latest in memory, all of them in the database that replicas share."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Protocol

import msgspec
import structlog

from llmobs.errors import LlmobsError

log = structlog.get_logger("llmobs.judge")


class Opinion(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of one class. Holds places in the text, none of its words."""

    said: tuple[float, ...]
    """The probability that each vote gave, uncalibrated."""
    reason: str
    start: int | None = None
    """Where the quotation begins in the evened-out text; None without one that occurs."""
    end: int | None = None


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One answered question."""

    model: str
    opinions: Mapping[str, Opinion]
    confirmed: frozenset[str] = frozenset()
    """Classes whose control the judge saw, so that it may lower their scores."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None


class DecisionStore(Protocol):
    """Keeps encoded judgements beyond this process. Raises LlmobsError when it cannot."""

    async def judgement(self, keys: Sequence[str]) -> tuple[str, bytes, str | None] | None:
        """The first of the keys that has an unexpired value, with the value, and of whom it is."""

    async def keep_judgement(
        self, key: str, value: bytes, expires_at: datetime, person: str | None = None
    ) -> None:
        """Keep a value, replacing an older one under the key; it goes when that person is erased."""


class DecisionCache:
    """Two levels. The second may fail without harm: the question is then asked again."""

    def __init__(
        self,
        *,
        size: int,
        seconds: float,
        store: DecisionStore | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._size = size
        self._seconds = seconds
        self._store = store
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Judgement, str | None]] = OrderedDict()
        """By key: until when, what, and of whom."""

    def in_memory(self, keys: Sequence[str]) -> Judgement | None:
        """The judgement under the first key that is known here."""
        for key in keys:
            found = self._known.get(key)
            if found is None:
                continue
            if found[0] <= self._clock():
                del self._known[key]
                continue
            self._known.move_to_end(key)
            return found[1]
        return None

    def forget(self, persons: Collection[str]) -> None:
        """Forget, in this process, what was first asked for them."""
        for key in [key for key, (_, _, person) in self._known.items() if person in persons]:
            del self._known[key]

    async def in_store(self, keys: Sequence[str]) -> Judgement | None:
        """The judgement that the database has under one of the keys."""
        if self._store is None or not self._seconds:
            return None
        try:
            found = await self._store.judgement(keys)
            if found is None:
                return None
            judgement = msgspec.json.decode(found[1], type=Judgement)
            person = found[2]
        except (LlmobsError, msgspec.DecodeError) as error:
            log.warning("judgement not read", reason=type(error).__name__)
            return None
        self._remember(found[0], judgement, person)
        return judgement

    async def keep(self, key: str, judgement: Judgement, person: str | None = None) -> None:
        """Keep a judgement on both levels; `person`: of whom it is, if of anybody."""
        if not self._seconds:
            return
        self._remember(key, judgement, person)
        if self._store is not None:
            expires_at = datetime.now(UTC) + timedelta(seconds=self._seconds)
            try:
                await self._store.keep_judgement(key, msgspec.json.encode(judgement), expires_at, person)
            except LlmobsError as error:
                log.warning("judgement not kept", reason=type(error).__name__)

    def _remember(self, key: str, judgement: Judgement, person: str | None) -> None:
        if not self._size:
            return
        self._known[key] = (self._clock() + self._seconds, judgement, person)
        self._known.move_to_end(key)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
