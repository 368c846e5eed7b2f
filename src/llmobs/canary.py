"""Canaries: samples with a known answer, put to the running detectors again and again.

A guard that has gone blind answers as one that finds nothing wrong. So every detector that serves
requests is asked, on the same object and the same way, about a text that it must find and one that
it must leave alone, for each class that it looks for. No verdict is recorded and no traffic metric
counts them: they are not traffic.

The judge costs money, so its samples take turns, one at a time; they pass its cache by, since a
remembered answer says nothing about a model that has died.
"""

import asyncio
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from time import monotonic
from typing import Annotated, NamedTuple

import msgspec
import structlog
from msgspec import Meta

from llmobs.detect.detector import Detector
from llmobs.detect.pipeline import Pipeline, Tier
from llmobs.detect.tier1_patterns.engine import excluded_by
from llmobs.detect.tier1_patterns.proofs import fill
from llmobs.domain.decision import decide
from llmobs.domain.detection import Failed, Ran, Report
from llmobs.domain.policy import ClassPolicy, Policy
from llmobs.domain.risk import Action, Severity
from llmobs.domain.subject import Document, Kind, Likeness, Subject

log = structlog.get_logger("llmobs.canary")

SAMPLES = Path(str(files("llmobs") / "data" / "canaries.toml"))
FOUND = 0.5
"""From this score on a detector has found the class."""
CLEARED = 0.05
"""Below this the lexical classifier clears a class; it is the largest `clear` of the built-in policies."""
WHOLE = "pipeline"
"""Stands for the whole pipeline under the default policy, where a detector's name would stand."""
JUDGE_TIER = 3
PAUSE_S = 0.02
"""Between two samples, so that a round takes turns with requests."""


class Sample(StrEnum):
    """What a text is."""

    BAD = "bad"
    GOOD = "good"


class Canary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One text, the class that it has or has not, and the detectors that must tell."""

    failure_class: Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{1,40}$")] = msgspec.field(name="class")
    sample: Sample
    by: Annotated[tuple[str, ...], Meta(min_length=1)]
    text: Annotated[str, Meta(min_length=1)]
    rule: str = ""
    """The built-in rule that must hit; where it is excluded, nothing is asked of the class's rules."""
    kind: Kind = Kind.RESPONSE
    query: str | None = None
    documents: tuple[str, ...] = ()

    def subject(self, likenesses: dict[str, Likeness] | None = None) -> Subject:
        """What the detectors are shown."""
        return Subject(
            text=fill(self.text),
            kind=self.kind,
            query=self.query,
            documents=tuple(Document(text=text) for text in self.documents),
            likenesses=likenesses or {},
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    canary: tuple[Canary, ...]


class Key(NamedTuple):
    """Which canary; these are the metric's labels."""

    tier: str
    detector: str
    failure_class: str
    sample: str


class Outcome(msgspec.Struct, frozen=True):
    """How it went last."""

    ok: bool
    why: str = ""
    """Why not; never quotes a text."""
    answered: bool = True
    """Whether the detector answered at all."""


class Bird(NamedTuple):
    """A canary for one detector: which tier is asked, what, and about which class."""

    key: Key
    tier: Tier | None
    """None: the whole pipeline."""
    canary: Canary
    likeness: Likeness | None = None


def builtin_canaries() -> tuple[Canary, ...]:
    """The samples in the package."""
    return msgspec.convert(tomllib.loads(SAMPLES.read_text(encoding="utf-8")), _File).canary


class Canaries:
    """The canaries of one process. `round` and `ask_judge` are called on a schedule."""

    def __init__(
        self,
        pipeline: Pipeline,
        policy: Callable[[], Policy],
        *,
        excluded_rules: Sequence[str] = (),
        judge: Detector | None = None,
    ) -> None:
        """`policy` gives the default policy in force; `judge` asks past the cache."""
        self._pipeline = pipeline
        self._policy = policy
        self._judge = judge
        self._samples = _without(builtin_canaries(), excluded_rules)
        self._outcomes: dict[Key, Outcome] = {}
        self._started = monotonic()
        self._answered: dict[str, float] = {}
        self._turn = 0
        self.rounds = 0
        """How often every sample has been sent."""

    async def round(self) -> None:
        """Send every sample of every detector but the judge."""
        birds = list(self._birds())
        for bird in birds:
            self._take(bird, await self._sent(bird))
            await asyncio.sleep(PAUSE_S)
        # Classes that a policy no longer defines by examples have no canary any more.
        living = {bird.key for bird in birds} | {bird.key for bird in self._judges()}
        self._outcomes = {key: outcome for key, outcome in self._outcomes.items() if key in living}
        self.rounds += 1

    async def ask_judge(self) -> None:
        """Send the next sample to the judge; when it answers again, all that it left unanswered as well."""
        birds = list(self._judges())
        if not birds:
            return
        bird = birds[self._turn % len(birds)]
        self._turn += 1
        outcome = await self._sent(bird)
        self._take(bird, outcome)
        for waiting in birds if outcome.answered else ():
            known = self._outcomes.get(waiting.key)
            if known is None or known.answered:
                continue
            outcome = await self._sent(waiting)
            self._take(waiting, outcome)
            if not outcome.answered:
                return

    def failing(self) -> tuple[Key, ...]:
        """The canaries, the judge's apart, that went wrong last."""
        return tuple(
            key for key, outcome in self._outcomes.items() if not outcome.ok and key.tier != str(JUDGE_TIER)
        )

    @property
    def sent(self) -> int:
        """How many canaries, the judge's apart, have been sent at least once."""
        return sum(key.tier != str(JUDGE_TIER) for key in self._outcomes)

    def successes(self) -> Iterable[tuple[Key, float]]:
        """1 for a canary that went well last, 0 for one that did not."""
        return [(key, 1.0 if outcome.ok else 0.0) for key, outcome in list(self._outcomes.items())]

    def ages(self) -> Iterable[tuple[tuple[str], float]]:
        """Seconds since a canary of each tier was last sent, or since the start."""
        now = monotonic()
        tiers = {str(tier.number) for tier in self._pipeline.tiers if tier.detectors}
        return [((tier,), now - self._answered.get(tier, self._started)) for tier in sorted(tiers)]

    def _birds(self) -> Iterator[Bird]:
        for tier in self._pipeline.tiers:
            if tier.number == JUDGE_TIER:
                continue
            for detector in tier.detectors:
                for canary in self._samples:
                    # A model of the operator's may know fewer classes; rules that hear nothing are gone.
                    heard = detector.name == "rules" or canary.failure_class in detector.hears
                    if heard and detector.name in canary.by:
                        yield Bird(_key(tier, detector.name, canary), tier, canary)
                if detector.name == "exemplars":
                    yield from self._by_example(tier)
        policy = self._policy()
        for canary in self._samples:
            if WHOLE in canary.by and canary.failure_class in policy.classes:
                yield Bird(Key("all", WHOLE, canary.failure_class, canary.sample.value), None, canary)

    def _by_example(self, tier: Tier) -> Iterator[Bird]:
        """A class defined by examples must know its own first example, and leave plain prose alone."""
        for name, likeness in self._policy().likenesses.items():
            for sample, text in ((Sample.BAD, likeness.examples[0]), (Sample.GOOD, PLAIN)):
                canary = Canary(failure_class=name, sample=sample, by=("exemplars",), text=text)
                yield Bird(_key(tier, "exemplars", canary), tier, canary, likeness)

    def _judges(self) -> Iterator[Bird]:
        judge = self._judge
        if judge is None:
            return
        for tier in self._pipeline.tiers:
            if tier.number == JUDGE_TIER and tier.detectors:
                asked = msgspec.structs.replace(tier, detectors=(judge,))
                for canary in self._samples:
                    if judge.name in canary.by and canary.failure_class in judge.hears:
                        yield Bird(_key(tier, judge.name, canary), asked, canary)

    async def _sent(self, bird: Bird) -> Outcome:
        """The outcome; a failure gets a second chance, since one slow moment is no blindness."""
        outcome = await self._once(bird)
        if outcome.ok or bird.key.tier == str(JUDGE_TIER):
            return outcome
        return await self._once(bird)

    async def _once(self, bird: Bird) -> Outcome:
        try:
            return await (self._whole(bird) if bird.tier is None else self._alone(bird, bird.tier))
        except Exception as error:  # a background loop: a detector's bug is what canaries are for
            log.exception("canary", **bird.key._asdict())
            return Outcome(ok=False, why=f"bug: {type(error).__name__}", answered=False)

    async def _alone(self, bird: Bird, tier: Tier) -> Outcome:
        """Its tier alone is asked about its class alone, so that no other tier can answer for it."""
        name = bird.canary.failure_class
        likenesses = {} if bird.likeness is None else {name: bird.likeness}
        examples = () if bird.likeness is None else bird.likeness.examples
        policy = Policy(
            id="canary",
            version=1,
            classes={name: ClassPolicy(severity=Severity.HIGH, warn=FOUND, examples=examples)},
        )
        reports = await Pipeline([tier]).examine(bird.canary.subject(likenesses), policy)
        report = next(report for report in reports if report.detector == bird.key.detector)
        return _judged(report, bird.canary)

    async def _whole(self, bird: Bird) -> Outcome:
        """The verdict as a request gets it, short of being recorded."""
        canary, policy = bird.canary, self._policy()
        decision = decide(policy, await self._pipeline.examine(canary.subject(), policy))
        if canary.sample is Sample.GOOD:
            fine = decision.action is Action.ALLOW and not decision.degraded
            return Outcome(ok=fine, why="" if fine else f"ended in {decision.action}")
        return _compared(decision.scores.get(canary.failure_class, 0.0), FOUND, canary)

    def _take(self, bird: Bird, outcome: Outcome) -> None:
        known = self._outcomes.get(bird.key)
        self._outcomes[bird.key] = outcome
        self._answered[bird.key.tier] = monotonic()
        if not outcome.ok and (known is None or known.ok):
            log.warning("canary failed", **bird.key._asdict(), reason=outcome.why)
        elif outcome.ok and known is not None and not known.ok:
            log.info("canary well again", **bird.key._asdict())


def _without(canaries: Iterable[Canary], excluded: Sequence[str]) -> list[Canary]:
    """The samples, with nothing asked of rules that the operator has switched off."""
    canaries = list(canaries)
    off = {c.failure_class for c in canaries if c.rule and excluded_by(c.rule, excluded)}
    kept = []
    for canary in canaries:
        if canary.failure_class in off:
            by = tuple(name for name in canary.by if name not in {"rules", WHOLE})
            if by:
                kept.append(msgspec.structs.replace(canary, by=by))
        else:
            kept.append(canary)
    return kept


PLAIN = "The ferry leaves at ten past seven and takes forty minutes."


def _key(tier: Tier, detector: str, canary: Canary) -> Key:
    return Key(str(tier.number), detector, canary.failure_class, canary.sample.value)


def _judged(report: Report, canary: Canary) -> Outcome:
    match report:
        case Ran():
            name = canary.failure_class
            if report.detector == "lexical":
                return _compared(report.findings.silence.get(name, 0.0), CLEARED, canary)
            scores = [d.score for d in report.findings.detections if d.failure_class == name]
            if name in report.findings.unheard:
                return Outcome(ok=False, why="the class was not judged", answered=False)
            return _compared(max(scores, default=0.0), FOUND, canary)
        case Failed():
            return Outcome(ok=False, why=report.reason, answered=False)
        case _:
            return Outcome(ok=False, why=f"skipped: {report.reason}", answered=False)


def _compared(score: float, bar: float, canary: Canary) -> Outcome:
    fine = score >= bar if canary.sample is Sample.BAD else score < bar
    return Outcome(ok=fine, why="" if fine else f"scored {score:.2f}")
