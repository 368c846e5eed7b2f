"""The weights: one gather and one sum a feature sort, for all classes at once."""

from math import exp, sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmobs.detect.tier1_lexical.features import BITS, LONGEST, features, lowered, segments_of

LANE = 21
"""Bits of one class in a packed sum: weights of 8 bits, so 2^13 features fit without carry."""
PER_WORD = 63 // LANE
_LANE_MASK = (1 << LANE) - 1
_BIAS = 128


class Output(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One output of the classifier and how its sum becomes a score.

    `1 / (1 + exp(-(slope * (unit * sum / sqrt(features) + bias) + offset)))`, the largest over the
    segments. `slope` and `offset` come from calibration on left-out sources.
    """

    name: str
    failure_class: str
    kinds: tuple[str, ...]
    unit: float
    bias: float
    slope: float
    offset: float
    needs_no_documents: bool = False


class Classifier:
    """Linear weights of int8 for `outputs`, packed three to a 64-bit word.

    `weights` has the shape (2^BITS, outputs). A gather of 64-bit words and a sum over them cost
    the same as for one class, so ten classes cost four.
    """

    def __init__(self, weights: NDArray[np.int8], outputs: tuple[Output, ...]) -> None:
        if weights.shape != (1 << BITS, len(outputs)):
            raise ValueError(f"weights of shape {weights.shape} for {len(outputs)} outputs")
        self.outputs = outputs
        lifted = weights.astype(np.int64) + _BIAS
        self._words: list[NDArray[np.int64]] = []
        for first in range(0, len(outputs), PER_WORD):
            word = np.zeros(1 << BITS, dtype=np.int64)
            for lane in range(min(PER_WORD, len(outputs) - first)):
                word |= lifted[:, first + lane] << (lane * LANE)
            self._words.append(word)

    def scores(self, text: str) -> tuple[float, ...]:
        """The calibrated score of each output, 0 to 1; all 0 for a text without a letter."""
        raw = lowered(text)
        best = [-1e9] * len(self.outputs)
        for start in range(0, len(raw), LONGEST):
            self._part(raw[start : start + LONGEST], best)
        return tuple(
            1.0 / (1.0 + exp(-max(-60.0, min(60.0, o.slope * value + o.offset)))) if value > -1e8 else 0.0
            for o, value in zip(self.outputs, best, strict=True)
        )

    def _part(self, raw: bytes, best: list[float]) -> None:
        parts = features(raw)
        if not parts:
            return
        starts = segments_of(len(raw))
        rows = np.concatenate([found for found, _ in parts])
        if len(starts) == 1:
            self._take(len(rows), [int(word[rows].sum()) for word in self._words], best)
            return
        # Each sort of feature stands in the order of the text, so a segment is one stretch of each.
        cuts = np.array([np.searchsorted(places, starts) for _, places in parts])
        lengths = np.array([len(found) for found, _ in parts])
        sizes = np.diff(np.hstack([cuts, lengths[:, None]]), axis=1)
        firsts = cuts + (np.cumsum(lengths) - lengths)[:, None]
        full = sizes > 0
        at = firsts[full]
        counts = sizes.sum(axis=0).tolist()
        sums = np.zeros((len(self._words), *cuts.shape), dtype=np.int64)
        for number, word in enumerate(self._words):
            sums[number][full] = np.add.reduceat(word[rows], at)
        for count, totals in zip(counts, sums.sum(axis=1).T.tolist(), strict=True):
            if count:
                self._take(count, totals, best)

    def _take(self, count: int, totals: list[int], best: list[float]) -> None:
        root = sqrt(count)
        lifted = count * _BIAS
        index = 0
        for total in totals:
            for lane in range(min(PER_WORD, len(self.outputs) - index)):
                output = self.outputs[index]
                value = output.unit * (((total >> (lane * LANE)) & _LANE_MASK) - lifted) / root + output.bias
                best[index] = max(best[index], value)
                index += 1
