"""The trained heads over one text, whatever its length."""

import re
from collections.abc import Mapping
from time import perf_counter

import numpy as np

from llmobs.detect.tier1_lexical.detector import LexicalDetector
from llmobs.detect.tier2_encoder.encoder import Encoder, Logits, Window, probability
from llmobs.detect.tier2_encoder.language import is_foreign
from llmobs.detect.tier2_encoder.manifest import LONG, Head
from llmobs.detect.tier2_encoder.workers import Workers
from llmobs.domain.detection import Detection, Evidence, Findings
from llmobs.domain.subject import Span, Subject

TOLD = 0.05
"""Scores below this carry no evidence: there is nothing to point at."""
SHORT = 400
"""Characters below which a text is cut into word pieces on the event loop: quicker than the way to a thread."""
Ran = tuple[Logits, Logits]
"""Logits and attention of one window."""
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？]|\n")


class HeadsDetector:
    """One forward pass a window; each head's score is that of its highest window."""

    name = "encoder"

    def __init__(self, encoder: Encoder, lexical: LexicalDetector, workers: Workers, budget_s: float) -> None:
        self._encoder = encoder
        self._lexical = lexical
        self._workers = workers
        self._budget_s = budget_s
        self.hears = frozenset(head.failure_class for head in encoder.manifest.heads)

    def _heads(self, subject: Subject) -> list[tuple[int, Head]]:
        compared = bool(subject.documents or subject.reference)
        return [
            (index, head)
            for index, head in enumerate(self._encoder.manifest.heads)
            if subject.kind in head.kinds and not (compared and head.needs_no_documents)
        ]

    def idle(self, subject: Subject, asked: frozenset[str]) -> str | None:
        """Which classes have a head depends on who wrote the text."""
        if any(head.failure_class in asked for _, head in self._heads(subject)):
            return None
        return "settled"

    def _prepared(self, subject: Subject) -> tuple[tuple[Window, ...], Mapping[str, float]]:
        """The windows, and of a long text the scores by words alone."""
        long = len(subject.text) > LONG
        worded = self._lexical.at_once(subject, frozenset()).silence if long else {}
        return self._encoder.windows(subject.text), worded

    def _begun(self, subject: Subject) -> tuple[tuple[Window, ...], Mapping[str, float], Ran]:
        windows, worded = self._prepared(subject)
        return windows, worded, self._run(windows[0])

    def _run(self, window: Window) -> Ran:
        return self._encoder.run(window.ids)

    async def _ran(
        self, subject: Subject, ends: float
    ) -> tuple[tuple[Window, ...], Mapping[str, float], list[tuple[int, Ran]]]:
        """The windows, the scores by words, and what the graph said of each window that time was left for."""
        if len(subject.text) < SHORT:
            windows, worded = self._prepared(subject)
            return windows, worded, await self._workers.each(windows, self._run, ends)
        # One way to a thread and back for preparation and first window: a way costs as much as twenty tokens.
        ((_, (windows, worded, first)),) = await self._workers.each((subject,), self._begun, ends)
        if len(windows) == 1 or perf_counter() > ends:
            return windows, worded, [(0, first)]
        others = await self._workers.each(windows[1:], self._run, ends)
        return windows, worded, [(0, first), *((index + 1, ran) for index, ran in others)]

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """Scores for every class that a head serves for this kind of text; all may be cleared."""
        ends = perf_counter() + self._budget_s
        heads = self._heads(subject)
        foreign = is_foreign(subject.text)
        windows, worded, ran = await self._ran(subject, ends)
        table = np.stack([logits for _, (logits, _) in ran])
        detections: dict[str, Detection] = {}
        for index, head in heads:
            best = int(table[:, index].argmax())
            position, (logits, look) = ran[best]
            logit = float(logits[index]) - (head.foreign if foreign else 0.0)
            if worded.get(head.failure_class, 1.0) < head.worded:
                logit -= head.long
            found = _detection(subject.text, windows[position], head, logit, look[:, index])
            known = detections.get(head.failure_class)
            if known is None or found.score > known.score:
                detections[head.failure_class] = found
        return Findings(
            detections=tuple(detections.values()),
            clears=frozenset(detections) if len(ran) == len(windows) else frozenset(),
            seen=len(ran) / len(windows),
        )


def _detection(text: str, window: Window, head: Head, logit: float, look: Logits) -> Detection:
    score = probability(logit, head.calibration.slope, head.calibration.offset)
    if score < TOLD:
        return Detection(failure_class=head.failure_class, score=score)
    return Detection(
        failure_class=head.failure_class,
        score=score,
        evidence=(
            Evidence(
                failure_class=head.failure_class,
                source=f"encoder:{head.name}",
                score=score,
                note=head.note,
                span=sentence_at(text, window, look),
            ),
        ),
    )


def sentence_at(text: str, window: Window, look: Logits) -> Span:
    """The sentence, within the window, that the head looked at most.

    `look` is the attention over [CLS], the window's pieces and [SEP], summing to 1.
    """
    inner = look[1 : 1 + len(window.offsets)]
    start, end = window.offsets[int(inner.argmax())]
    whole = window.span
    left = whole.start
    for found in _SENTENCE_END.finditer(text, whole.start, max(start, whole.start)):
        left = found.end()
    after = _SENTENCE_END.search(text, max(start, left), whole.end)
    right = after.end() if after else whole.end
    while left < start and text[left].isspace():
        left += 1
    return Span(left, max(right, end))
