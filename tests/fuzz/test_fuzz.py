"""A short walk of the fuzzer: the whole corpus, and fresh bytes. `make fuzz MINUTES=10` goes further."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from targets import TARGETS, Target

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
bodies = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=400).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(max_size=200).map(lambda text: b'{"llm_response": "%s"}' % text.encode("utf-8", "surrogatepass")),
)


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_no_input_of_the_corpus_breaks_a_target(target: Target) -> None:
    assert len(CORPUS) >= 10
    for path in CORPUS:
        target(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
@given(data=bodies)
def test_no_bytes_break_a_target(target: Target, data: bytes) -> None:
    target(data)
