"""Whether an answer plainly speaks to its question, told by words alone.

The encoder's relevance raises `domain_mismatch` only where question and answer have nothing to do
with each other, so most answers can be let off far more cheaply: they share words with the
question, or their words lie near its words in a small table of word vectors.
"""

import io
import re
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmobs.detect.artefacts import ArtefactBroken, Artefacts
from llmobs.detect.tier2_encoder.evidence import stems

LONGEST_QUERY, LONGEST_ANSWER = 400, 600
"""Characters of question (its end) and answer (its beginning) that are compared."""
CALM = 0.01
OPEN = (0.2, 0.1)
"""How likely an answer misses its question by content words that they share (0, 1) when nothing
else speaks for it. Two shared words are found in 56 % of answers to their own question and 7 % of
answers to another (training/grounded.py, nine sources), of which one in ten thousand is expected."""
NEAR = (0.2, 0.1)
"""Cosine of the two sides' word vectors from which the answer is let off, by shared words (0, 1).
training/topic.py prints what each choice lets off and what it loses."""
TOLERANCE = 1e-3

_REFUSAL = re.compile(
    r"\b(?:can(?:no|['’])?t|could(?: no|n['’])t|won['’]?t|will not|unable to|not able to|not going to|"
    r"must (?:decline|refuse)|have to (?:decline|refuse)|refuse to|decline to|not comfortable|"
    r"not appropriate|against (?:my|the) (?:guidelines|policy|rules))\b|\bas an ai\b|^(?:i['’]?m |i am )?"
    r"(?:very |so |really )?sorry\b|\bi (?:apologi[sz]e|do not know|don['’]t know)\b",
    re.IGNORECASE,
)
REFUSAL_CHARS = 160
"""A refusal says so in its first sentence or two."""


def is_refusal(answer: str) -> bool:
    """Whether the answer begins by declining, apologising or saying that it does not know."""
    return _REFUSAL.search(answer[:REFUSAL_CHARS]) is not None


class Topic:
    """Vectors of content words: `vectors` is int8 of shape (words, dimensions), rarer words longer."""

    def __init__(self, words: list[str], vectors: NDArray[np.int8]) -> None:
        if vectors.ndim != 2 or len(words) != len(vectors):
            raise ValueError(f"{len(words)} words for vectors of shape {vectors.shape}")
        self._place = {word: index for index, word in enumerate(words)}
        self._vectors = vectors

    def likeness(self, one: set[str], other: set[str]) -> float:
        """Cosine of the sums of two sets of stems; 0 where a side has no known word."""
        a, b = self._sum(one), self._sum(other)
        if a is None or b is None:
            return 0.0
        size = float(a @ a) * float(b @ b)
        return float(a @ b) / size**0.5 if size else 0.0

    def _sum(self, stems_of_side: set[str]) -> NDArray[np.float32] | None:
        places = [self._place[word] for word in stems_of_side if word in self._place]
        if not places:
            return None
        total: NDArray[np.float32] = self._vectors[places].sum(axis=0, dtype=np.float32)
        return total

    def off_topic(self, query: str, answer: str) -> float:
        """How likely the answer misses its question: CALM where it surely does not, else of OPEN."""
        if is_refusal(answer):
            return 0.0  # as the encoder's relevance holds: to decline is an answer
        asked, told = stems(query[-LONGEST_QUERY:]), stems(answer[:LONGEST_ANSWER])
        shared = len(asked & told)
        if shared >= len(OPEN) or len(told) < 2 or self.likeness(asked, told) > NEAR[shared]:
            return CALM
        return OPEN[shared]


class TopicManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest says beyond checksums."""

    probes: tuple[tuple[str, str, float], ...]
    """Pairs of texts with the likeness that they had when the vectors were made."""


def load_topic(artefacts: Artefacts) -> Topic:
    """The vectors from their artefacts; ArtefactBroken when they are not what they say."""
    said = artefacts.told(TopicManifest)
    words = artefacts.read("words.txt").decode().split("\n")
    try:
        vectors: Any = np.load(io.BytesIO(artefacts.read("vectors.npy")), allow_pickle=False)
    except ValueError as error:
        raise ArtefactBroken(f"topic/vectors.npy: {error}") from error
    if vectors.dtype != np.int8 or vectors.ndim != 2 or len(vectors) != len(words):
        raise ArtefactBroken(f"topic/vectors.npy: {vectors.dtype} of shape {vectors.shape}")
    topic = Topic(words, vectors)
    if not said.probes:
        raise ArtefactBroken("topic: the manifest holds no probes")
    for number, (query, answer, wanted) in enumerate(said.probes):
        if abs(topic.likeness(stems(query), stems(answer)) - wanted) > TOLERANCE:
            raise ArtefactBroken(f"topic: probe {number} is compared otherwise than when it was made")
    return topic
