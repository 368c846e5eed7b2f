"""Which part of the documents a claim is compared with, and what can be compared without a model.

Plain Python with no imports from the rest of the package: training uses the very same code, so
that the model meets in service what it was trained on.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

BUDGET_CHARS = 480
"""Characters of evidence put beside a claim: about 110 word pieces of English."""
LONGEST_CLAIM = 320
_SENTENCES = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[^\s])|(?<=[。！？])|\n+")
_WORD = re.compile(r"[^\W_]+")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_CLOCK = re.compile(r"\b([01]?\d|2[0-3]):[0-5]\d\b")
_DATE = re.compile(r"\b\d{4}-(0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])\b")
_MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
LONGEST_JSON = 200_000
"""Characters; the lists of a longer document are not counted."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAME = re.compile(r"\b[A-Z][\w'-]+")
_NEGATIONS = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot)\b|n['’]t\b", re.IGNORECASE
)
_SMALL = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "from",
        "by",
        "with",
        "and",
        "or",
        "but",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "as",
        "he",
        "she",
        "they",
        "we",
        "you",
        "i",
        "his",
        "her",
        "their",
        "our",
        "your",
        "my",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "not",
        "no",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
    ]
)
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|vs|No|Prof|Inc|Ltd|e\.g|i\.e|[A-Z])\.)$")
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence or a part of one: half-open character range of its text."""

    start: int
    end: int


def sentences(text: str, longest: int = LONGEST_CLAIM) -> list[Piece]:
    """The text in sentences; those longer than `longest` characters are cut at spaces or commas."""
    bounds: list[tuple[int, int]] = []
    start = 0
    for found in _SENTENCES.finditer(text):
        if _ABBREVIATION.search(text, start, found.start()) and "\n" not in found.group():
            continue
        bounds.append((start, found.start()))
        start = found.end()
    bounds.append((start, len(text)))
    pieces: list[Piece] = []
    for begin, end in bounds:
        left = begin
        while end - left > longest:
            cut = max(text.rfind(mark, left + longest // 2, left + longest) for mark in (", ", "; ", " "))
            cut = cut + 1 if cut > 0 else left + longest
            pieces.append(Piece(left, cut))
            left = cut
        pieces.append(Piece(left, end))
    return [kept for piece in pieces if (kept := _stripped(text, piece)) is not None]


def _stripped(text: str, piece: Piece) -> Piece | None:
    """The piece without white space at its ends; None when nothing is left."""
    inner = text[piece.start : piece.end]
    start = piece.start + len(inner) - len(inner.lstrip())
    end = piece.end - (len(inner) - len(inner.rstrip()))
    return Piece(start, end) if end > start else None


def ordered_stems(text: str) -> list[str]:
    """Content words in their order, lower-cased and cut to six letters.

    Number words become digits; scripts without spaces give pairs of characters.
    """
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        if word in _SMALL:
            continue
        if word[0].isdigit():
            ordinal = _ORDINAL.fullmatch(word)
            found.append(_number(ordinal[1] if ordinal else word)[:6])
        elif word in _NUMBER_WORDS:
            found.append(_NUMBER_WORDS[word])
        elif ord(word[0]) > 0x2E80:
            found.extend(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            found.append(word[:6])
    return found


def stems(text: str) -> set[str]:
    """The content words of `ordered_stems`, each once."""
    return set(ordered_stems(text))


class Passages:
    """The sentences of all documents, ready to be asked for the ones nearest to a claim."""

    def __init__(self, documents: Sequence[str]) -> None:
        self.texts = tuple(documents)
        self.pieces: list[tuple[int, Piece]] = [
            (number, piece) for number, text in enumerate(documents) for piece in sentences(text, 240)
        ]
        ordered = [ordered_stems(documents[n][p.start : p.end]) for n, p in self.pieces]
        self._stems = [set(words) for words in ordered]
        self.pairs = frozenset(pair for words in ordered for pair in pairwise(words))
        """Neighbouring content words of a sentence."""
        counts: dict[str, int] = {}
        for words in self._stems:
            for word in words:
                counts[word] = counts.get(word, 0) + 1
        total = len(self.pieces)
        self._weights = {word: log(1 + total / count) for word, count in counts.items()}
        self.told = frozenset(word for text in documents for word in _told_otherwise(text))
        """What the documents say in another spelling than an answer would."""
        self.words = frozenset(counts) | self.told
        """All content words of the documents."""
        self.numbers = frozenset(
            _number(found) for text in documents for found in _NUMBER.findall(text)
        ) | frozenset(word for word in self.words if word.isdigit())
        """All numbers, in one spelling."""

    def nearest(self, claim: str, query: str = "") -> str:
        """Up to BUDGET_CHARS of the documents, in their order.

        The sentences that share most with the claim, the first ones with their neighbour. A short
        context is given whole.
        """
        if sum(map(len, self.texts)) <= BUDGET_CHARS:
            return " ".join(self.texts)
        wanted, asked = stems(claim), stems(query)
        weights = self._weights
        scores = [
            sum(weights[w] for w in words & wanted) + 0.4 * sum(weights[w] for w in (words & asked) - wanted)
            for words in self._stems
        ]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        chosen: set[int] = set()
        left = BUDGET_CHARS
        for best in order[:8]:
            if scores[best] <= 0 and chosen:
                break
            for index in (best, best + 1 if left > BUDGET_CHARS // 2 else best):
                if index in chosen or index >= len(self.pieces):
                    continue
                length = self.pieces[index][1].end - self.pieces[index][1].start
                if length <= left or not chosen:
                    chosen.add(index)
                    left -= length
            if left < 60:
                break
        return " ".join(
            self.texts[number][piece.start : piece.end]
            for number, piece in (self.pieces[i] for i in sorted(chosen))
        )


_LIGHT = frozenset(
    {
        "all",
        "also",
        "am",
        "any",
        "can",
        "could",
        "d",
        "here",
        "him",
        "just",
        "ll",
        "m",
        "may",
        "me",
        "might",
        "must",
        "ok",
        "okay",
        "please",
        "re",
        "s",
        "shall",
        "should",
        "so",
        "some",
        "sure",
        "t",
        "than",
        "them",
        "then",
        "there",
        "us",
        "ve",
        "very",
        "well",
        "will",
        "would",
        "yes",
    }
)
"""Words that claim nothing; with them, every "There are some that you can take" would look made up."""


PLAIN = (
    "numbers_missing",
    "names_missing",
    "words_missing",
    "words_missing_here",
    "pairs_missing",
    "run_missing",
    "negation_differs",
    "rare_missing",
)
"""What plain comparison says of a claim, each 0 (nothing amiss) to 1:

- numbers, capitalised names, content words and neighbouring pairs of these that the documents do
  not hold; words that the chosen evidence does not hold; longest run of missing words (of 6);
- whether exactly one of claim and evidence holds a negation;
- whether a word of over five letters is missing.

Words of the question do not count: an answer may repeat them.
"""


def plain_features(claim: str, query: str | None, passages: Passages, evidence: str) -> tuple[float, ...]:
    """The values of PLAIN for a claim."""
    numbers = [_number(found) for found in _NUMBER.findall(claim)]
    names = [
        name for name in _NAME.findall(claim) if name.lower() not in _SMALL and name.lower() not in _LIGHT
    ]
    asked = stems(query) if query else frozenset()
    order = [word for word in ordered_stems(claim) if word not in asked and word not in _LIGHT]
    missing = [word not in passages.words for word in order]
    here = stems(evidence) | passages.told
    pairs = list(pairwise(order))
    longest = run = 0
    for flag in missing:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return (
        min(1.0, sum(number not in passages.numbers for number in numbers) / 2),
        _share(name.lower()[:6] not in passages.words for name in names),
        _share(missing),
        _share(word not in here for word in order),
        _share(pair not in passages.pairs for pair in pairs),
        min(1.0, longest / 6),
        float(bool(_NEGATIONS.search(claim)) != bool(_NEGATIONS.search(evidence))),
        float(any(flag and len(word) > 5 for flag, word in zip(missing, order, strict=True))),
    )


def _told_otherwise(text: str) -> Iterator[str]:
    """Words and numbers that answers use for what structured text writes differently.

    18:30 is half past 6, 2019-03-08 is in March, and a list of ten results holds 10 of them.
    """
    for clock in _CLOCK.finditer(text):
        yield str((int(clock[1]) - 1) % 12 + 1)
    for date in _DATE.finditer(text):
        month = _MONTHS[int(date[1]) - 1]
        yield month[:6]
        yield month[:3]
    if text.lstrip()[:1] in {"{", "["} and len(text) <= LONGEST_JSON:
        try:
            waiting = [json.loads(text)]
        except (ValueError, RecursionError):
            return
        while waiting:
            value = waiting.pop()
            if isinstance(value, list):
                yield str(len(value))
            if isinstance(value, dict | list):
                waiting.extend(value.values() if isinstance(value, dict) else value)


def _number(written: str) -> str:
    """One spelling of a number: 1,200.50 and 1200.5 are the same, and 08 is 8."""
    bare = written.replace(",", "")
    if bare.isdecimal():
        return bare.lstrip("0") or "0"
    if "." in bare and bare.count(".") == 1:
        bare = bare.rstrip("0").rstrip(".")
    return bare or "0"


def _share(flags: Iterable[bool]) -> float:
    found = list(flags)
    return sum(found) / len(found) if found else 0.0
