"""How good a judge is: labelled cases, what it says of them, and whether that is good enough."""

import asyncio
import tomllib
from collections.abc import Callable, Iterable, Sequence
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import Annotated

import msgspec
from msgspec import Meta

from llmobs.detect.detector import DetectorFailed
from llmobs.detect.tier3_judge.calibration import Calibration, Curve, fitted
from llmobs.detect.tier3_judge.detector import JudgeDetector
from llmobs.detect.tier3_judge.question import BUILTIN
from llmobs.domain.subject import Document, Kind, Subject

CASES = BUILTIN / "cases.toml"


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """What a judge must reach before it is called fit."""

    agreement: float = 0.85
    """Share of all cases judged as labelled; a case without an answer is not."""
    agreement_to_judge: float = 0.8
    """The same among texts that speak to the judge."""
    valid: float = 0.98
    """Share of cases answered in the form asked for, the one repair included."""
    p95_s: float = 4.0
    """Longest 95th percentile of an answer, in seconds."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A text, one class, and whether the class is present."""

    failure_class: Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{1,40}$")] = msgspec.field(name="class")
    expected: Annotated[int, Meta(ge=0, le=1)]
    text: Annotated[str, Meta(min_length=1)]
    kind: Kind = Kind.RESPONSE
    query: str | None = None
    domain: str | None = None
    system_prompt: str | None = None
    documents: tuple[str, ...] = ()
    to_judge: bool = False
    """The text speaks to the judge."""


class _Cases(msgspec.Struct, frozen=True):
    case: tuple[Case, ...]


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a case."""

    case: Case
    score: float | None
    """None without an answer."""
    seconds: float
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    failure: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the judge says what the label says."""
        return self.score is not None and (self.score >= 0.5) == bool(self.case.expected)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A judge's figures over some cases."""

    cases: int
    answered: int
    agreed: int
    agreement: float
    low: float
    """Lower end of the 95 % Wilson interval of `agreement`."""
    high: float
    to_judge: int
    to_judge_agreed: int
    p50_s: float
    p95_s: float
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    failures: dict[str, int]

    @property
    def valid(self) -> float:
        """Share of cases that got an answer."""
        return self.answered / self.cases if self.cases else 0.0

    def shortcomings(self, bar: Bar) -> list[str]:
        """Where the judge stays below the bar, in words; empty when it is fit."""
        found = []
        if self.agreement < bar.agreement:
            found.append(f"agreement {self.agreement:.1%} is below {bar.agreement:.0%}")
        if self.to_judge and self.to_judge_agreed / self.to_judge < bar.agreement_to_judge:
            share = self.to_judge_agreed / self.to_judge
            found.append(
                f"agreement {share:.1%} on texts that speak to the judge is below {bar.agreement_to_judge:.0%}"
            )
        if self.valid < bar.valid:
            found.append(f"{self.valid:.1%} of the cases were answered, below {bar.valid:.0%}")
        if self.p95_s > bar.p95_s:
            found.append(f"p95 {self.p95_s:.1f} s is above {bar.p95_s:g} s")
        return found


def builtin_cases() -> tuple[Case, ...]:
    """The fixed set."""
    return msgspec.convert(tomllib.loads(CASES.read_text(encoding="utf-8")), _Cases).case


def subject_of(case: Case) -> Subject:
    """The case as the pipeline would hand it on."""
    return Subject(
        text=case.text,
        kind=case.kind,
        query=case.query,
        domain=case.domain,
        system_prompt=case.system_prompt,
        documents=tuple(Document(text=text) for text in case.documents),
    )


async def answers(
    detector: JudgeDetector,
    cases: Sequence[Case],
    *,
    at_once: int = 1,
    told: Callable[[Answered], None] = lambda _: None,
) -> list[Answered]:
    """Every case put to the judge, `at_once` at a time; each on its own, about its own class alone."""
    gate = asyncio.Semaphore(at_once)

    async def one(case: Case) -> Answered:
        async with gate:
            answered = await _answer(detector, case)
        told(answered)
        return answered

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(case)) for case in cases]
    return [task.result() for task in tasks]


async def _answer(detector: JudgeDetector, case: Case) -> Answered:
    started = perf_counter()
    try:
        findings = await detector.detect(subject_of(case), frozenset({case.failure_class}))
    except DetectorFailed as error:
        return Answered(case=case, score=None, seconds=perf_counter() - started, failure=str(error))
    seconds = perf_counter() - started
    usage = findings.usage
    score = next((d.score for d in findings.detections if d.failure_class == case.failure_class), None)
    return Answered(
        case=case,
        score=score,
        seconds=seconds,
        input_tokens=usage.input_tokens if usage else 0,
        output_tokens=usage.output_tokens if usage else 0,
        cost_usd=usage.cost_usd if usage else None,
        failure="" if score is not None else "no score",
    )


def figures(found: Sequence[Answered]) -> Figures:
    """The figures of some answered cases."""
    agreed = sum(one.agrees for one in found)
    to_judge = [one for one in found if one.case.to_judge]
    seconds = sorted(one.seconds for one in found if one.score is not None)
    low, high = _wilson(agreed, len(found))
    costs = [one.cost_usd for one in found if one.score is not None]
    failures: dict[str, int] = {}
    for one in found:
        if one.failure:
            failures[one.failure] = failures.get(one.failure, 0) + 1
    return Figures(
        cases=len(found),
        answered=sum(one.score is not None for one in found),
        agreed=agreed,
        agreement=agreed / len(found) if found else 0.0,
        low=low,
        high=high,
        to_judge=len(to_judge),
        to_judge_agreed=sum(one.agrees for one in to_judge),
        p50_s=_quantile(seconds, 0.5),
        p95_s=_quantile(seconds, 0.95),
        input_tokens=sum(one.input_tokens for one in found),
        output_tokens=sum(one.output_tokens for one in found),
        cost_usd=None if None in costs or not costs else sum(cost for cost in costs if cost is not None),
        failures=failures,
    )


def calibrated(found: Iterable[Answered], *, model: str, prompts: str) -> Calibration:
    """Curves for the classes with enough rows of both labels. Needs answers of an uncalibrated judge."""
    pairs: dict[str, list[tuple[float, int]]] = {}
    for one in found:
        if one.score is not None:
            pairs.setdefault(one.case.failure_class, []).append((one.score, one.case.expected))
    curves: dict[str, Curve] = {}
    for name, rows in sorted(pairs.items()):
        curve = fitted(rows)
        if curve is not None:
            curves[name] = curve
    return Calibration(model=model, prompts=prompts, curves=curves)


def read_cases(path: Path) -> tuple[Case, ...]:
    """Cases from a TOML file of the built-in form. ValueError says what is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _Cases).case
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def _wilson(hits: int, of: int) -> tuple[float, float]:
    if not of:
        return 0.0, 1.0
    z = 1.959964
    share = hits / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, centre - half), min(1.0, centre + half)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
