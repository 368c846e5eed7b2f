"""The weights: one gather and one sum, for all classes at once."""

from math import copysign, exp, sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmobs.detect.tier1_lexical.features import BITS, LONGEST, hashed, lowered, segments_of

LANE = 21
"""Bits of one class in a packed sum: weights of 8 bits, so 2^13 features fit without carry."""
PER_WORD = 63 // LANE
LONG = 240
"""Characters; a longer prompt may be a document that somebody else wrote."""
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
    long: float = 0.0
    """Added to the logit of a prompt of more than LONG characters: an instruction planted in a document needs none of
    the words that attacks are known by, so fewer of these are cleared by words alone."""
    short: float = 0.0
    """Added to the logit of any other prompt: those are where attacks come, and an answer is hardly ever one."""


class HiddenUnit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rectified sum: where `unit * sum / sqrt(features) + bias` is above 0, it counts `gives` for each output.

    Words that mean harm only beside others ("at night" in a plan and in a diary) have no linear weight.
    """

    unit: float
    bias: float
    gives: tuple[float, ...]


class Classifier:
    """Weights of int8 for `outputs` and, after them, for the `hidden` units, packed three to a 64-bit word.

    `weights` has the shape (2^BITS, outputs + hidden). A gather of 64-bit words and a sum over them cost
    the same as for one class, so ten classes and eleven hidden units cost seven.
    """

    def __init__(
        self, weights: NDArray[np.int8], outputs: tuple[Output, ...], hidden: tuple[HiddenUnit, ...] = ()
    ) -> None:
        columns = len(outputs) + len(hidden)
        if weights.shape != (1 << BITS, columns):
            raise ValueError(
                f"weights of shape {weights.shape} for {len(outputs)} outputs and {len(hidden)} hidden units"
            )
        if any(len(one.gives) != len(outputs) for one in hidden):
            raise ValueError(f"a hidden unit has to give something to each of {len(outputs)} outputs")
        self.outputs = outputs
        lifted = weights.astype(np.int64) + _BIAS
        words = -(-columns // PER_WORD)
        # The words of one row side by side: one row is one cache line or less.
        self._table = np.zeros((1 << BITS, words), dtype=np.int64)
        for index in range(columns):
            word, lane = divmod(index, PER_WORD)
            self._table[:, word] |= lifted[:, index] << (lane * LANE)
        scales = [(one.unit, one.bias) for one in outputs] + [(one.unit, one.bias) for one in hidden]
        self._lanes = [
            (index // PER_WORD, index % PER_WORD * LANE, unit, bias)
            for index, (unit, bias) in enumerate(scales)
        ]
        self._gives = np.array([one.gives for one in hidden]).reshape(len(hidden), len(outputs))
        self._curves = [(output.slope, output.offset) for output in outputs]
        self._long_curves = [(output.slope, output.offset + output.long) for output in outputs]
        self._short_curves = [(output.slope, output.offset + output.short) for output in outputs]

    def scores(self, text: str, *, prompt: bool = False) -> tuple[float, ...]:
        """The calibrated score of each output, 0 to 1; all 0 for a text without a letter."""
        raw = lowered(text)
        best: list[float] | None = None
        for start in range(0, len(raw), LONGEST):
            for values in self._segments(raw[start : start + LONGEST]):
                best = values if best is None else list(map(max, best, values))
        if best is None:
            return (0.0,) * len(self.outputs)
        curves = self._curves
        if prompt:
            curves = self._long_curves if len(text) > LONG else self._short_curves
        logits = [slope * value + offset for value, (slope, offset) in zip(best, curves, strict=True)]
        return tuple([1.0 / (1.0 + exp(-x if -60.0 < x < 60.0 else copysign(60.0, -x))) for x in logits])

    def _segments(self, raw: bytes) -> list[list[float]]:
        """The outputs' uncalibrated values for each segment that has features."""
        features = hashed(raw)
        if features is None:
            return []
        taken = self._table.take(features.rows, axis=0)
        starts = segments_of(len(raw))
        if len(starts) == 1:
            # Over so few columns `einsum` takes half the time of `sum`.
            return [self._values(len(taken), np.einsum("ij->j", taken).tolist())]
        parts = features.parts
        # Each sort of feature stands in the order of the text, so a segment is one stretch of each.
        cuts = np.array([np.searchsorted(places, starts) for _, places in parts])
        lengths = np.array([len(found) for found, _ in parts])
        sizes = np.diff(np.hstack([cuts, lengths[:, None]]), axis=1)
        firsts = cuts + (np.cumsum(lengths) - lengths)[:, None]
        full = sizes > 0
        sums = np.zeros((*cuts.shape, taken.shape[1]), dtype=np.int64)
        sums[full] = np.add.reduceat(taken, firsts[full], axis=0)
        return [
            self._values(count, totals)
            for count, totals in zip(sizes.sum(axis=0).tolist(), sums.sum(axis=0).tolist(), strict=True)
            if count
        ]

    def _values(self, count: int, totals: list[int]) -> list[float]:
        root = sqrt(count)
        lifted = count * _BIAS
        values = [
            unit * ((totals[word] >> shift & _LANE_MASK) - lifted) / root + bias
            for word, shift, unit, bias in self._lanes
        ]
        if not self._gives.size:
            return values
        cut = len(self.outputs)
        more = np.maximum(values[cut:], 0.0) @ self._gives
        return [value + added for value, added in zip(values[:cut], more.tolist(), strict=True)]
