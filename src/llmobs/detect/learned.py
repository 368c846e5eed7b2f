"""The trained detectors, loaded once a process and tried before they serve."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec

from llmobs.detect.artefacts import Artefacts, shipped
from llmobs.detect.detector import Detector
from llmobs.detect.tier1_lexical.detector import LexicalDetector, load_lexical
from llmobs.detect.tier1_lexical.topic import load_topic
from llmobs.detect.tier2_encoder.comparison import Comparison
from llmobs.detect.tier2_encoder.embedder import Embedder
from llmobs.detect.tier2_encoder.encoder import Encoder, threads
from llmobs.detect.tier2_encoder.exemplars import ExemplarsDetector
from llmobs.detect.tier2_encoder.grounded import (
    GroundedManifest,
    GroundednessDetector,
    RelevanceDetector,
    load_grounded,
)
from llmobs.detect.tier2_encoder.heads import HeadsDetector
from llmobs.detect.tier2_encoder.words import load_words
from llmobs.detect.tier2_encoder.workers import Workers

PARTS = ("words", "singles", "base", "comparison", "lexical", "topic")
"""The folders of the trained files."""
SHARE_OF_DEADLINE = 0.6
"""Of the tier's deadline, how long windows are started: what is looked at by then is answered with."""


class Learned(msgspec.Struct, frozen=True):
    """What comes out of the trained files, ready to be made into detectors."""

    lexical: LexicalDetector
    encoder: Encoder
    embedder: Embedder
    comparison: Comparison
    grounded: GroundedManifest
    workers: Workers
    artefacts: tuple[Artefacts, ...]
    """Where all of it was read from."""

    def disturbed(self) -> tuple[str, ...]:
        """The trained files that are gone or changed since they were read, by folder and name."""
        return tuple(f"{kept.folder.name}/{name}" for kept in self.artefacts for name in kept.disturbed())

    def tier2(
        self, deadline_s: float, classes_by_example: Callable[[], frozenset[str]]
    ) -> tuple[Detector, ...]:
        """The detectors of tier 2. `classes_by_example` names the classes that policies define so."""
        budget = deadline_s * SHARE_OF_DEADLINE
        return (
            HeadsDetector(self.encoder, self.lexical, self.workers, budget),
            GroundednessDetector(self.embedder, self.comparison, self.grounded, self.workers, budget),
            RelevanceDetector(self.embedder, self.grounded, self.workers),
            ExemplarsDetector(self.embedder, self.workers, budget, classes_by_example),
        )


@cache
def load_learned(folder: Path | None = None, *, workers: int = 0) -> Learned:
    """The trained files of `folder` (default: the one in the package), once a process.

    Raises ArtefactBroken when a file is missing or changed, or a graph does not answer its probes
    as it did when it was made. One pool of `workers` threads (0: one a core, at most four) serves
    all graphs.
    """

    def artefacts(name: str) -> Artefacts:
        return Artefacts(shipped(name) if folder is None else folder / name)

    parts = tuple(map(artefacts, PARTS))
    words, singles, base, compared, lexical, topic = parts
    table = load_words(words)
    encoder, embedder = Encoder(singles, table), Embedder(base, table)
    comparison = Comparison(compared, table, embedder)
    for tried in (encoder, embedder, comparison):
        tried.try_probes()
    return Learned(
        lexical=load_lexical(lexical, load_topic(topic)),
        encoder=encoder,
        embedder=embedder,
        comparison=comparison,
        grounded=load_grounded(base),
        workers=Workers(threads(workers)),
        artefacts=parts,
    )
