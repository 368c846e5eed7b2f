"""Answers against documents, claim by claim, and answers against their question."""

from math import exp, log
from time import perf_counter

import msgspec

from llmobs.detect.artefacts import ArtefactBroken, Artefacts
from llmobs.detect.detector import DetectorFailed
from llmobs.detect.tier1_lexical.topic import LONGEST_ANSWER, LONGEST_QUERY, is_refusal
from llmobs.detect.tier2_encoder.alignment import ALIGNED, aligned_features
from llmobs.detect.tier2_encoder.comparison import COMPARED, Comparison
from llmobs.detect.tier2_encoder.embedder import Embedder
from llmobs.detect.tier2_encoder.evidence import PLAIN, Passages, Piece, plain_features, sentences
from llmobs.detect.tier2_encoder.workers import Workers
from llmobs.domain.detection import Detection, Evidence, Findings
from llmobs.domain.risk import FailureClass
from llmobs.domain.subject import Kind, Span, Subject

TOLD = 0.05
MOST_EVIDENCE = 10
FEATURES = (*PLAIN, *ALIGNED, *COMPARED)


class Weighing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Turns features into a score: `1 / (1 + exp(-(offset + sum(weights[name] * value))))`.

    Fitted by training/grounded.py; a weight is never negative, so more holes never lower a score.
    """

    weights: dict[str, float]
    offset: float

    def score(self, names: tuple[str, ...], values: tuple[float, ...]) -> float:
        """The score, 0 to 1, of named values."""
        total = self.offset + sum(
            self.weights.get(name, 0.0) * value for name, value in zip(names, values, strict=True)
        )
        return 1.0 / (1.0 + exp(-max(-60.0, min(60.0, total))))


class GroundedManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest of the base encoder says of groundedness and relevance."""

    unsupported: Weighing
    contradicted: Weighing
    off_topic: Weighing


class Claim(msgspec.Struct, frozen=True):
    """One sentence of an answer, with the scores of what is wrong with it."""

    span: Span
    unsupported: float
    contradicted: float


class GroundednessDetector:
    """Compares each sentence of an answer with the passages nearest to it."""

    name = "groundedness"
    hears = frozenset({FailureClass.FABRICATED_FACT, FailureClass.MISSING_GROUNDING})

    def __init__(
        self,
        embedder: Embedder,
        comparison: Comparison,
        weighings: GroundedManifest,
        workers: Workers,
        budget_s: float,
    ) -> None:
        self._embedder = embedder
        self._comparison = comparison
        self._weighings = weighings
        self._workers = workers
        self._budget_s = budget_s

    def idle(self, subject: Subject, asked: frozenset[str]) -> str | None:
        """Without documents there is nothing to compare with."""
        if subject.kind is Kind.PROMPT:
            return "a prompt answers nothing"
        return None if subject.documents or subject.reference else "no documents"

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """The worst claim decides of contradiction, `pooled` of support; doubtful claims are evidence."""
        ends = perf_counter() + self._budget_s
        texts = [document.text for document in subject.documents]
        if subject.reference:
            texts.append(subject.reference)
        pieces, passages = await self._workers.call(lambda: (claims(subject.text), Passages(texts)))
        if not pieces:
            return Findings(clears=self.hears, silence=dict.fromkeys(self.hears, 0.0))
        if not passages.pieces:
            raise DetectorFailed("the documents hold no text")
        ran = await self._workers.each(pieces, lambda piece: self._judge(subject, passages, piece), ends)
        found = [claim for _, claim in ran]
        whole = len(ran) == len(pieces)
        return Findings(
            detections=(
                _worst(FailureClass.FABRICATED_FACT, [(c.span, c.contradicted) for c in found]),
                msgspec.structs.replace(
                    _worst(FailureClass.MISSING_GROUNDING, [(c.span, c.unsupported) for c in found]),
                    score=pooled([c.unsupported for c in found]),
                ),
            ),
            clears=self.hears if whole else frozenset(),
            seen=len(ran) / len(pieces),
        )

    def _judge(self, subject: Subject, passages: Passages, piece: Piece) -> Claim:
        claim = subject.text[piece.start : piece.end]
        values = claim_features(self._embedder, self._comparison, claim, subject.query, passages)
        return Claim(
            Span(piece.start, piece.end),
            self._weighings.unsupported.score(FEATURES, values),
            self._weighings.contradicted.score(FEATURES, values),
        )


def pooled(scores: list[float]) -> float:
    """The answer's score from those of its claims: half-way from their mean to the worst (log-odds).

    The worst alone condemns nearly every long answer, for some sentence always says a little more
    than its source; the mean alone lets one invention drown. Measured in training/grounded.py.
    """
    odds = [log(score / (1.0 - score)) for score in (min(max(s, 1e-6), 1 - 1e-6) for s in scores)]
    return 1.0 / (1.0 + exp(-0.5 * (max(odds) + sum(odds) / len(odds))))


def claim_features(
    embedder: Embedder, comparison: Comparison, claim: str, query: str | None, passages: Passages
) -> tuple[float, ...]:
    """The values of FEATURES for one claim."""
    evidence = passages.nearest(claim, query or "")
    return (
        *compared(embedder, claim, query, passages, evidence),
        *comparison(evidence, query or "", claim),
    )


def compared(
    embedder: Embedder, claim: str, query: str | None, passages: Passages, evidence: str
) -> tuple[float, ...]:
    """The values of PLAIN and ALIGNED for one claim; training calls this very function."""
    plain = plain_features(claim, query, passages, evidence)
    return (*plain, *aligned_features(embedder(claim), embedder(evidence)))


class RelevanceDetector:
    """Tells whether the answer speaks to its question."""

    name = "relevance"
    hears = frozenset({FailureClass.DOMAIN_MISMATCH})

    def __init__(self, embedder: Embedder, weighings: GroundedManifest, workers: Workers) -> None:
        self._embedder = embedder
        self._weighing = weighings.off_topic
        self._workers = workers

    def idle(self, subject: Subject, asked: frozenset[str]) -> str | None:
        """Without a question there is nothing to miss."""
        if subject.kind is Kind.PROMPT:
            return "a prompt answers nothing"
        return None if subject.query else "no query"

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """The question against the beginning of the answer."""
        query = subject.query or ""
        if is_refusal(subject.text):
            # To decline is an answer; whether it should have is not for this detector to say.
            return Findings(clears=self.hears, silence=dict.fromkeys(self.hears, 0.0))
        score = await self._workers.call(
            lambda: self._weighing.score(RELEVANCE, relevance_features(self._embedder, query, subject.text))
        )
        return Findings(
            detections=(_worst(FailureClass.DOMAIN_MISMATCH, [(None, score)]),), clears=self.hears
        )


RELEVANCE = ("unlike", "unlike_best", "short")
"""1 - cosine of question and answer; of question and the answer's nearest sentence; whether the
answer is too short (under 40 characters) for its words to say what it is about."""


def relevance_features(embedder: Embedder, query: str, answer: str) -> tuple[float, ...]:
    """The values of RELEVANCE; training calls this very function."""
    asked = embedder(query[-LONGEST_QUERY:]).whole
    told = answer[:LONGEST_ANSWER]
    parts = sentences(told)[:4]
    whole = 1.0 - float(asked @ embedder(told).whole)
    best = min((1.0 - float(asked @ embedder(told[p.start : p.end]).whole) for p in parts), default=whole)
    return (whole, min(whole, best), float(len(answer) < 40))


def load_grounded(artefacts: Artefacts) -> GroundedManifest:
    """The fitted weights; ArtefactBroken when they name what is not measured."""
    found = artefacts.told(GroundedManifest)
    for weighing, names in (
        (found.unsupported, FEATURES),
        (found.contradicted, FEATURES),
        (found.off_topic, RELEVANCE),
    ):
        if unknown := set(weighing.weights) - set(names):
            raise ArtefactBroken(f"{artefacts.folder.name}: weights for {', '.join(sorted(unknown))}")
    return found


def claims(text: str) -> list[Piece]:
    """The sentences that can claim something: no questions, nothing without a word."""
    return [
        piece
        for piece in sentences(text)
        if not text[piece.start : piece.end].endswith("?")
        and any(char.isalnum() for char in text[piece.start : piece.end])
    ]


_NOTES = {
    FailureClass.FABRICATED_FACT: "the documents say otherwise",
    FailureClass.MISSING_GROUNDING: "not borne out by the documents",
    FailureClass.DOMAIN_MISMATCH: "the answer does not speak to the question",
}
_SOURCES = {
    FailureClass.FABRICATED_FACT: "groundedness:contradicted",
    FailureClass.MISSING_GROUNDING: "groundedness:not-supported",
    FailureClass.DOMAIN_MISMATCH: "relevance:query",
}


def _worst(name: FailureClass, scored: list[tuple[Span | None, float]]) -> Detection:
    told = sorted((pair for pair in scored if pair[1] >= TOLD), key=lambda pair: -pair[1])
    return Detection(
        failure_class=name,
        score=max(score for _, score in scored),
        evidence=tuple(
            Evidence(failure_class=name, source=_SOURCES[name], score=score, note=_NOTES[name], span=span)
            for span, score in told[:MOST_EVIDENCE]
        ),
    )
