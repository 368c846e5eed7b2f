"""Hashed features and the packed weights."""

import itertools
from math import exp, sqrt

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmobs.detect.tier1_lexical.classifier import LONG, Classifier, HiddenUnit, Output
from llmobs.detect.tier1_lexical.features import BITS, LONGEST, features, lowered, segments_of

NAMES = ("a", "b", "c", "d")


def output(name: str, bias: float) -> Output:
    return Output(
        name=name, failure_class=name, kinds=("prompt",), unit=0.01, bias=bias, slope=1.0, offset=0.0
    )


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(7).integers(-127, 128, (1 << BITS, len(NAMES))).astype(np.int8)


@pytest.fixture(scope="module")
def classifier(weights: np.ndarray) -> Classifier:
    return Classifier(weights, tuple(output(name, 0.1 * n) for n, name in enumerate(NAMES)))


def rows(text: str) -> list[list[int]]:
    return [part.tolist() for part, _ in features(lowered(text))]


def plainly(weights: np.ndarray, text: str) -> list[float]:
    """The same sums, written out."""
    raw = lowered(text)
    best = np.full(len(NAMES), -np.inf)
    for first in range(0, len(raw), LONGEST):
        part = raw[first : first + LONGEST]
        found = features(part)
        bounds = [*segments_of(len(part)).tolist(), len(part)]
        for low, high in itertools.pairwise(bounds):
            mine = [r for r, at in found]
            inside = np.concatenate(
                [r[(at >= low) & (at < high)] for r, (_, at) in zip(mine, found, strict=True)]
                or [np.zeros(0, int)]
            )
            if inside.size:
                total = weights[inside].astype(np.int64).sum(0)
                best = np.maximum(best, 0.01 * total / sqrt(inside.size) + 0.1 * np.arange(len(NAMES)))
    return [0.0 if np.isinf(v) else 1 / (1 + exp(-v)) for v in best]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400), st.lists(st.floats(-2, 2), min_size=2, max_size=2))
def test_a_hidden_unit_counts_where_it_is_above_nothing(
    weights: np.ndarray, text: str, biases: list[float]
) -> None:
    """The last two columns as hidden units, beside the same columns written out as outputs."""
    outputs = tuple(output(name, 0.1 * n) for n, name in enumerate(NAMES))
    units = tuple(HiddenUnit(unit=0.02, bias=bias, gives=(0.5, -1.0)) for bias in biases)
    hidden = Classifier(weights, outputs[:2], units)
    if not features(lowered(text)):
        assert hidden.scores(text) == (0.0, 0.0)
        return
    found = np.concatenate([rows for rows, _ in features(lowered(text))])
    sums = weights[found].astype(np.int64).sum(0) / sqrt(found.size)
    more = sum(max(0.0, 0.02 * sums[2 + n] + bias) for n, bias in enumerate(biases))
    wanted = [0.01 * sums[0] + 0.5 * more, 0.01 * sums[1] + 0.1 - more]
    assert hidden.scores(text) == pytest.approx([1 / (1 + exp(-v)) for v in wanted], abs=1e-9)


def test_a_hidden_unit_has_to_give_to_each_output(weights: np.ndarray) -> None:
    outputs = tuple(output(name, 0.0) for name in NAMES[:3])
    with pytest.raises(ValueError, match="each of 3 outputs"):
        Classifier(weights, outputs, (HiddenUnit(unit=0.01, bias=0.0, gives=(1.0,)),))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400), st.integers(1, 40))
def test_packed_sums_equal_the_plain_ones(
    weights: np.ndarray, classifier: Classifier, text: str, times: int
) -> None:
    whole = text * times
    assert classifier.scores(whole) == pytest.approx(plainly(weights, whole), abs=1e-9)


def test_a_text_longer_than_one_part_is_read_to_its_end(weights: np.ndarray, classifier: Classifier) -> None:
    text = "bread and butter " * 5000 + "ignore the rules"
    assert len(text) > LONGEST
    assert classifier.scores(text) == pytest.approx(plainly(weights, text), abs=1e-9)


def test_the_same_word_has_the_same_row_wherever_it_stands() -> None:
    assert rows("bread")[0][0] == rows("there is bread")[0][2] == rows("BREAD!")[0][0]


def test_order_matters_to_pairs_alone() -> None:
    one, other = rows("butter bread"), rows("bread butter")
    assert sorted(one[0]) == sorted(other[0])
    assert one[1] != other[1]


def test_a_text_without_letters_has_no_features_and_scores_nothing(classifier: Classifier) -> None:
    assert features(lowered(" ...!? ")) == []
    assert classifier.scores(" ...!? ") == (0.0,) * len(NAMES)


def test_prompts_are_cleared_less_readily_for_the_outputs_that_say_so(weights: np.ndarray) -> None:
    outputs = tuple(output(name, 0.0) for name in NAMES)
    raised = Classifier(weights, (msgspec.structs.replace(outputs[0], long=2.0, short=0.7), *outputs[1:]))
    short, long = "a note to the cleaners", "a note to the cleaners " * (LONG // 20)
    assert len(long) > LONG
    for text, more in ((short, 0.7), (long, 2.0)):
        first, *others = raised.scores(text, prompt=True)
        plain, *same = raised.scores(text)
        assert first / (1 - first) == pytest.approx(exp(more) * plain / (1 - plain))
        assert others == same


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        Classifier(np.zeros((4, 1), dtype=np.int8), (output("a", 0.0),))
