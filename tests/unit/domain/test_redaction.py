from hypothesis import given
from hypothesis import strategies as st

from llmobs.domain.redaction import MASK, masked
from llmobs.domain.subject import Span


def test_what_is_masked_is_gone_and_the_rest_stays_in_place() -> None:
    assert masked("call 555 now", [Span(5, 8)]) == f"call {MASK * 3} now"
    assert masked("abcdef", [Span(1, 3), Span(2, 4), Span(2, 3)]) == f"a{MASK * 3}ef"
    assert masked("abc", []) == "abc"


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8))
def test_length_stays_and_exactly_the_spans_are_masked(text: str, pairs: list[tuple[int, int]]) -> None:
    spans = [Span(min(a, b, len(text)), min(max(a, b), len(text))) for a, b in pairs]
    covered = {i for span in spans for i in range(span.start, span.end)}
    assert masked(text, spans) == "".join(MASK if i in covered else char for i, char in enumerate(text))
