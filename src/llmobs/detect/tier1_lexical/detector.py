"""The lexical classifier as the pipeline sees it: it may clear a class and never raises one."""

import io
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmobs.detect.artefacts import ArtefactBroken, Artefacts
from llmobs.detect.tier1_lexical.classifier import Classifier, HiddenUnit, Output
from llmobs.detect.tier1_lexical.features import BITS
from llmobs.detect.tier1_lexical.topic import Topic
from llmobs.domain.detection import Findings
from llmobs.domain.risk import FailureClass
from llmobs.domain.subject import Kind, Subject

TOLERANCE = 1e-3


class LexicalDetector:
    """Tells how likely each learned class is by words alone.

    Its scores are `silence`: they settle a class that lies below the policy's `clear`, and inform
    the caller's `scores` where nothing better looked. They never raise an action: a bag of words
    cannot tell an attack from a text about one.
    """

    name = "lexical"

    def __init__(self, classifier: Classifier, topic: Topic) -> None:
        self._classifier = classifier
        self._topic = topic
        self.hears = frozenset(output.failure_class for output in classifier.outputs) | {
            FailureClass.DOMAIN_MISMATCH
        }
        # Which outputs speak, by kind of text and by whether there are documents to compare with.
        self._speaks = {
            (kind, compared): [
                (index, output.failure_class)
                for index, output in enumerate(classifier.outputs)
                if kind in output.kinds and not (compared and output.needs_no_documents)
            ]
            for kind in ("prompt", "response")
            for compared in (False, True)
        }

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """Scores of the classes that this kind of text can have."""
        return self.at_once(subject, asked)

    def at_once(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """See Instant."""
        scores = self._classifier.scores(subject.text, prompt=subject.kind is Kind.PROMPT)
        compared = bool(subject.documents or subject.reference)
        silence = {name: scores[index] for index, name in self._speaks[subject.kind, compared]}
        if subject.query and subject.kind is Kind.RESPONSE:
            silence[FailureClass.DOMAIN_MISMATCH] = self._topic.off_topic(subject.query, subject.text)
        return Findings(silence=silence, clears=frozenset(silence))


class LexicalManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest says beyond checksums."""

    outputs: tuple[Output, ...]
    hidden: tuple[HiddenUnit, ...] = ()
    probes: tuple[tuple[str, tuple[float, ...]], ...]
    """Texts with the scores that they had when the weights were made."""


def load_lexical(artefacts: Artefacts, topic: Topic) -> LexicalDetector:
    """The detector from its artefacts; ArtefactBroken when they are not what they say."""
    said = artefacts.told(LexicalManifest)
    weights = _weights(artefacts.read("weights.npy"), len(said.outputs) + len(said.hidden))
    classifier = Classifier(weights, said.outputs, said.hidden)
    if not said.probes:
        raise ArtefactBroken("lexical: the manifest holds no probes")
    for number, (text, wanted) in enumerate(said.probes):
        found = classifier.scores(text)
        if max(abs(a - b) for a, b in zip(found, wanted, strict=True)) > TOLERANCE:
            raise ArtefactBroken(f"lexical: probe {number} scores otherwise than when it was made")
    return LexicalDetector(classifier, topic)


def _weights(content: bytes, columns: int) -> NDArray[np.int8]:
    """Rows of int8, as numpy's own format without pickles holds them."""
    try:
        table: Any = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise ArtefactBroken(f"lexical/weights.npy: {error}") from error
    if table.dtype != np.int8 or table.shape != (1 << BITS, columns):
        raise ArtefactBroken(f"lexical/weights.npy: {table.dtype} of shape {table.shape}")
    return cast(NDArray[np.int8], table)
