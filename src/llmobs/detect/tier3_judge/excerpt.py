"""What of a text the judge is shown: white space evened out, long texts in windows."""

from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from llmobs.domain.subject import Span

NEIGHBOURS = 400
"""Code points shown on each side of a suspicious span: about three sentences."""
GAP = 80
"""Windows closer than this become one."""


class Flat:
    """A text with each run of white space made one space, and none at its ends.

    Models repeat white space loosely, so quotations are found here; `span` leads back to the text
    as received. Texts that differ in white space alone are one question.
    """

    def __init__(self, text: str) -> None:
        pieces: list[str] = []
        self._starts: list[int] = []
        """Where each word stands here."""
        self._origins: list[int] = []
        """Where it stands in the text as received."""
        at = here = 0
        for word in text.split():
            at = text.index(word, at)
            self._starts.append(here)
            self._origins.append(at)
            pieces.append(word)
            at += len(word)
            here += len(word) + 1
        self.text = " ".join(pieces)

    def span(self, start: int, end: int) -> Span:
        """Where the non-empty range of `text` lies in the text as received."""
        return Span(self._origin(start), self._origin(end - 1) + 1)

    def place(self, span: Span) -> tuple[int, int]:
        """The range of `text` that covers a span of the text as received, as far as there is one."""
        return self._here(span.start), max(self._here(span.start), self._here(span.end))

    def _origin(self, position: int) -> int:
        word = bisect_right(self._starts, position) - 1
        return self._origins[word] + position - self._starts[word]

    def _here(self, position: int) -> int:
        word = bisect_right(self._origins, position) - 1
        if word < 0:
            return 0
        ends = self._starts[word + 1] - 1 if word + 1 < len(self._starts) else len(self.text)
        return min(self._starts[word] + position - self._origins[word], ends)


class Window(msgspec.Struct, frozen=True):
    """A half-open range of the flat text that is shown."""

    start: int
    end: int


def windows(flat: Flat, suspects: Sequence[Span], most: int) -> tuple[Window, ...]:
    """The whole text when it has at most `most` code points, else what is shown of it, in order.

    Suspicious places come first, strongest first, each with its neighbourhood, until `most` is
    used up; with none of them known, the beginning, the middle and the end are shown.
    """
    length = len(flat.text)
    if length <= most:
        return (Window(0, length),)
    wanted = [flat.place(span) for span in suspects]
    # A span over the whole text points nowhere.
    wanted = [(start, end) for start, end in wanted if end - start <= most // 2]
    if not wanted:
        third = most // 3
        middle = (length - third) // 2
        return (Window(0, third), Window(middle, middle + third), Window(length - third, length))
    taken: list[Window] = []
    for start, end in wanted:
        grown = _merged([*taken, Window(max(0, start - NEIGHBOURS), min(length, end + NEIGHBOURS))])
        if sum(window.end - window.start for window in grown) > most:
            if not taken:
                around = max(0, min((start + end - most) // 2, length - most))
                return (Window(around, around + most),)
            continue
        taken = grown
    return tuple(taken)


def _merged(found: list[Window]) -> list[Window]:
    merged: list[Window] = []
    for window in sorted(found, key=lambda window: window.start):
        if merged and window.start <= merged[-1].end + GAP:
            merged[-1] = Window(merged[-1].start, max(merged[-1].end, window.end))
        else:
            merged.append(window)
    return merged
