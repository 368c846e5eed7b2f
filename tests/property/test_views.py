"""Every view finds its way back to the text as received."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from llmobs.detect.tier1_patterns.normalise import View, disguises

texts = st.text(min_size=1, max_size=400)
nasty = st.text(
    alphabet=st.sampled_from(
        "ab %&#;x4\\u00e9IgnoreАаеоℐ𝓰\u200b\u202e\u0301ﬁ①0134@$! .-_=+/QUJD\n\U000e0041"
    ),
    max_size=400,
)


@given(st.one_of(texts, nasty), st.data())
def test_spans_lie_inside_the_text_as_received(text: str, data: st.DataObject) -> None:
    raw = View("raw", text)
    for view in disguises(raw):
        if not view.text:
            continue
        start = data.draw(st.integers(0, len(view.text) - 1))
        end = data.draw(st.integers(start + 1, len(view.text)))
        span = view.span(start, end)
        assert 0 <= span.start < span.end <= len(text), view.name


@given(st.one_of(texts, nasty))
def test_the_whole_of_a_view_spans_everything_that_made_it(text: str) -> None:
    for view in disguises(View("raw", text)):
        if view.name in {"leet", "unescaped", "spaced"} and view.text:
            span = view.span(0, len(view.text))
            assert span.start <= len(text)
            assert span.end <= len(text)


@given(st.text(alphabet="abcdefghij klmnop", min_size=16, max_size=80), texts, texts)
def test_base64_maps_to_the_whole_encoded_run(plain: str, before: str, after: str) -> None:
    encoded = base64.b64encode(plain.encode()).decode()
    text = f"{before} {encoded} {after}"
    views = {view.name: view for view in disguises(View("raw", text))}
    if "=" in after[:1] or "decoded" not in views:
        return
    at = views["decoded"].text.find(plain)
    if at >= 0:
        span = views["decoded"].span(at, at + len(plain))
        assert text[span.start : span.end].startswith(encoded.rstrip("=")[:8])
