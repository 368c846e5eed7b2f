"""Text that does not show: invisible, reordering and control characters, and floods of one thing.

Ordinary text pays for one automaton pass; the closer look is linear and only for the few texts in
which that pass finds something. Emoji sequences, flags, and the joiners and marks of Arabic, Hebrew,
Persian and Indic scripts are ordinary text.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import accumulate

import msgspec
import re2

from llmobs.domain.risk import FailureClass

MIN_TAGS = 3
"""Tag characters outside a flag; fewer may be left over from a broken emoji."""
MIN_SELECTORS = 4
"""Variation selectors in a row; a base character takes one."""
MIN_ZERO_WIDTH = 8
"""Zero-width characters in a row."""
MIN_SPLIT_LETTERS = 5
"""Latin letters in a row, each set apart from the next by a zero-width character."""
MIN_CONTROLS = 5
"""Control characters that no text needs."""
FLOOD_CHARS = 1_000
"""Texts up to this length are never a flood."""
FLOOD_SHARE = 0.6
"""Share of a text that one repeated piece fills in a flood; of blanks, `BLANK_SHARE`."""
BLANK_SHARE = 0.9


class GuardFinding(msgspec.Struct, frozen=True):
    """Something that a reader of the text would not see, or not for what it is."""

    failure_class: str
    kind: str
    note: str
    """Why, in a few words. Never quotes the text."""
    span: tuple[int, int]
    """Half-open range of code points."""
    score: float


# Public data hold next to none of these: of 98,597 labelled rows four were hit, two attacks written in
# tag characters and two jailbreaks full of control characters, and none of the 14,477 benign rows. The
# positives in tests/unit/detect/test_guards.py are our own and all caught. A score is therefore put
# together: one text in ten carries the class, one such text in a hundred does it this way, and the
# alarms are as many as 14,477 rows without one allow, 3 in 14,477. That gives
# 0.001 / (0.001 + 0.9 * 3 / 14477) = 0.84. By judgement, what has no use but to hide stands above
# that figure, and what honest terminal logs hold stands below it.
_SCORES = {
    "tags": 0.95,
    "selectors": 0.9,
    "zero-width": 0.84,
    "split-letters": 0.84,
    "bidi": 0.84,
    "controls": 0.84,
    "terminal-conceal": 0.84,
    "terminal-clipboard": 0.95,
    "terminal-link": 0.65,
    "terminal-cursor": 0.65,
    "flood": 0.84,
}

_INVISIBLE = (
    r"[\x{200b}-\x{200f}\x{2060}-\x{2064}\x{feff}\x{ad}]{2}"
    r"|[A-Za-z][\x{200b}-\x{200f}\x{2060}-\x{2064}\x{feff}\x{ad}][A-Za-z]"
    r"|[\x{202a}-\x{202e}\x{2066}-\x{2069}]"  # bidi embeddings, overrides, isolates
    r"|[\x{fe00}-\x{fe0f}]{2}|[\x{e0000}-\x{e007f}]|[\x{e0100}-\x{e01ef}]{2}"
)
_CONTROLS = r"[\x00-\x08\x0b\x0e-\x1f\x7f]|[\x{80}-\x{84}\x{86}-\x{9f}]"


def _quick(pattern: str) -> re2.Set:
    # A set of one answers yes or no with less ado than a search does.
    options = re2.Options()
    options.log_errors = False
    made = re2.Set.SearchSet(options)
    made.Add(pattern)
    made.Compile()
    return made


_SUSPICIOUS = _quick(f"{_INVISIBLE}|{_CONTROLS}")
# Bytes that neither are control characters nor begin one of the above in UTF-8.
_HARMLESS = bytes(set(range(256)) - {*range(9), 11, *range(14, 32), 127, 0xC2, 0xE2, 0xEF, 0xF3})


def guard_findings(text: str) -> list[GuardFinding]:
    """Everything that the guards see, in reading order; mostly nothing."""
    encoded = text.encode("utf-8", "surrogatepass")
    odd = bool(encoded.translate(None, _HARMLESS)) and bool(_SUSPICIOUS.Match(encoded))
    found: list[GuardFinding] = []
    if odd:
        found += _hidden(text)
        found += _bidi(text)
        found += _controls(text)
    if len(text) > FLOOD_CHARS:
        found += _flood(text)
    found.sort(key=lambda finding: finding.span)
    return found


def _finding(kind: str, note: str, span: tuple[int, int]) -> GuardFinding:
    name = FailureClass.PROMPT_INJECTION
    if kind.startswith("terminal"):
        name = FailureClass.SECURITY_ATTACK
    elif kind in {"controls", "flood"}:
        name = FailureClass.FORMATTING_ISSUE
    return GuardFinding(name, kind, note, span, _SCORES[kind])


# Hidden characters


def _tagged(region: str) -> str:
    return "".join(chr(0xE0000 + ord(char)) for char in region)


# Flags of regions are a black flag, the region in tag letters, and an end tag. Only those drawn by
# some font pass, so that no row of made-up flags carries a message.
_REGIONS = ("gbeng", "gbsct", "gbwls", "gbnir", "usca", "ustx", "caqc", "esct", "frbre")
_FLAG = re.compile("\U0001f3f4(?:" + "|".join(map(_tagged, _REGIONS)) + ")\U000e007f")
_TAGS = re.compile("[\U000e0000-\U000e007f]+")
_SELECTORS = re.compile(f"[\ufe00-\ufe0f\U000e0100-\U000e01ef]{{{MIN_SELECTORS},}}")
_ZERO = "\u200b-\u200f\u2060-\u2064\ufeff\u00ad"
_ZERO_RUN = re.compile(f"[{_ZERO}]{{{MIN_ZERO_WIDTH},}}")
_SPLIT = re.compile(f"[A-Za-z](?:[{_ZERO}]+[A-Za-z]){{{MIN_SPLIT_LETTERS - 1},}}")


def _hidden(text: str) -> Iterator[GuardFinding]:
    runs = list(_TAGS.finditer(_FLAG.sub(lambda flag: " " * len(flag.group()), text)))
    if sum(run.end() - run.start() for run in runs) >= MIN_TAGS:
        spelt = "".join(chr(ord(char) - 0xE0000) for run in runs for char in run.group())
        letters = sum(char.isalnum() for char in spelt)
        span = (runs[0].start(), runs[-1].end())
        yield _finding("tags", f"invisible tag characters spell {letters} hidden letters", span)
    for kind, note, pattern in (
        ("selectors", "a run of variation selectors carries hidden data", _SELECTORS),
        ("zero-width", "a run of zero-width characters carries hidden data", _ZERO_RUN),
        ("split-letters", "zero-width characters stand between the letters of words", _SPLIT),
    ):
        first = pattern.search(text)
        if first is not None:
            yield _finding(kind, note, first.span())


# Writing direction


_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_LEFT_OVERRIDE, _RIGHT_OVERRIDE = "\u202d", "\u202e"
_RIGHT_TO_LEFT = "\u202b\u2067"
_CLOSING = "\u202c\u2069"


def _bidi(text: str) -> Iterator[GuardFinding]:
    mark = _BIDI.search(text)
    while mark is not None:
        start = text.rfind("\n", 0, mark.start()) + 1
        end = text.find("\n", mark.start())
        end = len(text) if end < 0 else end
        trick = _bidi_trick(text[start:end])
        if trick is not None:
            note = "direction marks show the text in another order than it is read"
            yield _finding("bidi", note, (start + trick[0], start + trick[1]))
            return
        mark = _BIDI.search(text, end)


def _bidi_trick(line: str) -> tuple[int, int] | None:
    """A stretch whose letters an override turns round, or left-to-right text turned and left so."""
    sides = [unicodedata.bidirectional(char) for char in line]
    left = list(accumulate((side == "L" for side in sides), initial=0))
    right = list(accumulate((side in {"R", "AL"} for side in sides), initial=0))

    def tricks(opening: str, start: int, end: int) -> bool:
        if opening == _LEFT_OVERRIDE:
            return right[end] - right[start] > 1
        return opening == _RIGHT_OVERRIDE and left[end] - left[start] > 1

    opened: list[tuple[str, int]] = []
    for mark in _BIDI.finditer(line):
        if mark.group() not in _CLOSING:
            opened.append((mark.group(), mark.start()))
        elif opened:
            opening, start = opened.pop()
            if tricks(opening, start, mark.end()):
                return start, mark.end()
    for opening, start in opened:
        if tricks(opening, start, len(line)) or (opening in _RIGHT_TO_LEFT and not right[-1]):
            return start, len(line)
    return None


# Control characters


_TERMINAL = re.compile(
    r"(?:\x1b\[|\x9b)(?P<args>[0-9;:?]*)[ -/]*(?P<final>[@-~])"
    r"|(?:\x1b\]|\x9d)(?P<system>\d{1,4});(?P<rest>[^\x07\x1b\x9c]*)(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f]")
_CURSOR = frozenset("ABCDEFGHfdSTJ")


def _controls(text: str) -> Iterator[GuardFinding]:
    if "\x1b" in text or "\x9b" in text or "\x9d" in text:
        seen: set[str] = set()
        for sequence in _TERMINAL.finditer(text):
            told = _terminal(sequence)
            if told is not None and told[0] not in seen:
                seen.add(told[0])
                yield _finding(*told, sequence.span())
        text = _TERMINAL.sub(lambda sequence: " " * len(sequence.group()), text)
    controls = list(_CONTROL.finditer(text))
    if len(controls) >= MIN_CONTROLS:
        span = (controls[0].start(), controls[-1].end())
        yield _finding("controls", f"{len(controls)} control characters", span)


def _terminal(sequence: re.Match[str]) -> tuple[str, str] | None:
    """What a terminal escape hides, as kind and note; None for colours and the like."""
    if sequence["system"] == "52":
        return "terminal-clipboard", "a terminal escape writes to the clipboard"
    if sequence["system"] == "8":
        return ("terminal-link", "a terminal escape hides a link") if len(sequence["rest"]) > 1 else None
    final = sequence["final"]
    if final == "m" and _conceals(sequence["args"]):
        return "terminal-conceal", "a terminal escape conceals text"
    if final in _CURSOR:
        return "terminal-cursor", "a terminal escape moves the cursor or erases text"
    return None


def _conceals(args: str) -> bool:
    """Whether a colour sequence sets attribute 8, which is not the 8 of a colour number."""
    codes = iter(args.replace(":", ";").split(";"))
    for code in codes:
        if code in {"38", "48", "58"}:
            for _ in range({"5": 1, "2": 3}.get(next(codes, ""), 0)):
                next(codes, None)
        elif code.lstrip("0") == "8":
            return True
    return False


# Floods


_SAMPLE = 24


def _flood(text: str) -> Iterator[GuardFinding]:
    """One character or short phrase over most of the text; three places are tried."""
    size = len(text)
    for place in (size // 4, size // 2, size * 3 // 4):
        sample = text[place : place + _SAMPLE]
        again = text.find(sample, place + 1, place + 2 * _SAMPLE)
        if again < 0:
            continue
        unit = again - place
        width = -(-_SAMPLE // unit) * unit  # counts do not overlap: they step by whole units
        share = text.count(sample) * width / size
        blank = not sample.strip() or 0 < sum(char.isalnum() for char in sample) < _SAMPLE // 2
        if share >= (BLANK_SHARE if blank else FLOOD_SHARE):
            first, last = text.find(sample), text.rfind(sample)
            yield _finding("flood", "one short piece repeats over most of the text", (first, last + _SAMPLE))
            return
