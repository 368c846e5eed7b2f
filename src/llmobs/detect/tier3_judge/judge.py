"""One question to the judge: cache, single flight, budget, votes, a second try, a control."""

import asyncio
import hashlib
import random
from collections.abc import Collection, Sequence
from typing import Self

import msgspec

from llmobs.detect.tier3_judge.budget import Budget, BudgetSpent
from llmobs.detect.tier3_judge.cache import DecisionCache, Judgement, Opinion
from llmobs.detect.tier3_judge.chain import Answer, Chain, NoAnswer, Seat
from llmobs.detect.tier3_judge.excerpt import Flat, Window
from llmobs.detect.tier3_judge.flight import Flights, Landed
from llmobs.detect.tier3_judge.observer import JudgeObserver
from llmobs.detect.tier3_judge.provider import ProviderFailed
from llmobs.detect.tier3_judge.question import Family, Material, compose, text_materials
from llmobs.detect.tier3_judge.reply import (
    ClassVerdict,
    ReplyInvalid,
    locate,
    merged_quote,
    read_reply,
    told_reason,
)
from llmobs.domain.subject import Kind

CONTROL_SEEN = 0.5
"""What a judge must say of a control at least."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Classes of one family, about one text."""

    family: Family
    classes: tuple[str, ...]
    """Sorted."""
    guarded: tuple[str, ...] = ()
    """Those of them whose score may be lowered only when the judge sees the control. Sorted."""
    kind: Kind
    flat: Flat
    shown: tuple[Window, ...]
    context: tuple[Material, ...] = ()
    client: str | None = None
    person: str | None = None
    """Whom an erasure would name to have the answer forgotten."""
    until: float
    """Time of the monotonic clock after which no answer is of use."""
    fresh: bool = False
    """The model must be asked: no earlier answer will do, and this one is not kept."""


class Unanswered(Exception):
    """The question got no answer; the message says why and quotes nothing."""


class ProviderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the last look at a provider showed."""

    name: str
    model: str
    ok: bool
    detail: str


class Judge:
    """Answers questions by asking language models. `async with judge:` spans its life.

    At the end it lets what is under way finish for `drain_s` seconds, then cancels it.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        cache: DecisionCache,
        budget: Budget,
        observer: JudgeObserver,
        votes: int = 1,
        vote_temperature: float = 0.7,
        drain_s: float = 5.0,
    ) -> None:
        self.chain = chain
        self._cache = cache
        self._budget = budget
        self._observer = observer
        self._votes = votes
        self._temperature = vote_temperature if votes > 1 else 0.0
        self._drain_s = drain_s
        self._group: asyncio.TaskGroup | None = None
        self._flights: Flights[tuple[Judgement, bool]] | None = None
        self.statuses: tuple[ProviderStatus, ...] = ()

    async def __aenter__(self) -> Self:
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._flights = Flights(self._group)
        return self

    async def __aexit__(self, *_: object) -> None:
        flights, group = self._flights, self._group
        if flights is None or group is None:
            return
        self._flights = None  # from here on questions are refused
        await flights.drain(self._drain_s)
        await group.__aexit__(None, None, None)
        await self.chain.close()

    def forget(self, persons: Collection[str]) -> None:
        """Forget what is remembered in this process of questions about them."""
        self._cache.forget(persons)

    async def probe(self, seconds: float = 3.0) -> tuple[ProviderStatus, ...]:
        """Look at every provider, each for so long at most, and remember what was seen."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_probe(seat, seconds)) for seat in self.chain.seats]
        self.statuses = tuple(task.result() for task in tasks)
        return self.statuses

    async def answer(self, question: Question) -> tuple[Judgement, bool]:
        """The judgement, and whether it was known already. Unanswered when there is none."""
        keys = [self._key(question, seat) for seat in self.chain.seats]
        if question.fresh:
            keys = [f"fresh {key}" for key in keys]
        known = None if question.fresh else self._cache.in_memory(keys)
        if known is not None:
            self._observer.looked_up("memory")
            return known, True
        if self._flights is None:
            raise Unanswered("the service is shutting down")
        try:
            (judgement, cached), shared = await self._flights.join(keys[0], lambda: self._fly(question, keys))
        except Landed as landed:
            raise Unanswered(str(landed)) from None
        if shared:
            self._observer.looked_up("shared")
        return judgement, cached or shared

    def _key(self, question: Question, seat: Seat) -> str:
        """Equal for questions that are equal up to white space."""
        told = msgspec.json.encode(
            (
                (question.family.id, question.family.digest, question.classes, question.guarded),
                (question.kind, question.flat.text, [(w.start, w.end) for w in question.shown]),
                question.context,
                (seat.provider.name, seat.provider.model, self._votes, self._temperature),
            )
        )
        return hashlib.sha256(told).hexdigest()

    async def _fly(self, question: Question, keys: Sequence[str]) -> tuple[Judgement, bool]:
        if not question.fresh:
            known = await self._cache.in_store(keys)
            if known is not None:
                self._observer.looked_up("database")
                return known, True
            self._observer.looked_up("miss")
        bill = _Bill()
        try:
            verdicts = await self._ballot(question, bill)
            opinions = {name: self._opinion(question, verdicts, name) for name in question.classes}
            low = tuple(name for name in question.guarded if _mean(opinions[name].said) < CONTROL_SEEN)
            confirmed = await self._controlled(question, low, bill) if low else frozenset[str]()
        except NoAnswer as error:
            raise Unanswered(str(error)) from None
        judgement = Judgement(
            model=bill.model,
            opinions=opinions,
            confirmed=confirmed,
            input_tokens=bill.input_tokens,
            output_tokens=bill.output_tokens,
            cost_usd=bill.cost_usd,
        )
        if question.fresh:
            return judgement, False
        by = next(
            (
                key
                for key, seat in zip(keys, self.chain.seats, strict=True)
                if seat.provider.name == bill.provider
            ),
            keys[0],
        )
        await self._cache.keep(by, judgement, question.person)
        return judgement, False

    async def _ballot(self, question: Question, bill: "_Bill") -> list[dict[str, ClassVerdict]]:
        """The votes; more than half of them must come."""
        materials = (*question.context, *text_materials(question.flat, question.shown))
        if self._votes == 1:
            return [await self._verdicts(question, question.classes, materials, bill)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._vote(question, materials, bill)) for _ in range(self._votes)]
        results = [task.result() for task in tasks]
        cast = [result for result in results if isinstance(result, dict)]
        if 2 * len(cast) <= self._votes:
            raise next(result for result in results if not isinstance(result, dict))
        return cast

    async def _vote(
        self, question: Question, materials: Sequence[Material], bill: "_Bill"
    ) -> "dict[str, ClassVerdict] | NoAnswer | Unanswered | BudgetSpent":
        try:
            return await self._verdicts(question, question.classes, materials, bill)
        except (NoAnswer, Unanswered, BudgetSpent) as error:
            return error

    async def _verdicts(
        self, question: Question, classes: Sequence[str], materials: Sequence[Material], bill: "_Bill"
    ) -> dict[str, ClassVerdict]:
        """One vote, with one more try for a reply that does not hold the form."""
        mend = ""
        while True:
            answer = await self._ask(question, classes, materials, mend, bill)
            try:
                found = read_reply(answer.completion.text, classes)
            except ReplyInvalid as error:
                if mend:
                    self._observer.mended("given up")
                    raise Unanswered(f"{answer.provider}: the reply did not hold the form, twice") from None
                mend = str(error)
                continue
            if mend:
                self._observer.mended("repaired")
            return found

    async def _ask(
        self,
        question: Question,
        classes: Sequence[str],
        materials: Sequence[Material],
        mend: str,
        bill: "_Bill",
    ) -> Answer:
        ask = compose(
            question.family,
            classes,
            question.kind,
            materials,
            temperature=self._temperature,
            mend=mend,
        )
        estimated = ask.estimated_tokens
        self._budget.book(question.client, estimated)
        used = 0
        try:
            answer = await self.chain.ask(ask, question.until)
            used = answer.completion.input_tokens + answer.completion.output_tokens or estimated
        except asyncio.CancelledError:
            used = estimated  # it went out, and nobody will tell what it took
            raise
        finally:
            self._budget.correct(question.client, estimated, used)
        bill.add(answer)
        return answer

    def _opinion(self, question: Question, verdicts: Sequence[dict[str, ClassVerdict]], name: str) -> Opinion:
        said = tuple(vote[name].probability for vote in verdicts)
        spoken = merged_quote(verdicts, name, _mean(said))
        place = locate(spoken.quote, question.flat, question.shown) if spoken.quote.strip() else None
        if spoken.quote.strip() and place is None:
            self._observer.quote_dropped()
        return Opinion(
            said=said,
            reason=told_reason(spoken, question.flat),
            start=None if place is None else place[0],
            end=None if place is None else place[1],
        )

    async def _controlled(
        self, question: Question, classes: tuple[str, ...], bill: "_Bill"
    ) -> frozenset[str]:
        """The classes that the judge finds when the text is given a sentence full of them.

        A judge that the text has talked into seeing nothing sees nothing here either.
        """
        family = question.family
        planted = " ".join(family.classes[name].control for name in classes)
        *before, last = text_materials(question.flat, question.shown)
        words = last.text.split(" ")
        at = random.randint(0, len(words))  # noqa: S311  # where it stands is no secret
        text = " ".join([*words[:at], planted, *words[at:]])
        materials = (*question.context, *before, Material(title=last.title, text=text))
        try:
            found = await self._verdicts(question, classes, materials, bill)
        except (NoAnswer, Unanswered, BudgetSpent):
            return frozenset()
        return frozenset(name for name in classes if found[name].probability >= CONTROL_SEEN)


class _Bill:
    """What the calls for one question took."""

    def __init__(self) -> None:
        self.model = ""
        self.provider = ""
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_usd: float | None = 0.0

    def add(self, answer: Answer) -> None:
        self.model = f"{answer.provider}/{answer.model}"
        self.provider = answer.provider
        self.input_tokens += answer.completion.input_tokens
        self.output_tokens += answer.completion.output_tokens
        if answer.cost_usd is None or self.cost_usd is None:
            self.cost_usd = None
        else:
            self.cost_usd += answer.cost_usd


def _mean(said: Sequence[float]) -> float:
    return sum(said) / len(said)


async def _probe(seat: Seat, seconds: float) -> ProviderStatus:
    provider = seat.provider
    try:
        async with asyncio.timeout(seconds):
            detail, ok = await provider.probe(), True
    except ProviderFailed as error:
        detail, ok = str(error), False
    except TimeoutError:
        detail, ok = f"no answer within {seconds:g} s", False
    return ProviderStatus(name=provider.name, model=provider.model, ok=ok, detail=detail)
