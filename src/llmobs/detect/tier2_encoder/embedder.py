"""The base encoder, untouched by training: vectors of texts and of their words, and where its last layers begin."""

from collections import OrderedDict
from threading import Lock

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llmobs.detect.artefacts import ArtefactBroken, Artefacts
from llmobs.detect.tier2_encoder.encoder import session_of, tokenizer_of
from llmobs.detect.tier2_encoder.words import UNKNOWN, Words, fed

Vectors = NDArray[np.float32]

LONGEST = 254
"""Word pieces of one text; what is longer is cut here, so callers cut into sentences first."""
MOST_KEPT = 64
"""Embedded texts kept in memory, at most 0.8 MB each."""
ALIKE = 0.97
"""Least cosine of a probe's vector to the one recorded: int8 sums differ a little by processor."""


class VectorProbe(msgspec.Struct, frozen=True):
    """A text with the vector (384,) that the very graph gave when it was made."""

    text: str
    vector: tuple[float, ...]


class EmbedderManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest of the base encoder says beyond checksums."""

    probes: tuple[VectorProbe, ...]


class Embedded(msgspec.Struct, frozen=True):
    """A text as vectors, all of length 1."""

    pieces: tuple[str, ...]
    """Its word pieces, in lower case."""
    ids: tuple[int, ...]
    """Their rows in the table of words."""
    words: Vectors
    """(pieces, 384)."""
    whole: Vectors
    """(384,): the mean, as the base was trained to be compared."""
    halfway: Vectors
    """(pieces, 384), not of length 1: what the layers before the last two say; the comparison reads on from there."""


class Embedder:
    """Embeds short texts, one a call. May be called from several threads at once."""

    def __init__(self, artefacts: Artefacts, words: Words) -> None:
        self._table = words
        self._manifest = artefacts.told(EmbedderManifest)
        self._tokenizer: Tokenizer = tokenizer_of(artefacts)
        self._session: ort.InferenceSession = session_of(artefacts, ["tokens", "halfway"])
        self._kept: OrderedDict[str, Embedded] = OrderedDict()
        self._lock = Lock()

    def __call__(self, text: str) -> Embedded:
        """The vectors of a text, kept for a while: the same passage serves many claims."""
        with self._lock:
            known = self._kept.get(text)
            if known is not None:
                self._kept.move_to_end(text)
                return known
        found = self._embed(text)
        with self._lock:
            self._kept[text] = found
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return found

    def ids(self, text: str) -> list[int]:
        """The word pieces of a text, as rows of the table of words."""
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids[:LONGEST]
        return found

    def _embed(self, text: str) -> Embedded:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        inner = encoded.ids[:LONGEST] or [UNKNOWN]
        tokens, halfway = self._session.run(None, fed(self._table, inner))
        rows: Vectors = tokens[0]
        return Embedded(
            tuple(encoded.tokens[:LONGEST]),
            tuple(inner),
            _unit(rows[1:-1]),
            _unit(rows.mean(axis=0)),
            halfway[0, 1:-1],
        )

    def try_probes(self) -> None:
        """Embed the recorded texts; ArtefactBroken when a vector is not what it was."""
        probes = self._manifest.probes
        if len(probes) < 2:
            raise ArtefactBroken("base: the manifest holds no probes, so the graph cannot be trusted")
        for number, probe in enumerate(probes):
            found = float(self._embed(probe.text).whole @ _unit(np.array(probe.vector, dtype=np.float32)))
            if not found >= ALIKE:
                raise ArtefactBroken(f"base: probe {number} lies at cosine {found:.2f} of its record")
        first, last = (np.array(p.vector, dtype=np.float32) for p in (probes[0], probes[-1]))
        if float(_unit(first) @ _unit(last)) > ALIKE:
            raise ArtefactBroken("base: the probes hardly differ, so they would pass a dead graph")


def _unit(rows: Vectors) -> Vectors:
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-9), dtype=np.float32)
