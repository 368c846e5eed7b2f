"""What a reader or a parser would stumble over in an answer: fences, tables, JSON, endless loops.

Everything here is linear in the text. Unbalanced emphasis or inline code is no finding: it is as
often meant as not.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator

import msgspec

MIN_LOOPS = 8
"""Repeats in a row that no writer makes of a short phrase on purpose."""
MIN_LONG_LOOPS = 5
"""The same for phrases of `LONG_UNIT` characters or more."""
LONG_UNIT = 24
MAX_UNIT = 1_000
"""Longer phrases are not looked for."""
MAX_PROBLEMS = 16

SCORES: dict[str, float] = {
    # Measured as the rules are (training/measure_rules.py): one answer in ten carries the class. Hits
    # are counted on the 28 broken and 26 sound answers of training/handwritten/formatting_issue.jsonl
    # and on the 9,424 benign answers, of which 173 were flagged. By a fence cross-check and samples, those are broken as
    # they stand: 148 sections cut inside a code block, 8 cut inside a table row, 17 answers that loop.
    # No false alarm is left among the other 9,277 sound answers, so the rate is put at the upper end
    # of what that allows, 3 in 9,277.
    "fence-unclosed": 0.98,  # 5 of 28
    "json": 0.99,  # 8 of 28
    "table-header": 0.96,  # 2 of 28
    "table-row": 0.98,  # 4 of 28
    "repetition": 0.97,  # 3 of 28
}


class FormattingProblem(msgspec.Struct, frozen=True):
    """One broken piece of an answer."""

    kind: str
    """Which sort, a key of `SCORES`."""
    note: str
    """Why, in a few words. Never quotes the text."""
    span: tuple[int, int]
    """Half-open range of code points."""


class _Fence(msgspec.Struct, frozen=True):
    """A fenced code block; `end` is the end of its body, `after` that of its closing line."""

    start: int
    body: int
    end: int
    after: int
    info: str
    closed: bool


# A fence as CommonMark has it. It may stand behind a list marker, and deeper inside a list item.
_FENCE = re.compile(
    r"^(?P<indent>[ \t]{0,12}(?:(?:[-*+]|\d{1,9}[.)])[ \t]{1,4})?)(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)$",
    re.MULTILINE,
)


def formatting_problems(text: str) -> list[FormattingProblem]:
    """Broken fences, tables and JSON, and endless repetition, in reading order."""
    fences = _fences(text) if "```" in text or "~~~" in text else []
    found = [
        FormattingProblem(
            "fence-unclosed", "a code block is opened and never closed", (fence.start, len(text))
        )
        for fence in fences
        if not fence.closed
    ]
    found += _json_problems(text, fences)
    if "|" in text and "-" in text:
        found += _table_problems(text, fences)
    loop = _loop(text, fences)
    if loop is not None:
        found.append(FormattingProblem("repetition", "the same words repeat over and over", loop))
    found.sort(key=lambda problem: problem.span)
    return found[:MAX_PROBLEMS]


def _fences(text: str) -> list[_Fence]:
    made: list[_Fence] = []
    opened: re.Match[str] | None = None
    for line in _FENCE.finditer(text):
        mark, info = line["mark"], line["info"].strip()
        if opened is None:
            if "`" not in info if mark[0] == "`" else not _underlines(text, line):
                opened = line
        elif (
            mark[0] == opened["mark"][0]
            and len(mark) >= len(opened["mark"])
            and not info
            and not line["indent"].strip()
        ):
            made.append(_fence(text, opened, line.start(), line.end(), closed=True))
            opened = None
    if opened is not None:
        made.append(_fence(text, opened, len(text), len(text), closed=False))
    return made


def _underlines(text: str, line: re.Match[str]) -> bool:
    """A row of tildes as long as the line above is a heading in reStructuredText."""
    above = text[text.rfind("\n", 0, max(0, line.start() - 1)) + 1 : max(0, line.start() - 1)].strip()
    return bool(above) and not line["info"].strip() and 3 < len(line["mark"]) >= len(above)


def _fence(text: str, opened: re.Match[str], end: int, after: int, *, closed: bool) -> _Fence:
    return _Fence(
        start=opened.start("mark"),
        body=min(opened.end() + 1, len(text)),
        end=end,
        after=after,
        info=opened["info"].strip().lower(),
        closed=closed,
    )


def _fenced(fences: list[_Fence], at: int) -> bool:
    index = bisect_right(fences, at, key=lambda fence: fence.start)
    return index > 0 and at < fences[index - 1].after


# Tables


_ESCAPED = re.compile(r"\\.", re.DOTALL)
_INLINE_CODE = re.compile(r"(?<!`)(`{1,3})(?!`)[^`]{1,200}\1(?!`)")


def _table_problems(text: str, fences: list[_Fence]) -> Iterator[FormattingProblem]:
    lines = text.split("\n")
    starts: list[int] = []
    at = 0
    for line in lines:
        starts.append(at)
        at += len(line) + 1
    index = 1
    while index < len(lines):
        line = lines[index]
        header = lines[index - 1]
        index += 1
        if (
            "|" not in line
            or "-" not in line
            or line.strip(" \t|:-\r")
            or "|" not in header
            or not header.strip(" \t|:-\r")
            or line.startswith(("    ", "\t"))
        ):
            continue
        here = starts[index - 1]
        if _fenced(fences, here):
            continue
        columns = _cells(line)
        if not columns & _cells(header):
            span = (starts[index - 2], starts[index - 1] + len(line))
            yield FormattingProblem("table-header", "a table's rule and its header differ in columns", span)
        while index < len(lines) and "|" in lines[index]:
            row = lines[index]
            cells = _cells(row)
            if not cells & columns and max(cells) > 1 and row.strip(" \t|:-\r"):
                span = (starts[index], starts[index] + len(row))
                yield FormattingProblem("table-row", "a table row differs in columns from its header", span)
            index += 1


def _cells(row: str) -> set[int]:
    """How many cells a row has: as GitHub counts them, and with bars in inline code left out."""
    plain = _ESCAPED.sub("", row) if "\\" in row else row
    counts = {_count(plain)}
    if "`" in plain:
        counts.add(_count(_INLINE_CODE.sub("", plain)))
    return counts


def _count(row: str) -> int:
    row = row.strip()
    return row.count("|") + 1 - row.startswith("|") - (row.endswith("|") and len(row) > 1)


# JSON


_LOOKS_LIKE_JSON = re.compile(
    r'\{\s*"[^"\n]{0,200}"\s*:|\[\s*(?:\{\s*"[^"\n]{0,200}"\s*:|"[^"\n]{0,200}"\s*,)'
)
# Signs of a sketch or a template rather than data: left-out parts, slots, comments.
_SKETCH = re.compile(r"\.\.\.|…|\{\{|\$\{|<[A-Za-z_/]|\{%|//|/\*|(?:^|\s)#|\[\[?[A-Za-z _]+\]", re.MULTILINE)
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r'|(?P<string>"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')'
    r"|(?P<word>[A-Za-z_$][\w$]*|[-+]?(?:0x[0-9a-fA-F]+|Infinity|NaN|\.?\d[\d.eE+-]*))"
    r"|(?P<sign>[\[\]{}:,])",
    re.DOTALL,
)
_BAD_WORDS = frozenset({"True", "False", "None", "undefined"})


def _json_problems(text: str, fences: list[_Fence]) -> Iterator[FormattingProblem]:
    for fence in fences:
        if fence.closed and fence.info.split(" ")[0].strip("{}.") == "json":
            body = text[fence.body : fence.end]
            fault = _json_fault(body)
            if fault is not None:
                yield FormattingProblem("json", fault, (fence.body, fence.end))
    stripped = text.strip()
    if stripped[:1] in {"{", "["} and _LOOKS_LIKE_JSON.match(stripped):
        fault = _json_fault(stripped)
        if fault is not None:
            start = text.index(stripped[0])
            yield FormattingProblem("json", fault, (start, start + len(stripped)))


def _json_fault(body: str) -> str | None:
    """What is wrong with a JSON value, in words; None when it parses or makes no such claim.

    One or more values may follow each other, other text may follow them, and what JSON5 allows
    (comments, bare keys, single quotes, trailing commas) passes.
    """
    body = body.strip()
    if body[:1] not in {"{", "["}:
        return None  # a fragment or a single value
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        fault = _grammar_fault(body)
        return None if fault is None or _SKETCH.search(body) else fault
    return None


_AFTER_ATOM = {"value": "next", "item": "next", "key": "colon"}
_AFTER_OPENING = {"{": "key", "[": "item"}


def _grammar_fault(body: str) -> str | None:
    """How the first value breaks JSON5's grammar, in words, or None.

    What may come next: a `value` after a colon, an `item` of a list or its end, a `key` or the end
    of an object, a `colon`, or the `next` comma or end.
    """
    stack: list[str] = []
    expect = "item"
    at = 0
    while at < len(body):
        token = _TOKEN.match(body, at)
        if token is None:
            return "JSON with a stray character or an unclosed string"
        at = token.end()
        kind, shown = token.lastgroup, token.group()
        if kind == "space":
            continue
        if kind != "sign":
            expect = _AFTER_ATOM.get(expect, "")
            fits = bool(expect) and not (expect == "next" and shown in _BAD_WORDS)
        elif shown in "{[":
            fits = expect in {"value", "item"}
            stack.append(shown)
            expect = _AFTER_OPENING[shown]
        elif shown in "}]":
            fits = expect not in {"value", "colon"} and stack.pop() + shown in {"{}", "[]"}
            if fits and not stack:
                return None
            expect = "next"
        else:
            fits = expect == ("colon" if shown == ":" else "next")
            expect = "value" if shown == ":" else _AFTER_OPENING[stack[-1]]
        if not fits:
            return "JSON that does not parse"
    return "JSON that breaks off before its end"


# Loops


_ANCHORS = 8
_ANCHOR = 32


def _loop(text: str, fences: list[_Fence]) -> tuple[int, int] | None:
    """The range in which one phrase repeats without end, if there is such a range.

    A few stretches of the text are tried; a loop that fills an eighth of it, or its end, is met.
    """
    size = len(text.rstrip())
    if size < MIN_LOOPS * 8:
        return None
    for step in range(_ANCHORS, 0, -1):
        at = size * step // _ANCHORS - _ANCHOR
        if at < 0:
            break
        anchor = text[at : at + _ANCHOR]
        if text.count(anchor) < 2 and step != _ANCHORS:
            continue
        found = _loop_at(text, at, size)
        if found is not None and not _fenced(fences, found[0]):
            return found
    return None


def _loop_at(text: str, at: int, size: int) -> tuple[int, int] | None:
    anchor = text[at : at + _ANCHOR]
    before = text.rfind(anchor, max(0, at - MAX_UNIT), at + _ANCHOR - 1)
    unit = at - before
    if before < 0:
        return None
    block = text[before:at]
    if sum(char.isalpha() for char in block) < 3 or (unit < 4 and not block.isascii()):
        return None
    start = before
    while start >= unit and text[start - unit : start] == block:
        start -= unit
    end = at
    while end < size and text[end] == text[end - unit]:
        end += 1
    loops = (end - start) // unit
    enough = MIN_LONG_LOOPS if unit >= LONG_UNIT else MIN_LOOPS
    return (start, end) if loops >= enough and end - start >= 64 else None
