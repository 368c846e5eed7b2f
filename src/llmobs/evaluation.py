"""Measured accuracy: labelled rows through the real pipeline, and the figures that follow from them."""

import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import msgspec

from llmobs.detect.pipeline import Pipeline
from llmobs.domain.feedback import LabelledText
from llmobs.domain.interval import Interval, wilson
from llmobs.domain.policy import Policy
from llmobs.domain.risk import Action, FailureClass
from llmobs.domain.subject import Kind
from llmobs.domain.verdict import Verdict
from llmobs.screen import Inquiry, examine

TASK_CLASSES: dict[str, tuple[str, ...]] = {
    "secret": (FailureClass.SECRET_LEAK,),
    "pii": (FailureClass.PII_LEAK,),
    "groundedness": (FailureClass.FABRICATED_FACT, FailureClass.MISSING_GROUNDING),
    "truthfulness": (FailureClass.FABRICATED_FACT, FailureClass.MISSING_GROUNDING),
    "toxicity": (FailureClass.TOXICITY, FailureClass.BIAS),
}
"""Classes whose largest score is a task's score; other tasks are named like their class."""

FIXED_FPR = 0.01


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A labelled text, as docs/evaluation.md describes it."""

    id: str
    task: str
    label: int
    role: Kind
    text: str
    source: str = ""
    query: str | None = None
    context: Any = None
    """Passages; for the task `prompt_injection` the system prompt, unless that stands by itself."""
    system_prompt: str | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the pipeline said of a row."""

    id: str
    task: str
    label: int
    action: Action
    failure_class: str | None
    tier_used: int
    scores: dict[str, float]
    ms: float

    @property
    def score(self) -> float:
        """The task's score: how likely the row is a positive. For benign rows the highest of all."""
        if self.task == "benign":
            return max(self.scores.values(), default=0.0)
        names = TASK_CLASSES.get(self.task, (self.task,))
        return max((self.scores.get(name, 0.0) for name in names), default=0.0)

    @property
    def flagged(self) -> bool:
        """Warned or blocked."""
        return self.action in {Action.WARN, Action.BLOCK}


class FileFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one file. Shares are of all rows unless their meaning says otherwise."""

    file: str
    task: str
    rows: int
    positives: int
    flagged: Interval | None
    blocked: Interval | None
    recall: Interval | None
    """Of the positives, flagged."""
    fpr: Interval | None
    """Of the negatives, flagged."""
    auc: float | None
    average_precision: float | None
    recall_at_1pct_fpr: float | None
    tiers: dict[str, int]
    p50_ms: float
    p95_ms: float


def read_rows(path: Path, limit: int | None = None) -> Iterator[Row]:
    """The rows of a `.jsonl` or `.jsonl.gz` file; ValueError names the line that is none."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    decoder = msgspec.json.Decoder(Row)
    with opener(path, "rb") as lines:
        for number, line in enumerate(islice(lines, limit), 1):
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from None


def inquiry_of(row: Row) -> Inquiry:
    """The request that a row stands for."""
    context: dict[str, Any] = {}
    if row.query:
        context["query"] = row.query
    if row.system_prompt:
        context["system_prompt"] = row.system_prompt
    if row.context:
        passages = row.context if isinstance(row.context, list) else [row.context]
        if row.task == FailureClass.PROMPT_INJECTION and not row.system_prompt:
            context["system_prompt"] = "\n".join(p if isinstance(p, str) else json.dumps(p) for p in passages)
        else:
            context["documents"] = passages
    return Inquiry(text=row.text, kind=row.role, context=context or None)


def row_of(labelled: LabelledText) -> Row:
    """The row that a recorded text and somebody's word on it make.

    A harmless text is a row of the task `benign`, any other one of the task that is called like its
    class. Passages are always under `context`, the system prompt under its own name.
    """
    context = labelled.context or {}
    query, system_prompt = context.get("query"), context.get("system_prompt")
    return Row(
        id=labelled.request_id,
        task=labelled.true_class or "benign",
        label=0 if labelled.true_class is None else 1,
        role=labelled.kind,
        text=labelled.text,
        source="feedback",
        query=query if isinstance(query, str) else None,
        context=context.get("documents") or None,
        system_prompt=system_prompt if isinstance(system_prompt, str) else None,
    )


async def outcomes(pipeline: Pipeline, policy: Policy, rows: Iterator[Row]) -> AsyncIterator[Outcome]:
    """Every row through the real pipeline, one after the other."""
    for row in rows:
        verdict: Verdict = await examine(pipeline, policy, inquiry_of(row))
        decision = verdict.decision
        yield Outcome(
            id=row.id,
            task=row.task,
            label=row.label,
            action=decision.action,
            failure_class=decision.failure_class,
            tier_used=decision.tier_used,
            scores={name: round(score, 4) for name, score in decision.scores.items()},
            ms=round(verdict.processing_time_ms, 4),
        )


def figures(name: str, found: Sequence[Outcome]) -> FileFigures:
    """The figures of a file's outcomes."""
    positives = [outcome for outcome in found if outcome.label]
    negatives = [outcome for outcome in found if not outcome.label]
    scored = [(outcome.score, outcome.label) for outcome in found]
    both = bool(positives and negatives)
    times = sorted(outcome.ms for outcome in found)
    tiers = {"1": 0, "2": 0, "3": 0}
    for outcome in found:
        tiers[str(outcome.tier_used)] += 1
    return FileFigures(
        file=name,
        task=found[0].task if found else "",
        rows=len(found),
        positives=len(positives),
        flagged=wilson(sum(o.flagged for o in found), len(found)),
        blocked=wilson(sum(o.action is Action.BLOCK for o in found), len(found)),
        recall=wilson(sum(o.flagged for o in positives), len(positives)),
        fpr=wilson(sum(o.flagged for o in negatives), len(negatives)),
        auc=auc(scored) if both else None,
        average_precision=average_precision(scored) if both else None,
        recall_at_1pct_fpr=recall_at_fpr(scored, FIXED_FPR) if both else None,
        tiers=tiers,
        p50_ms=_quantile(times, 0.50),
        p95_ms=_quantile(times, 0.95),
    )


def _thresholds(scored: Sequence[tuple[float, int]]) -> Iterator[tuple[int, int]]:
    """True and false positives as the threshold falls past each distinct score."""
    true = false = 0
    ordered = sorted(scored, key=lambda pair: -pair[0])
    for _, tied in groupby(ordered, key=lambda pair: pair[0]):
        for _, label in tied:
            true += label
            false += 1 - label
        yield true, false


def auc(scored: Sequence[tuple[float, int]]) -> float:
    """Area under the ROC curve; ties count half. Needs both labels."""
    positives = sum(label for _, label in scored)
    negatives = len(scored) - positives
    area = 0.0
    last_true = last_false = 0
    for true, false in _thresholds(scored):
        area += (false - last_false) * (true + last_true) / 2
        last_true, last_false = true, false
    return area / (positives * negatives)


def average_precision(scored: Sequence[tuple[float, int]]) -> float:
    """Precision averaged over recall: the sum of precision times gain in recall, as scikit-learn has it."""
    positives = sum(label for _, label in scored)
    total = 0.0
    last_true = 0
    for true, false in _thresholds(scored):
        total += (true - last_true) / positives * true / (true + false)
        last_true = true
    return total


def recall_at_fpr(scored: Sequence[tuple[float, int]], most: float) -> float:
    """The best recall among thresholds whose false-positive rate is at most `most`."""
    positives = sum(label for _, label in scored)
    negatives = len(scored) - positives
    return max(
        (true / positives for true, false in _thresholds(scored) if false <= most * negatives), default=0.0
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
