"""Classes that an operator defines by example texts: nearest neighbour with a calibrated threshold."""

from collections import OrderedDict
from collections.abc import Callable
from time import perf_counter

import msgspec
import numpy as np

from llmobs.detect.tier2_encoder.embedder import Embedder, Vectors
from llmobs.detect.tier2_encoder.evidence import Piece, sentences
from llmobs.detect.tier2_encoder.workers import Workers
from llmobs.domain.detection import Detection, Evidence, Findings
from llmobs.domain.subject import Likeness, Span, Subject

MIDDLE = 0.5
"""The score at the threshold that was fitted for a class; a policy's usual warn threshold."""
STEEPNESS = 25.0
"""How fast the score leaves MIDDLE: 0.04 of cosine from 0.5 to 0.73."""
FLOOR, CEILING = 0.30, 0.75
"""The fitted threshold stays between these cosines. Two unrelated English sentences lie at 0.0 to
0.25 of each other in this encoder, paraphrases at 0.7 and beyond."""
TOLD = 0.05
MOST_CLASSES_KEPT = 32


class Neighbourhood(msgspec.Struct, frozen=True):
    """A class as vectors: examples (n, 384), counter-examples (m, 384), fitted threshold (cosine)."""

    examples: Vectors
    counters: Vectors
    threshold: float

    def score(self, vector: Vectors) -> tuple[float, int]:
        """The score of a text's vector and the index of the example nearest to it.

        A text nearer to a counter-example than to every example is not of the class.
        """
        near = self.examples @ vector
        best = int(near.argmax())
        gap = float(near[best]) - self.threshold
        if self.counters.size:
            gap = min(gap, float(near[best]) - float((self.counters @ vector).max()))
        return float(1.0 / (1.0 + np.exp(-STEEPNESS * gap))), best


def fit(likeness: Likeness, embed: Callable[[str], Vectors]) -> Neighbourhood:
    """Vectors and threshold of a class.

    The threshold lies between how near each example is to the rest of them (leave one out, the
    lower quartile) and how near the counter-examples come, where there are some.
    """
    examples = np.stack([embed(text) for text in likeness.examples])
    counters = (
        np.stack([embed(text) for text in likeness.counter_examples])
        if likeness.counter_examples
        else np.zeros((0, examples.shape[1]), dtype=np.float32)
    )
    among = examples @ examples.T
    np.fill_diagonal(among, -1.0)
    inside = float(np.quantile(among.max(axis=1), 0.25))
    threshold = inside - 0.05
    if counters.size:
        outside = float(np.quantile((counters @ examples.T).max(axis=1), 0.75))
        if outside < inside:
            threshold = (inside + outside) / 2
    return Neighbourhood(examples, counters, min(CEILING, max(FLOOR, threshold)))


class ExemplarsDetector:
    """Compares the text and each of its sentences with the policy's examples."""

    name = "exemplars"

    def __init__(
        self,
        embedder: Embedder,
        workers: Workers,
        budget_s: float,
        classes: Callable[[], frozenset[str]],
    ) -> None:
        self._embedder = embedder
        self._workers = workers
        self._budget_s = budget_s
        self._classes = classes
        self._fitted: OrderedDict[Likeness, Neighbourhood] = OrderedDict()

    @property
    def hears(self) -> frozenset[str]:
        """The classes that some policy in force defines by examples."""
        return self._classes()

    def idle(self, subject: Subject, asked: frozenset[str]) -> str | None:
        """Only the policy of the request counts."""
        return None if asked & subject.likenesses.keys() else "no examples"

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """The nearest sentence to any example decides, class by class."""
        ends = perf_counter() + self._budget_s
        wanted = {name: subject.likenesses[name] for name in asked & subject.likenesses.keys()}
        classes = {name: await self._workers.call(lambda k=k: self._fit(k)) for name, k in wanted.items()}  # type: ignore[misc]
        pieces = sentences(subject.text) or [Piece(0, len(subject.text))]
        ran = await self._workers.each(
            pieces, lambda piece: self._embedder(subject.text[piece.start : piece.end]).whole, ends
        )
        whole = len(ran) == len(pieces)
        return Findings(
            detections=tuple(_detection(name, near, pieces, ran) for name, near in classes.items()),
            clears=frozenset(classes) if whole else frozenset(),
            seen=len(ran) / len(pieces),
        )

    def _fit(self, likeness: Likeness) -> Neighbourhood:
        known = self._fitted.get(likeness)
        if known is None:
            known = fit(likeness, lambda text: self._embedder(text).whole)
            self._fitted[likeness] = known
            if len(self._fitted) > MOST_CLASSES_KEPT:
                self._fitted.popitem(last=False)
        return known


def _detection(
    name: str, near: Neighbourhood, pieces: list[Piece], ran: list[tuple[int, Vectors]]
) -> Detection:
    scored = [(*near.score(vector), index) for index, vector in ran]
    score, example, index = max(scored)
    if score < TOLD:
        return Detection(failure_class=name, score=score)
    return Detection(
        failure_class=name,
        score=score,
        evidence=(
            Evidence(
                failure_class=name,
                source=f"exemplar:{name}.{example + 1}",
                score=score,
                note=f"close to example {example + 1} of the policy",
                span=Span(pieces[index].start, pieces[index].end),
            ),
        ),
    )
