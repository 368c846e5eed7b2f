"""Which rules can match a text: the cheapest way to find out, chosen rule by rule.

Measured on texts that no automaton had seen, 389 rules, 2,000 characters: one set of all patterns
takes 1,400 µs for the median text, because its automaton grows with every text; looking for the words
that each pattern needs and then running 50 patterns one by one takes 1,080 µs; doing the first in
small sets for patterns whose words are nearly everywhere and the second for the others takes 310 µs.

Signs, digits and long runs that a pattern needs are asked for first, which takes a microsecond or two:
most short texts hold no quotation mark or bracket, so most patterns of attacks are never run on them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import re2
from ahocorasick_rs import AhoCorasick

from llmobs.detect.tier1_patterns.literals import (
    DENSE_STEPS,
    DIGIT_STEPS,
    LONG_RUN,
    SEPARATORS,
    SIGNS,
    TOKEN_RUN,
    Clauses,
    Words,
    at_start_only,
    dense_word,
    digits_word,
    required_words,
    share_of_texts,
)
from llmobs.detect.tier1_patterns.normalise import View
from llmobs.detect.tier1_patterns.pack import compile_pattern, searcher

COMMON = 0.2
"""A rule whose words more texts than this hold is looked for in a set. A set of twenty wanders through
many states, and each that is not in the processor's cache costs as much as a call: on 1,500 texts of the
training data, nothing cached, 0.02 took 635 µs and 0.2 takes 450."""
LARGE_COUNT = 8
"""Repetitions from this number on multiply the states of a set, so such patterns run alone, except
those that most texts would call up: in sets of a few, which share most of their states."""
FREQUENT = 0.15
"""A share of texts from which a call for each pattern costs more than a small set of them."""
SET_RULES = 20
COUNTING_RULES = 8
SET_MEMORY = 32 << 20
"""Upper bound, in bytes, for the automaton of one set; RE2 fills it as texts need."""

_NOT_DIGITS = bytes(byte for byte in range(256) if byte not in b"0123456789")
_DENSE = bytes(b"1"[0] if byte in b"0123456789" else b" "[0] for byte in range(256))
_SEPARATORS = "".join(SEPARATORS).encode() + bytes(range(128, 256))
_TOKEN_RUN = searcher(compile_pattern(TOKEN_RUN))
_COUNTS = re.compile(r"\{(\d+)")


class Prefilter:
    """Tells for a view which of its patterns, by index, are worth running. Never leaves one out that matches."""

    def __init__(self, patterns: Sequence[str], views: Sequence[Sequence[str]] | None = None) -> None:
        """`views` names the views that each pattern is meant for; without it, all."""
        self._views = tuple(map(frozenset, views)) if views is not None else None
        needs = self._needs = [required_words(pattern) for pattern in patterns]
        together: list[int] = []
        counting: list[int] = []
        self._alone: list[int] = []
        for index, pattern in enumerate(patterns):
            clauses = needs[index]
            share = min(map(share_of_texts, clauses), default=1.0)
            if share < COMMON or at_start_only(pattern):
                self._alone.append(index)
            elif all(int(count) < LARGE_COUNT for count in _COUNTS.findall(pattern)):
                together.append(index)
            elif share < FREQUENT or any(LONG_RUN in words for words in clauses):
                self._alone.append(index)
            else:
                counting.append(index)
        self._signs = _Signs(words for clauses in needs for words in clauses)
        gates = {index: self._signs.gate(needs[index]) for index in (*together, *counting)}
        # Patterns that need signs stand together, and among them those of the same views, so that a set
        # is passed over where none of its patterns can match.
        together.sort(key=lambda index: (gates[index] > 0, self._views_key(index), gates[index], index))
        counting.sort(key=lambda index: (gates[index] > 0, index))
        chunks = [
            tuple(members[at : at + size])
            for members, size in ((together, SET_RULES), (counting, COUNTING_RULES))
            for at in range(0, len(members), size)
        ]
        self._sets = [
            (
                _set_of([patterns[index] for index in chunk]),
                chunk,
                frozenset(gates[index] for index in chunk),
                frozenset().union(*(self._views[index] for index in chunk)) if self._views else None,
            )
            for chunk in chunks
        ]
        self._by_view: dict[str, tuple[_Calls, list[_Set]]] = {}

    def possible(self, view: View) -> list[int]:
        """The patterns for this view that may match it, in ascending order."""
        calls, sets = self._by_view.get(view.name) or self._made_for(view.name)
        signs = self._signs.seen(view)
        found = calls.possible(view, signs)
        encoded = view.encoded
        for match, chunk, gates in sets:
            for gate in gates:
                if gate & signs == gate:
                    break
            else:
                continue
            for index in match(encoded):
                if chunk[index] >= 0:
                    found.append(chunk[index])
        found.sort()
        return found

    def _views_key(self, index: int) -> list[str]:
        return [] if self._views is None else sorted(self._views[index])

    def _made_for(self, name: str) -> "tuple[_Calls, list[_Set]]":
        """What a view of that name needs asking; made when the first such view comes."""
        views = self._views
        names = frozenset(name.split("+"))  # one view may stand for two
        wanted = [index for index in self._alone if views is None or names & views[index]]
        calls = _Calls(((index, self._needs[index]) for index in wanted), self._signs)
        sets: list[_Set] = [
            (
                patterns._set.Match,  # noqa: SLF001  # the wrapper around it costs as much as the pass
                tuple(index if views is None or names & views[index] else -1 for index in chunk),
                tuple(gates) if 0 not in gates else (0,),
            )
            for patterns, chunk, gates, named in self._sets
            if named is None or names & named
        ]
        made = self._by_view[name] = (calls, sets)
        return made


class AnyOf:
    """Whether one of several patterns occurs. Only those whose words occur are run.

    Joined into one pattern they would make an automaton that is built anew for every text.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(patterns)
        self._made: tuple[list[Callable[..., Any]], _Signs, _Calls] | None = None

    def occurs(self, view: View) -> bool:
        """Whether one of them occurs in the view."""
        # Made when the first hit asks: two patterns of three stand in conditions, and few are ever asked.
        searches, signs, calls = self._made or self._make()
        encoded = view.encoded
        return any(searches[index](encoded) is not None for index in calls.possible(view, signs.seen(view)))

    def _make(self) -> "tuple[list[Callable[..., Any]], _Signs, _Calls]":
        needs = [required_words(pattern) for pattern in self._patterns]
        signs = _Signs(words for clauses in needs for words in clauses)
        self._made = (
            [searcher(compile_pattern(pattern)) for pattern in self._patterns],
            signs,
            _Calls(enumerate(needs), signs),
        )
        return self._made


@lru_cache(maxsize=4096)
def any_of(patterns: tuple[str, ...]) -> AnyOf | None:
    """The patterns of a condition; the same object for the same ones, so that a view is asked once."""
    return AnyOf(patterns) if patterns else None


_Set = tuple[Callable[[bytes], list[int]], tuple[int, ...], tuple[int, ...]]
"""How to ask it, the patterns' indexes (-1 where not meant for the view), and the signs that it needs."""


def _set_of(patterns: Sequence[str]) -> Any:
    options = re2.Options()
    options.max_mem = SET_MEMORY
    options.log_errors = False
    made = re2.Set.SearchSet(options)
    for pattern in patterns:
        made.Add(pattern.encode())
    made.Compile()
    return made


class _Signs:
    """Signs, counts of digits and long runs: told without a search for words.

    Each clause that names one has a bit, the same for the same clause; bits of several are or-ed.
    A clause of nothing else is *plain*: its bit says all. Any other may be met by a word as well.
    """

    def __init__(self, clauses: Iterable[Words]) -> None:
        self._bits: dict[Words, int] = {}
        for words in clauses:
            if words not in self._bits and any(map(_is_told, words)):
                self._bits[words] = 1 << len(self._bits)
        by_word: dict[str, int] = {}
        for words, bit in self._bits.items():
            for word in filter(_is_told, words):
                by_word[word] = by_word.get(word, 0) | bit
        self._run = by_word.pop(LONG_RUN, 0)
        self._digits = [(step, bits) for step in DIGIT_STEPS if (bits := by_word.pop(digits_word(step), 0))]
        self._dense = [
            (b"1" * step, bits) for step in DENSE_STEPS if (bits := by_word.pop(dense_word(step), 0))
        ]
        self._single = tuple(by_word.items())

    @property
    def count(self) -> int:
        """How many bits there are."""
        return len(self._bits)

    def bit(self, words: Words) -> int:
        """The clause's bit; 0 when it is none of these."""
        return self._bits.get(words, 0)

    def gate(self, clauses: Clauses) -> int:
        """The bits of the plain ones among the clauses."""
        bits = 0
        for words in clauses:
            if all(map(_is_told, words)):
                bits |= self._bits[words]
        return bits

    def seen(self, view: View) -> int:
        """The bits of the clauses that hold for the view."""
        seen = 0
        text = view.text
        for sign, bits in self._single:
            if sign in text:
                seen |= bits
        if self._run and view.mentions(_TOKEN_RUN):
            seen |= self._run
        if self._digits:
            digits = len(view.encoded.translate(None, _NOT_DIGITS))
            for step, bits in self._digits:
                if digits < step:
                    break
                seen |= bits
        if self._dense:
            stretches = view.encoded.translate(_DENSE, _SEPARATORS)
            for stretch, bits in self._dense:
                if stretch not in stretches:
                    break
                seen |= bits
        return seen


def _is_told(word: str) -> bool:
    return word in SIGNS or word.startswith("\0")


class _Calls:
    """Patterns that are called up by the words that they need."""

    def __init__(self, patterns: Iterable[tuple[int, Clauses]], signs: _Signs) -> None:
        self._gated: dict[int, list[int]] = {}
        """Patterns that no word calls up, by the bits that they need."""
        self._needed: dict[int, int] = {}
        """For each pattern the bits of its clauses."""
        bits: dict[str, int] = {}
        calls: dict[str, list[int]] = {}
        # The bits of signs come first and are the caller's; those of words follow.
        bit = 1 << signs.count
        for index, clauses in patterns:
            needed = 0
            called = False
            for words in clauses:
                told = signs.bit(words)
                needed |= told or bit
                for word in words:
                    if not _is_told(word):
                        bits[word] = bits.get(word, 0) | (told or bit)
                        if not told and not called:
                            # The most telling clause calls the pattern up, the others confirm.
                            calls.setdefault(word, []).append(index)
                if not told:
                    called = True
                    bit <<= 1
            self._needed[index] = needed
            if not called:
                self._gated.setdefault(needed, []).append(index)
        self._known = [(bits[word], tuple(calls.get(word, ()))) for word in bits]
        self._words = AhoCorasick(list(bits)) if bits else None

    def possible(self, view: View, signs: int) -> list[int]:
        """The patterns whose needs the view meets; `signs` as `_Signs.seen` tells them."""
        seen = signs
        called: set[int] = set()
        if self._words is not None:
            known = self._known
            matches = self._words.find_matches_as_indexes(view.text.lower(), overlapping=True)
            for word in {match[0] for match in matches}:
                bits, callees = known[word]
                seen |= bits
                called.update(callees)
        needed = self._needed
        found = [index for index in called if seen & needed[index] == needed[index]]
        for gate, patterns in self._gated.items():
            if gate & seen == gate:
                found += patterns
        return found
