"""Which rules can match a text: the cheapest way to find out, chosen rule by rule.

Measured on texts that no automaton had seen, 389 rules, 2,000 characters: one set of all patterns
takes 1,400 µs for the median text, because its automaton grows with every text; looking for the words
that each pattern needs and then running 50 patterns one by one takes 1,080 µs; doing the first in
small sets for patterns whose words are everywhere and the second for the others takes 310 µs.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import re2
from ahocorasick_rs import AhoCorasick

from llmobs.detect.tier1_patterns.literals import (
    DIGIT_STEPS,
    LONG_RUN,
    TOKEN_RUN,
    digits_word,
    required_words,
    share_of_texts,
)
from llmobs.detect.tier1_patterns.normalise import View
from llmobs.detect.tier1_patterns.pack import compile_pattern

COMMON = 0.02
"""A rule whose words more texts than this hold is looked for in a set."""
LARGE_COUNT = 8
"""Repetitions from this number on multiply the states of a set; such patterns run alone."""
SET_RULES = 20
SET_MEMORY = 32 << 20
"""Upper bound, in bytes, for the automaton of one set; RE2 fills it as texts need."""

_NOT_DIGITS = bytes(byte for byte in range(256) if byte not in b"0123456789")
_TOKEN_RUN = compile_pattern(TOKEN_RUN)
_COUNTS = re.compile(r"\{(\d+)")


class Prefilter:
    """Tells for a view which of its patterns, by index, are worth running. Never leaves one out that matches."""

    def __init__(self, patterns: Sequence[str]) -> None:
        together: list[int] = []
        alone: list[int] = []
        for index, pattern in enumerate(patterns):
            clauses = required_words(pattern)
            common = not clauses or share_of_texts(clauses[0]) >= COMMON
            counted = any(int(count) >= LARGE_COUNT for count in _COUNTS.findall(pattern))
            (together if common and not counted else alone).append(index)
        chunks = [together[at : at + SET_RULES] for at in range(0, len(together), SET_RULES)]
        self._sets = [(_set_of([patterns[index] for index in chunk]), chunk) for chunk in chunks]
        self._calls = _Calls([(index, patterns[index]) for index in alone])

    def possible(self, view: View) -> list[int]:
        """The patterns that the view may match, in ascending order."""
        found = self._calls.possible(view)
        encoded = view.encoded
        for patterns, chunk in self._sets:
            matched = patterns.Match(encoded)
            if matched:
                found += [chunk[index] for index in matched]
        found.sort()
        return found


class AnyOf:
    """Whether one of several patterns occurs. Only those whose words occur are run.

    Joined into one pattern they would make an automaton that is built anew for every text.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [compile_pattern(pattern) for pattern in patterns]
        self._calls = _Calls(list(enumerate(patterns)))

    def occurs(self, view: View) -> bool:
        """Whether one of them occurs in the view."""
        encoded = view.encoded
        return any(self._patterns[index].search(encoded) is not None for index in self._calls.possible(view))


@lru_cache(maxsize=4096)
def any_of(patterns: tuple[str, ...]) -> AnyOf | None:
    """The patterns of a condition; the same object for the same ones, so that a view is asked once."""
    return AnyOf(patterns) if patterns else None


def _set_of(patterns: Sequence[str]) -> Any:
    options = re2.Options()
    options.max_mem = SET_MEMORY
    options.log_errors = False
    made = re2.Set.SearchSet(options)
    for pattern in patterns:
        made.Add(pattern.encode())
    made.Compile()
    return made


class _Calls:
    """Patterns that are called up by the words that they need."""

    def __init__(self, patterns: Sequence[tuple[int, str]]) -> None:
        self._always: list[int] = []
        self._needed: dict[int, int] = {}
        """For each pattern the bits of its clauses."""
        bits: dict[str, int] = {}
        calls: dict[str, list[int]] = {}
        bit = 1
        for index, pattern in patterns:
            clauses = required_words(pattern)
            needed = 0
            for number, words in enumerate(clauses):
                for word in words:
                    bits[word] = bits.get(word, 0) | bit
                    if number == 0:  # the most telling clause calls the pattern up, the others confirm
                        calls.setdefault(word, []).append(index)
                needed |= bit
                bit <<= 1
            self._needed[index] = needed
            if not clauses:
                self._always.append(index)
        self._run = bits.pop(LONG_RUN, 0), tuple(calls.pop(LONG_RUN, ()))
        self._digits = [
            (step, bits.pop(digits_word(step), 0), tuple(calls.pop(digits_word(step), ())))
            for step in DIGIT_STEPS
        ]
        self._bits = list(bits.values())
        self._calls = [tuple(calls.get(word, ())) for word in bits]
        self._words = AhoCorasick(list(bits)) if bits else None

    def possible(self, view: View) -> list[int]:
        seen = 0
        called: set[int] = set()
        if self._words is not None:
            found = self._words.find_matches_as_indexes(view.text.lower(), overlapping=True)
            for word in {match[0] for match in found}:
                seen |= self._bits[word]
                called.update(self._calls[word])
        if view.mentions(_TOKEN_RUN):
            seen |= self._run[0]
            called.update(self._run[1])
        digits = len(view.encoded.translate(None, _NOT_DIGITS))
        for step, bits, calls in self._digits:
            if digits < step:
                break
            seen |= bits
            called.update(calls)
        needed = self._needed
        return [*(index for index in called if seen & needed[index] == needed[index]), *self._always]
