"""What a text must contain for a pattern to match at all.

A set of all patterns in one automaton looks fast on texts that it has seen, but on new ones it builds
states without end: 186 of our rules took 1.4 ms a text. Most patterns cannot match unless one of a
few words occurs, so those words are looked for first, in one pass, and only the rules whose words
occur are run. The idea is that of Cox's prefilter in RE2 (re2/prefilter.cc) and of the keywords in
gitleaks; the sets are derived from the patterns, so that no author can forget one.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files
from itertools import product

import msgspec

LEAST = 3
"""Bytes: shorter words that nobody counted are taken to occur everywhere."""
USELESS = 0.9
"""Words that this share of texts holds are not worth looking for."""
MOST_WORDS = 400
"""Alternatives that one pattern may need."""
MOST_CLAUSES = 4
COMMON_WORD = 0.05
RARE = 0.002
"""What a word counts for that ordinary texts hardly hold."""
MOST_PRODUCT = 64
"""Spellings followed through a sequence before it is split."""

Words = frozenset[str]
Clauses = tuple[Words, ...]
"""A match holds a word of each of these sets."""

LONG_RUN = "\0long run"
"""Stands among words for a run of LONG token characters, as keys and hashes have them."""
LONG = 16
TOKEN_RUN = rf"[A-Za-z0-9_.~%+/=:\-]{{{LONG}}}"

DIGIT_STEPS = (1, 3, 4, 5, 6, 7, 8, 9, 12)
"""How many digits a text holds, at least, is a word as well: `\\0digits 4`."""


DENSE_STEPS = (2, 3, 4, 5, 6, 7, 8, 9, 12, 15)
"""The same for digits with nothing but SEPARATORS between them, as numbers of telephones and cards have them: ordinary
texts hold twelve digits more than fifty times as often as twelve of these."""
SEPARATORS = frozenset(" \t\n\r\f\v.-()/+")
"""Beside these, whatever is not ASCII."""


def digits_word(count: int) -> str:
    """What stands among words for at least `count` digits in the text."""
    return f"\0digits {count}"


def dense_word(count: int) -> str:
    """What stands among words for at least `count` digits with nothing but separators between them."""
    return f"\0dense {count}"


_SIGNS = (
    dict.fromkeys("@^~\\\\", 0.05)
    | dict.fromkeys("<|${}%&", 0.15)
    | dict.fromkeys("`;=>#*+[]!", 0.3)
    | dict.fromkeys("\"'()/:?_", 0.4)
    | dict.fromkeys("\u2018\u2019\u201c\u201d\u2032\xb4", 0.1)
)
_DENSE_SHARES = (0.42, 0.28, 0.19, 0.07, 0.042, 0.026, 0.02, 0.011, 0.004, 0.002)
"""Of 3,418 harmless texts in the data folder."""
_PSEUDO = (
    _SIGNS
    | {LONG_RUN: 0.3}
    | {digits_word(n): 0.6 / (n + 1) + 0.2 for n in DIGIT_STEPS}
    | {dense_word(n): share for n, share in zip(DENSE_STEPS, _DENSE_SHARES, strict=True)}
)
"""Rough shares of ordinary texts, to rank these beside real words."""

SIGNS: Words = frozenset(_SIGNS)
"""Signs that are told without a search, so that it pays to ask for them however common they are."""

_EMPTY: Words = frozenset({""})
_NO_WORDS: Words = frozenset()


class _Part(msgspec.Struct, frozen=True):
    exact: Words | None
    """All that the part can match, when that is a small finite set."""
    needed: Clauses = ()
    """Whatever the part matches holds a word of each."""
    digits: int = 0
    """Digits that a match holds at least."""
    token: bool = False
    """The part is one character of a token: letter, digit or one of `_.~%+/=:-`."""
    pure: bool = False
    """The part matches nothing but digits and separators."""
    dense: int = 0
    """Digits that a match holds at least with nothing but separators between them; of a pure part, all of them."""
    at_start: bool = False
    """The part matches at the start of the text only."""


_ANYTHING = _Part(None)
_NOTHING = _Part(_EMPTY, pure=True)
_START = _Part(_EMPTY, pure=True, at_start=True)


class _Unsupported(Exception):
    """The pattern holds something that this parser does not know; nothing is claimed then."""


class Needs(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a pattern, as NEEDS keeps it."""

    at_start: bool
    words: Clauses


NEEDS = "needs.json"
"""Beside the packs: the needs of their patterns, derived beforehand, for to derive them takes a third of a second of
every start. Made by training/needs.py; a test derives them again. Other patterns are looked at when they come."""


@lru_cache(maxsize=4096)
def required_words(pattern: str) -> Clauses:
    """Sets of lower-case words: every match holds a word of each set. The most telling set first.

    Empty when nothing is known.
    """
    return (_kept().get(pattern) or derived(pattern)).words


def at_start_only(pattern: str) -> bool:
    """Whether the pattern can match at the start of a text only, so that trying it elsewhere ends at once."""
    return (_kept().get(pattern) or derived(pattern)).at_start


@lru_cache(maxsize=4096)
def derived(pattern: str) -> Needs:
    """What the pattern itself says."""
    part = _parsed(pattern)
    return Needs(False, ()) if part is None else Needs(part.at_start, _clauses(part))


@cache
def _kept() -> dict[str, Needs]:
    return msgspec.json.decode(
        (files("llmobs") / "data" / "rules" / NEEDS).read_bytes(), type=dict[str, Needs]
    )


def _parsed(pattern: str) -> _Part | None:
    try:
        return _Parser(pattern).parse()
    except (_Unsupported, IndexError, ValueError):
        return None


def _clauses(part: _Part) -> Clauses:
    """The most telling sets among what is needed and what is exactly known."""
    known = {*part.needed, *(() if part.exact is None else (part.exact,))}
    step = max((step for step in DIGIT_STEPS if step <= part.digits), default=0)
    if step:
        known.add(frozenset({digits_word(step)}))
    dense = max((step for step in DENSE_STEPS if step <= part.dense), default=0)
    if dense:
        known.add(frozenset({dense_word(dense)}))
    telling = {
        words if share_of_texts(words) < USELESS else _signs_of(words)
        for words in known
        if words and "" not in words and len(words) <= MOST_WORDS
    } - {_NO_WORDS}
    return tuple(telling if len(telling) < 2 else sorted(telling, key=_rank)[:MOST_CLAUSES])


def _signs_of(words: Words) -> Words:
    """The rarest sign of each word, or the word itself when it is rare; empty when one is neither.

    A weaker set than the words, but signs are told at next to no cost.
    """
    found = set()
    for word in words:
        sign = min((char for char in word if char in SIGNS), key=_SIGNS.__getitem__, default=None)
        if sign is None and _share_of(word) > COMMON_WORD:
            return _NO_WORDS
        found.add(sign or word)
    return frozenset(found)


def share_of_texts(words: Words) -> float:
    """How many ordinary texts hold one of the words, about."""
    return sum(_share_of(word) for word in words)


@lru_cache(maxsize=65_536)
def _share_of(word: str) -> float:
    known = _PSEUDO.get(word) or _frequencies().get(word)
    if known is not None:
        return known
    signs = [_SIGNS[char] for char in word if char in _SIGNS]
    if signs and len(word) < LEAST:
        return min(signs)
    return RARE if len(word.encode()) >= LEAST else (1.0 if word.isascii() else COMMON_WORD)


def _rank(words: Words) -> tuple[float, list[str]]:
    return (share_of_texts(words), sorted(words))


@cache
def _frequencies() -> dict[str, float]:
    """Share of ordinary texts that hold a word; made by training/word_frequencies.py."""
    found: dict[str, float] = msgspec.json.decode(
        (files("llmobs") / "data" / "rules" / "word_frequencies.json").read_bytes()
    )
    return found


class _Parser:
    """Recursive descent over RE2 syntax, computing what is needed instead of a tree."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._by_lines = _BY_LINES.search(pattern) is not None

    def parse(self) -> _Part:
        found = self._alternatives()
        if self._at != len(self._pattern):
            raise _Unsupported
        return found

    def _peek(self, text: str) -> bool:
        return self._pattern.startswith(text, self._at)

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._pattern, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _alternatives(self) -> _Part:
        branches = [self._sequence()]
        while self._peek("|"):
            self._at += 1
            branches.append(self._sequence())
        if len(branches) == 1:
            return branches[0]
        exact: Words | None = None
        if all(branch.exact is not None for branch in branches):
            union = frozenset(word for branch in branches for word in branch.exact or ())
            exact = union if len(union) <= MOST_WORDS else None
        clauses = [_clauses(branch) for branch in branches]
        return _Part(
            exact,
            (frozenset(word for found in clauses for word in found[0]),) if all(clauses) else (),
            digits=min(branch.digits for branch in branches),
            pure=all(branch.pure for branch in branches),
            dense=min(branch.dense for branch in branches),
            at_start=all(branch.at_start for branch in branches),
        )

    def _sequence(self) -> _Part:
        plain = self._take(_BRANCH)
        if plain is not None:  # as most branches are; they need no more
            return _words(plain.group())
        running: Words = _EMPTY
        whole = pure = True
        needed: list[Words] = []
        digits = dense = stretch = 0
        at_start: bool | None = None
        for part in self._parts():
            if at_start is None and part != _NOTHING:
                at_start = part.at_start
            digits += part.digits
            if part.pure:
                stretch += part.digits
                dense = max(dense, stretch)
            else:
                pure, stretch = False, 0
                dense = max(dense, part.dense)
            if part.exact is not None and len(running) * len(part.exact) <= MOST_PRODUCT:
                running = frozenset(a + b for a, b in product(running, part.exact))
                continue
            whole = False
            needed += [running, *part.needed]
            running = _EMPTY if part.exact is None else part.exact
        return _Part(
            running if whole else None,
            (*needed, running),
            digits,
            pure=pure,
            dense=dense,
            at_start=bool(at_start),
        )

    def _parts(self) -> Iterator[_Part]:
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            run = self._take(_RUN)
            yield self._repeated(self._atom()) if run is None else _words(run.group())

    def _repeated(self, part: _Part) -> _Part:
        counts = self._take(_QUANTIFIER)
        if counts is None:
            return part
        sign, least, most = counts["sign"], counts["least"], counts["most"]
        low = {"*": 0, "+": 1, "?": 0}.get(sign or "", int(least or 0))
        high = {"?": 1}.get(sign or "") if sign else (low if counts["comma"] is None else int(most or -1))
        if low == high == 1:
            return part
        if high == 1 and part.exact is not None:
            return _Part(part.exact | _EMPTY, pure=part.pure)
        if low == 0:
            return _Part(None, pure=part.pure)
        digits = part.digits * low
        dense = digits if part.pure else part.dense
        if part.token and low >= LONG:
            return _Part(None, (frozenset({LONG_RUN}),), digits, pure=part.pure, dense=dense)
        return _Part(
            None,
            part.needed if part.exact is None else (*part.needed, part.exact),
            digits,
            pure=part.pure,
            dense=dense,
            at_start=part.at_start,
        )

    def _atom(self) -> _Part:
        char = self._pattern[self._at]
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == "\\":
            return self._escape()
        self._at += 1
        if char == ".":
            return _ANYTHING
        if char in "^$":
            return _START if char == "^" and not self._by_lines else _NOTHING
        if char in "*+?" or (char == "{" and _QUANTIFIER.match(self._pattern, self._at - 1)):
            raise _Unsupported
        return _word(char)

    def _group(self) -> _Part:
        flags = self._take(_FLAGS)
        if flags is not None:
            if flags["colon"] is None:
                return _NOTHING
        elif self._take(_NAMED) is None and self._take(_PLAIN) is None:
            raise _Unsupported
        found = self._alternatives()
        if not self._peek(")"):
            raise _Unsupported
        self._at += 1
        return found

    def _class(self) -> _Part:
        members = self._take(_SMALL_CLASS)
        if members is not None:
            return _of_chars(frozenset(member.lower() for member in members[1]))
        members = self._take(_SIGN_CLASS)
        if members is not None:
            return _of_chars(frozenset(_plain(member) for member in _MEMBER.findall(members[1])))
        found = self._take(_ANY_CLASS)
        if found is None:
            raise _Unsupported
        digit = _DIGIT_CLASS.fullmatch(found.group()) is not None
        return _Part(
            None,
            digits=int(digit),
            token=_TOKEN_CLASS.fullmatch(found.group()) is not None,
            pure=digit or _PURE_CLASS.fullmatch(found.group()) is not None,
            dense=int(digit),
        )

    def _escape(self) -> _Part:
        if self._take(_EDGE):
            return _NOTHING
        kind = self._take(_KIND)
        if kind is not None:
            digit = kind.group() == r"\d"
            return _Part(None, digits=int(digit), pure=digit or kind.group() == r"\s", dense=int(digit))
        code = self._take(_CODE)
        if code is not None:
            return _word(chr(int(code[1] or code[2], 16)))
        plain = self._take(_PLAIN_ESCAPE)
        if plain is None:
            raise _Unsupported
        return _word({"n": "\n", "t": "\t", "r": "\r"}.get(plain[1], plain[1]))


@lru_cache(maxsize=1024)
def _word(char: str) -> _Part:
    return msgspec.structs.replace(
        _of_chars(frozenset({char.lower()})), token=_TOKEN.fullmatch(char) is not None
    )


def _of_chars(chars: Words) -> _Part:
    """One of a few characters."""
    digits = int(all(char.isdecimal() and char.isascii() for char in chars))
    return _Part(chars, digits=digits, pure=all(map(_is_pure, chars)), dense=digits)


def _is_pure(char: str) -> bool:
    # Letters beyond ASCII are not: some match an ASCII letter where case does not matter.
    if char.isascii():
        return char in SEPARATORS or char.isdecimal()
    return not char.isalpha()


def _words(run: str) -> _Part:
    """Plain characters that follow one another; each by itself is lowered, as in a class."""
    digits = sum(run.count(digit) for digit in "0123456789")
    pure = all(map(_is_pure, run))
    return _Part(
        frozenset({run.lower() if run.isascii() else "".join(map(str.lower, run))}),
        digits=digits,
        pure=pure,
        dense=digits if pure else min(digits, 1),
    )


def _plain(member: str) -> str:
    """The character that a member of a class stands for."""
    if member.startswith("\\x"):
        return chr(int(member[3:-1], 16)).lower()
    return member.removeprefix("\\") or member


_QUANTIFIER = re.compile(r"(?:(?P<sign>[*+?])|\{(?P<least>\d+)(?P<comma>,)?(?P<most>\d+)?\})\??")
_RUN = re.compile(r"[^\\\[\](){}|.*+?^$]{2,}(?![*+?{])")
"""More than one plain character, none of them repeated."""
_BRANCH = re.compile(r"[^\\\[\](){}|.*+?^$]{2,}(?=[|)])")
"""The same up to where a branch ends."""
_FLAGS = re.compile(r"\(\?[imsU]*(?:-[imsU]+)?(?:(?P<colon>:)|\))")
_NAMED = re.compile(r"\(\?P?<\w+>")
_PLAIN = re.compile(r"\((?!\?)")
_SMALL_CLASS = re.compile(r"\[([^\]\[\\^-]{1,8})\]")
_SIGN_CLASS = re.compile(r"\[((?:\\x\{[0-9A-Fa-f]+\}|\\[^\w\s]|[^\w\s\]\[\\^-]){1,16})\]")
_MEMBER = re.compile(r"\\x\{[0-9A-Fa-f]+\}|\\?.")
_ANY_CLASS = re.compile(
    r"\[\^?\]?(?:\[:\^?\w+:\]|\\p\{\^?\w+\}|\\x\{[0-9A-Fa-f]+\}|\\.|[^\]\\])*\]", re.DOTALL
)
_TOKEN_CLASS = re.compile(r"\[(?:[A-Za-z0-9]-[A-Za-z0-9]|\\[wd]|\\[.+/=:-]|[A-Za-z0-9_.~%+/=:]|-(?=\]))+\]")
_TOKEN = re.compile(r"[A-Za-z0-9_.~%+/=:-]")
_DIGIT_CLASS = re.compile(r"\[(?:[0-9]-[0-9]|[0-9]|\\d)+\]")
_PURE_CLASS = re.compile(r"\[(?:(?<=\[)-|[0-9]-[0-9]|[0-9 .()/+]|\\[ds.()/+tnr -]|-(?=\]))+\]")
_BY_LINES = re.compile(r"\(\?[isU]*m")
_EDGE = re.compile(r"\\[bBAz]")
_KIND = re.compile(r"\\(?:[dDwWsSC]|[pP](?:\{\^?\w+\}|[A-Z]))")
_CODE = re.compile(r"\\x(?:\{([0-9A-Fa-f]+)\}|([0-9A-Fa-f]{2}))")
_PLAIN_ESCAPE = re.compile(r"\\([^A-Za-z0-9]|[ntr])")
