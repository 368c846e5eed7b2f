"""What reads bytes from strangers. Each target takes any bytes and raises only for a bug."""

from collections.abc import Callable
from functools import cache

import msgspec

from llmobs.access.keys import id_of
from llmobs.detect.tier1_patterns.book import RuleBook, rule_book
from llmobs.detect.tier1_patterns.normalise import View, disguises
from llmobs.domain.redaction import masked
from llmobs.errors import Problem
from llmobs.http.schemas import read_batch, read_context, read_detect

Target = Callable[[bytes], None]


def body(data: bytes) -> None:
    """A body is read whole, or refused with a problem."""
    try:
        asked = read_detect(data)
        read_context(asked.context, 65_536)
    except Problem as problem:
        assert 400 <= problem.status < 500  # noqa: PT017  # the property itself
        return
    msgspec.json.encode(asked.llm_response)


def batch(data: bytes) -> None:
    """A batch is read, and each of its items by itself."""
    try:
        items = read_batch(data)
    except Problem:
        return
    for item in items:
        body(bytes(item))


def views(data: bytes) -> None:
    """Every reading of a text finds its way back to spans inside the text as received."""
    text = data.decode("utf-8", "replace")
    if not text:
        return
    for view in disguises(View("raw", text)):
        size = len(view.text)
        for start, end in ((0, size), (size // 2, size // 2 + 1), (size - 1, size)):
            if 0 <= start < end <= size:
                span = view.span(start, end)
                assert 0 <= span.start <= span.end <= len(text), view.name


def redaction(data: bytes) -> None:
    """Masking keeps the length, and what it masked is gone from its place."""
    text = data.decode("utf-8", "replace")
    spans = list(_rules().current.sensitive(text))
    left = masked(text, spans)
    assert len(left) == len(text)
    for span in spans:
        assert not left[span.start : span.end].strip("\N{FULL BLOCK}")


def key(data: bytes) -> None:
    """The id in a key, or None."""
    found = id_of(data)
    assert found is None or found.encode() in data


@cache
def _rules() -> RuleBook:
    rules = rule_book(None, ())
    rules.current.warm()
    rules.current.sensitive("The first text builds what the rules need.")
    return rules


def ready() -> None:
    """Build once what takes seconds, so that no input is blamed for it."""
    redaction(b"Call +1 202 555 0143, or write to ana@example.com.")


TARGETS: dict[str, Target] = {t.__name__: t for t in (body, batch, views, redaction, key)}
