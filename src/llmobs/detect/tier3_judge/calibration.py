"""From what judges say to a measured probability."""

from collections.abc import Mapping, Sequence
from math import exp, log
from pathlib import Path

import msgspec

from llmobs.errors import SettingsInvalid

SUREST = 0.98
"""An unmeasured judge is believed no further than this, nor below one minus it."""
LEAST_ROWS = 20
"""Rows of each label that a curve needs."""


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Platt scaling (Platt 1999): probability = logistic(a * logit(said) + b)."""

    a: float
    b: float


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Curves by failure class, measured with one model and one set of prompts."""

    model: str = ""
    prompts: str = ""
    """Version of the prompts that it was measured with."""
    curves: Mapping[str, Curve] = {}

    def score(self, failure_class: str, said: Sequence[float]) -> float:
        """The probability for the mean of what the votes said."""
        mean = sum(said) / len(said)
        curve = self.curves.get(failure_class)
        if curve is None:
            return min(SUREST, max(1 - SUREST, mean))
        return _logistic(curve.a * _logit(mean) + curve.b)


def load_calibration(path: Path) -> Calibration:
    """Read a file that `llmobs judge check --calibrate` wrote. SettingsInvalid when it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsInvalid(f"LLMOBS_JUDGE_CALIBRATION: {path}: {error}") from None


def fitted(pairs: Sequence[tuple[float, int]]) -> Curve | None:
    """The curve for (said, label) pairs by Newton's method; None for too few of either label.

    Labels are smoothed as Platt does, so that a perfect judge does not become an infinitely sure one.
    """
    positives = sum(label for _, label in pairs)
    negatives = len(pairs) - positives
    if min(positives, negatives) < LEAST_ROWS:
        return None
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    points = [(_logit(said), high if label else low) for said, label in pairs]
    a, b = 1.0, 0.0
    loss = _loss(points, a, b)
    for _ in range(100):
        da, db = _newton(points, a, b)
        step = 1.0
        while step > 1e-6 and _loss(points, a - step * da, b - step * db) > loss:
            step /= 2
        a, b = a - step * da, b - step * db
        before, loss = loss, _loss(points, a, b)
        if before - loss < 1e-10:
            break
    # A judge that is right less often than not is no judge: it is not read backwards.
    return Curve(round(a, 6), round(b, 6)) if a > 0 else Curve(0.0, round(log(positives / negatives), 6))


def _newton(points: Sequence[tuple[float, float]], a: float, b: float) -> tuple[float, float]:
    """The inverse Hessian times the gradient of the loss."""
    ga = gb = 0.0
    haa = hbb = 1e-6
    hab = 0.0
    for x, target in points:
        p = _logistic(a * x + b)
        weight = p * (1 - p)
        ga += (p - target) * x
        gb += p - target
        haa += weight * x * x
        hab += weight * x
        hbb += weight
    determinant = haa * hbb - hab * hab
    return (hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant


def _loss(points: Sequence[tuple[float, float]], a: float, b: float) -> float:
    """Mean cross entropy."""
    total = 0.0
    for x, target in points:
        p = min(1 - 1e-12, max(1e-12, _logistic(a * x + b)))
        total -= target * log(p) + (1 - target) * log(1 - p)
    return total / len(points)


def _logit(p: float) -> float:
    p = min(SUREST, max(1 - SUREST, p))
    return log(p / (1 - p))


def _logistic(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))
