"""How well the words of a claim are matched by those of its evidence, in the encoder's own terms.

Each word piece of the claim looks for its nearest piece in the evidence (cosine of contextual
vectors), as BERTScore's recall does (Zhang et al. 2020). A paraphrase matches everywhere; one
changed name or number leaves a hole.
"""

import numpy as np

from llmobs.detect.tier2_encoder.embedder import Embedded

ALIGNED = ("mean_gap", "deepest_gap", "low_gap", "number_gap", "unlike", "weak_words", "not_verbatim")
"""Each 0 (all is matched) to about 1, over the claim's content pieces:

- mean of 1 - cosine; the largest; the mean of the three largest; the largest among digits;
- 1 - cosine of the two texts as wholes; share of pieces below cosine 0.6; share that the evidence
  does not hold letter by letter.
"""
_SMALL = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "from",
        "by",
        "with",
        "and",
        "or",
        "but",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "as",
        "he",
        "she",
        "they",
        "we",
        "you",
        "i",
        "his",
        "her",
        "their",
        "our",
        "your",
        "my",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        ".",
        ",",
        "?",
        "!",
        ";",
        ":",
        "'",
        '"',
        "(",
        ")",
        "-",
        "s",
    ]
)
WEAK = 0.6


def aligned_features(claim: Embedded, evidence: Embedded) -> tuple[float, ...]:
    """The values of ALIGNED."""
    unlike = max(0.0, 1.0 - float(claim.whole @ evidence.whole))
    if not claim.pieces or not evidence.pieces:
        return (1.0, 1.0, 1.0, 0.0, unlike, 1.0, 1.0)
    nearest = (claim.words @ evidence.words.T).max(axis=1)
    content = np.array([piece not in _SMALL for piece in claim.pieces])
    if not content.any():
        content[:] = True
    gaps = np.clip(1.0 - nearest[content], 0.0, 1.0)
    digits = np.array([any(char.isdigit() for char in piece) for piece in claim.pieces])
    held = frozenset(evidence.pieces)
    verbatim = np.array([piece in held for piece in claim.pieces])[content]
    return (
        float(gaps.mean()),
        float(gaps.max()),
        float(np.sort(gaps)[-3:].mean()),
        float(np.clip(1.0 - nearest[digits], 0.0, 1.0).max()) if digits.any() else 0.0,
        unlike,
        float((gaps > 1.0 - WEAK).mean()),
        float(1.0 - verbatim.mean()),
    )
