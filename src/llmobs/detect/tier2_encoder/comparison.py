"""A claim and its evidence read together by a trained network that goes on where the base encoder is halfway."""

from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort

from llmobs.detect.artefacts import ArtefactBroken, Artefacts
from llmobs.detect.tier2_encoder.embedder import Embedded, Embedder
from llmobs.detect.tier2_encoder.encoder import session_of
from llmobs.detect.tier2_encoder.words import Words

COMPARED = ("compared_unsupported", "compared_contradicted")
"""Logits, about -4 to 4: the evidence does not support the claim; it says the contrary."""
MOST_OF_CLAIM, MOST_OF_EVIDENCE = 120, 200
"""Word pieces that are compared; evidence and claims are cut to fewer (evidence.py), but for rare scripts."""
SHORT_CLAIM = 40
"""Characters."""
TOLERANCE = 0.6
"""As for the heads: how far processors may differ in a probe's logit."""


class PairProbe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Evidence, question and claim with the logits that the very graph gave when it was made."""

    evidence: str
    query: str
    claim: str
    logits: tuple[float, ...]


class ComparisonManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest of the comparison says beyond checksums."""

    probes: tuple[PairProbe, ...] = ()


def inputs(
    words: Words, claim: Embedded, evidence: Embedded, asked: frozenset[int]
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """What the graph is given; `asked` are the word pieces of the question. training/encoder/comparison.py pads the same.

    Of claim (n, 384) and evidence (m, 384): vectors in context, as the base has them halfway, and without (rows of the
    word table, of length 1); `held` and `asked` (n,) tell which pieces of the claim stand in evidence and question,
    `said` (m,) which of the evidence stand in the claim.
    """
    told, known = claim.ids[:MOST_OF_CLAIM], evidence.ids[:MOST_OF_EVIDENCE]
    held, here = frozenset(known), frozenset(told)
    return {
        "claim": claim.halfway[:MOST_OF_CLAIM],
        "claim_alone": unit_rows(words, told),
        "evidence": evidence.halfway[:MOST_OF_EVIDENCE],
        "evidence_alone": unit_rows(words, known),
        "held": np.array([piece in held for piece in told], dtype=np.float32),
        "asked": np.array([piece in asked for piece in told], dtype=np.float32),
        "said": np.array([piece in here for piece in known], dtype=np.float32),
    }


def claim_with(query: str, claim: str) -> str:
    """What is compared: a claim too short to say what it is about comes with its question."""
    return f"{query} {claim}" if query and len(claim) < SHORT_CLAIM else claim


def unit_rows(words: Words, ids: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The pieces' rows of the word table, of length 1."""
    rows = words[np.array(ids, dtype=np.int64)].astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), dtype=np.float32)


class Comparison:
    """One loaded graph. May be called from several threads at once, one pair a call."""

    def __init__(self, artefacts: Artefacts, words: Words, embedder: Embedder) -> None:
        self._words = words
        self._embedder = embedder
        self._manifest = artefacts.told(ComparisonManifest)
        self._session: ort.InferenceSession = session_of(artefacts, ["logits"], name="comparison.onnx")

    def __call__(self, evidence: str, query: str, claim: str) -> tuple[float, float]:
        """The values of COMPARED."""
        asked = frozenset(self._embedder.ids(query)) if query else frozenset[int]()
        fed = inputs(self._words, self._embedder(claim_with(query, claim)), self._embedder(evidence), asked)
        (logits,) = self._session.run(None, fed)
        return float(logits[0]), float(logits[1])

    def try_probes(self) -> None:
        """Ask the recorded pairs; ArtefactBroken when the graph answers otherwise than when it was made."""
        probes = self._manifest.probes
        if not probes:
            raise ArtefactBroken("comparison: the manifest holds no probes, so the graph cannot be trusted")
        if float(np.ptp([probe.logits for probe in probes], axis=0).min()) < 2 * TOLERANCE:
            raise ArtefactBroken("comparison: the probes hardly differ, so they would pass a dead graph")
        for number, probe in enumerate(probes):
            found = np.array(self(probe.evidence, probe.query, probe.claim))
            if not np.all(np.abs(found - np.array(probe.logits)) <= TOLERANCE):
                raise ArtefactBroken(
                    f"comparison: probe {number} gives {found.round(2)}, {probe.logits} when made"
                )
