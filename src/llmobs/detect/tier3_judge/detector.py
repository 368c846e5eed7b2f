"""Tier 3: the classes in doubt are put to a language model.

subject -> what is shown (evened out, masked, windowed) -> a question a prompt family
        -> cache | single flight | budget | providers -> opinions -> calibrated scores
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

import msgspec

from llmobs.detect.detector import DetectorFailed
from llmobs.detect.tier3_judge.budget import BudgetSpent
from llmobs.detect.tier3_judge.cache import Judgement
from llmobs.detect.tier3_judge.calibration import Calibration
from llmobs.detect.tier3_judge.excerpt import Flat, windows
from llmobs.detect.tier3_judge.judge import Judge, Question, Unanswered
from llmobs.detect.tier3_judge.observer import JudgeObserver
from llmobs.detect.tier3_judge.question import Family, context_materials
from llmobs.domain.detection import Detection, Evidence, Findings, Usage
from llmobs.domain.redaction import masked
from llmobs.domain.subject import Span, Subject

MARGIN_S = 0.1
"""How long before the tier's deadline an answer must have come, so that failure is told with its reason."""

EVIDENCE_FROM = 0.3
"""Scores below this come without evidence: there is nothing to show."""


class JudgeDetector:
    """Asks the judge about every class it is asked about, one question a prompt family."""

    name = "judge"

    def __init__(
        self,
        judge: Judge,
        families: Sequence[Family],
        *,
        observer: JudgeObserver,
        calibration: Calibration | None = None,
        deadline_s: float = 10.0,
        max_chars: int = 8000,
        find_sensitive: Callable[[str], Iterable[Span]] | None = None,
        fresh: bool = False,
    ) -> None:
        """`fresh`: past every memory of earlier answers, to see whether the model is still there."""
        self._fresh = fresh
        self._judge = judge
        self._families = tuple(families)
        self._observer = observer
        self._calibration = calibration or Calibration()
        self._deadline_s = deadline_s
        self._max_chars = max_chars
        self._find_sensitive = find_sensitive
        self.hears = frozenset[str]().union(*(family.classes for family in families))

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """One score a class asked about. DetectorFailed when no question got an answer."""
        shown = self._shielded(subject)
        flat = Flat(shown.text)
        if not flat.text:
            return Findings()
        questions = [
            self._question(family, asked.intersection(family.classes), shown, flat)
            for family in self._families
            if not asked.isdisjoint(family.classes)
        ]
        if len(questions) == 1:
            results = [await self._put(questions[0])]
        else:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._put(question)) for question in questions]
            results = [task.result() for task in tasks]
        failures = [result for result in results if isinstance(result, str)]
        if len(failures) == len(results):
            raise DetectorFailed("; ".join(dict.fromkeys(failures)))
        return self._findings(subject, flat, questions, results)

    def _shielded(self, subject: Subject) -> Subject:
        """The subject with secrets and personal data masked: it may leave the house."""
        find = self._find_sensitive
        if find is None:
            return subject

        def hidden(text: str | None) -> str | None:
            return None if text is None else masked(text, find(text))

        return msgspec.structs.replace(
            subject,
            text=masked(subject.text, find(subject.text)),
            query=hidden(subject.query),
            reference=hidden(subject.reference),
            system_prompt=hidden(subject.system_prompt),
            documents=tuple(
                msgspec.structs.replace(document, text=masked(document.text, find(document.text)))
                for document in subject.documents
            ),
        )

    def _question(self, family: Family, classes: frozenset[str], subject: Subject, flat: Flat) -> Question:
        doubts = subject.doubts
        suspects = [
            span
            for name in sorted(
                classes, key=lambda name: (-doubts[name].score if name in doubts else 0.0, name)
            )
            if name in doubts
            for span in doubts[name].spans
        ]
        return Question(
            family=family,
            classes=tuple(sorted(classes)),
            guarded=tuple(
                sorted(
                    name
                    for name in classes
                    if name in doubts
                    and doubts[name].may_lower
                    and doubts[name].acts
                    and family.classes[name].control
                )
            ),
            kind=subject.kind,
            flat=flat,
            shown=windows(flat, suspects, self._max_chars),
            context=context_materials(family, subject, self._max_chars),
            client=subject.client_id,
            person=subject.person,
            until=monotonic() + self._deadline_s - min(MARGIN_S, self._deadline_s / 4),
            fresh=self._fresh,
        )

    async def _put(self, question: Question) -> tuple[Judgement, bool] | str:
        """The judgement and whether it was known, or why there is none: one lost spares its siblings."""
        try:
            return await self._judge.answer(question)
        except BudgetSpent as error:
            self._observer.refused(f"{error.scope} {error.kind}")
            return str(error)
        except Unanswered as error:
            return str(error)

    def _findings(
        self,
        subject: Subject,
        flat: Flat,
        questions: Sequence[Question],
        results: Sequence[tuple[Judgement, bool] | str],
    ) -> Findings:
        detections: list[Detection] = []
        unheard: set[str] = set()
        usages: list[Usage] = []
        seen = 1.0
        for question, result in zip(questions, results, strict=True):
            if isinstance(result, str):
                unheard.update(question.classes)
                continue
            judgement, known = result
            usages.append(_usage(judgement, known=known))
            shown = sum(window.end - window.start for window in question.shown)
            seen = min(seen, shown / len(flat.text))
            for name in question.classes:
                detection = self._detection(question, judgement, name, flat)
                if self._stands(subject, judgement, detection):
                    detections.append(detection)
        return Findings(
            detections=tuple(detections),
            unheard=frozenset(unheard),
            seen=seen,
            usage=_sum(usages),
        )

    def _detection(self, question: Question, judgement: Judgement, name: str, flat: Flat) -> Detection:
        opinion = judgement.opinions[name]
        score = self._calibration.score(name, opinion.said)
        if score < EVIDENCE_FROM:
            return Detection(failure_class=name, score=score)
        span = None
        if opinion.start is not None and opinion.end is not None:
            span = flat.span(opinion.start, opinion.end)
        evidence = Evidence(
            failure_class=name,
            source=f"judge:{question.family.label}",
            score=score,
            note=opinion.reason,
            span=span,
        )
        return Detection(failure_class=name, score=score, evidence=(evidence,))

    def _stands(self, subject: Subject, judgement: Judgement, detection: Detection) -> bool:
        """Whether the score may be reported: one that would soften an action needs a passed control."""
        name = detection.failure_class
        doubt = subject.doubts.get(name)
        if doubt is None or not doubt.acts or detection.score >= doubt.score or name in judgement.confirmed:
            return True
        if doubt.may_lower:
            self._observer.lowering_refused()
        return False


def _usage(judgement: Judgement, *, known: bool) -> Usage:
    if known:
        return Usage(model=judgement.model, cost_usd=0.0, cached=True)
    return Usage(
        model=judgement.model,
        input_tokens=judgement.input_tokens,
        output_tokens=judgement.output_tokens,
        cost_usd=judgement.cost_usd,
    )


def _sum(usages: Sequence[Usage]) -> Usage:
    costs = [usage.cost_usd for usage in usages]
    return Usage(
        model=", ".join(dict.fromkeys(usage.model for usage in usages)),
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
        cached=all(usage.cached for usage in usages),
    )
