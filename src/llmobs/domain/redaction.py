"""Masking what must not be stored."""

from collections.abc import Iterable

from llmobs.domain.subject import Span

MASK = "\N{FULL BLOCK}"
"""One mask for one code point, so that offsets of other evidence still hold in the stored text."""


def masked(text: str, spans: Iterable[Span]) -> str:
    """The text with every code point of the half-open spans replaced; spans may overlap."""
    ordered = sorted((span.start, span.end) for span in spans)
    if not ordered:
        return text
    parts: list[str] = []
    position = 0
    for start, end in ordered:
        if start > position:
            parts.append(text[position:start])
            position = start
        if end > position:
            parts.append(MASK * (end - position))
            position = end
    parts.append(text[position:])
    return "".join(parts)
