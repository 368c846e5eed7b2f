"""The same text seen through the disguises attackers use, with a way back to what was received.

A view holds a rewritten text and the pieces that map it back. Views are made only when one set
pass over the raw text finds something to undo, so ordinary text pays for one pass.

Views: `folded` (compatibility forms, invisible and bidi characters, combining marks, look-alike
letters), `leet` (digits and signs read as letters, on top of `folded`), `spaced` (letters set
apart by blanks or dots drawn together), `unescaped` (percent, HTML entity and backslash escapes,
one level), `decoded` (base64 and hex runs that hold text, one level). A text that is both folded and
escaped has one view for the two, `folded+unescaped`, which shows what a view for each would not.
"""

import base64
import binascii
import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import msgspec
import re2

from llmobs.detect.tier1_patterns.shape import Shape
from llmobs.domain.subject import Span

VIEWS = ("raw", "folded", "leet", "spaced", "unescaped", "decoded")


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Where a stretch of a view comes from."""

    at: int
    """First code point of the stretch in the view."""
    start: int
    """Half-open source range of the stretch."""
    end: int
    copied: bool
    """True when the stretch is the source, letter by letter; else it maps as a whole."""


class Condition(Protocol):
    """Something that a view may say."""

    def occurs(self, view: "View") -> bool:
        """Whether the view says it."""


class View:
    """A rewritten text and its way back. `View("raw", text)` is the text itself."""

    __slots__ = (
        "_encoded",
        "_known",
        "_make_pieces",
        "_pieces",
        "_shape",
        "_source",
        "checked",
        "name",
        "text",
    )

    def __init__(
        self,
        name: str,
        text: str,
        make_pieces: Callable[[], list[Piece]] | None = None,
        source: "View | None" = None,
    ) -> None:
        """`source` is the view that the pieces come from, where that is not the text itself."""
        self.name = name
        self.text = text
        self._make_pieces = make_pieces
        self._source = source
        self._pieces: list[Piece] | None = None
        self._encoded: bytes | None = None
        self.checked: dict[Any, bool] = {}
        """Checks by the values that were put to them: the views of a text share most of their values."""
        self._known: dict[Any, bool] = {}
        self._shape: Shape | None = None

    @property
    def encoded(self) -> bytes:
        """The view in UTF-8, as the pattern engine reads it."""
        if self._encoded is None:
            self._encoded = self.text.encode()
        return self._encoded

    @property
    def shape(self) -> Shape:
        """The words and lines of the view, found when first asked for."""
        if self._shape is None:
            self._shape = Shape(self.text)
        return self._shape

    def mentions(self, search: Callable[[bytes], Any]) -> bool:
        """Whether a search finds something; looked for once."""
        found = self._known.get(search)
        if found is None:
            found = self._known[search] = search(self.encoded) is not None
        return found

    def fulfils(self, condition: Condition) -> bool:
        """Whether a condition holds; tried once, for many rules share their conditions."""
        found = self._known.get(condition)
        if found is None:
            found = self._known[condition] = condition.occurs(self)
        return found

    def span(self, start: int, end: int) -> Span:
        """The source range behind a half-open range of this view."""
        if self._make_pieces is None:
            return Span(start, end)
        if self._pieces is None:
            self._pieces = self._make_pieces()
        first = self._piece_at(start)
        last = self._piece_at(max(start, end - 1))
        begun = first.start + (start - first.at) if first.copied else first.start
        ended = last.start + (end - last.at) if last.copied else last.end
        if ended < begun:  # what was decoded in different ways does not stand in the text's order
            begun, ended = min(first.start, last.start), max(first.end, last.end)
        return Span(begun, ended) if self._source is None else self._source.span(begun, ended)

    def rewritten(self, name: str, text: str) -> "View":
        """Another view of the same length, letter for letter: the way back is the same."""
        return View(name, text, self._make_pieces, self._source)

    def _piece_at(self, position: int) -> Piece:
        pieces = self._pieces or [Piece(0, 0, 0, copied=True)]
        return pieces[max(0, bisect_right(pieces, position, key=lambda piece: piece.at) - 1)]


_LOOK_ALIKES = {
    # Cyrillic, Greek, Armenian and Latin-extension letters drawn like a basic Latin letter. A choice
    # from Unicode's confusables table (UTS 39), kept to those seen in obfuscated prompts.
    "a": "аɑαΑА",
    "b": "ЬВβΒƅ",
    "c": "сСϲϹ",
    "d": "ԁɗ",
    "e": "еЕεΕҽё",
    "f": "ƒϝ",
    "g": "ɡց",
    "h": "һНΗհ",
    "i": "іІιΙıɩ",
    "j": "јЈϳ",
    "k": "кКκΚ",
    "l": "ӏⅼ",
    "m": "мМΜ",
    "n": "ոηпΝ",
    "o": "оОοΟσօ",
    "p": "рРρΡ",
    "q": "ԛգ",
    "r": "гɾ",
    "s": "ѕЅʂ",
    "t": "тТτΤ",
    "u": "υսʋ",
    "v": "νѵ",
    "w": "ԝωшѡ",
    "x": "хХχΧ",
    "y": "уУγΥү",
    "z": "ᴢΖʐ",
}


class _Folding(dict[int, str]):
    """Code point -> what it reads as; filled on first sight of each."""

    def __missing__(self, code: int) -> str:
        folded = _fold(code)
        if len(self) < 70_000:  # every look-alike, mark and compatibility form, with room to spare
            self[code] = folded
        return folded


def _fold(code: int) -> str:
    char = chr(code)
    if 0xE0020 <= code <= 0xE007E:  # tag characters: an invisible copy of ASCII
        return chr(code - 0xE0000)
    category = unicodedata.category(char)
    if category in {"Cf", "Mn", "Me"} or 0xFE00 <= code <= 0xFE0F:
        return ""
    parts = unicodedata.normalize("NFKD", char)
    if len(parts) > 1 or parts != char:
        return "".join(
            _FOLDING[ord(part)] for part in parts if unicodedata.category(part) not in {"Mn", "Me"}
        )
    return char


_FOLDING = _Folding({code: chr(code) for code in range(128)})
_FOLDING.update({ord(like): letter for letter, alikes in _LOOK_ALIKES.items() for like in alikes})

# On UTF-8 bytes: a table of single bytes is thirty times faster than str.translate on text that is
# not ASCII, and an ASCII byte never is a part of another character.
_LEET = bytes.maketrans(b"013457@$!|", b"oieastasil")

_TRIGGERS = {
    "folded": (
        r"[\x{ad}\x{180e}\x{200b}-\x{200f}\x{202a}-\x{202e}\x{2060}-\x{2069}\x{feff}\x{e0000}-\x{e01ef}]"
        r"|[\x{ff01}-\x{ff5e}\x{1d400}-\x{1d7ff}\x{2460}-\x{24ff}\x{1f110}-\x{1f1e5}\x{2100}-\x{214f}]"
        r"|[\x{1d00}-\x{1dbf}\x{2070}-\x{209c}\x{250}-\x{2af}]"
        r"|[A-Za-z][\p{Cyrillic}\p{Greek}\p{Armenian}]|[\p{Cyrillic}\p{Greek}\p{Armenian}][A-Za-z]"
        r"|[A-Za-z]\p{Mn}|(?:[\x{c0}-\x{24f}][A-Za-z]?){3}"
    ),
    "leet": r"[A-Za-z][013457@$!|]{1,2}[A-Za-z]|\b[134570@$][A-Za-z]{2}",
    "spaced": r"(?:\b[A-Za-z][ ._*\-]{1,3}){5}",
    "unescaped": (
        r"%[0-9A-Fa-f]{2}|&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});"
        r"|\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\})"
    ),
    "decoded": r"[A-Za-z0-9+/_\-]{20}|(?:[0-9A-Fa-f]{2}[ :]){11}",
}
_TRIGGER_NAMES = tuple(_TRIGGERS)


def _trigger_set() -> re2.Set:
    options = re2.Options()
    options.max_mem = 16 << 20
    made = re2.Set.SearchSet(options)
    for pattern in _TRIGGERS.values():
        made.Add(pattern)
    made.Compile()
    return made


_TRIGGER_SET = _trigger_set()
_triggers = _TRIGGER_SET._set.Match  # noqa: SLF001  # the wrapper around it costs as much as the pass

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_ESCAPES = re.compile(
    r"(?:%[0-9A-Fa-f]{2})+"
    r"|&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});"
    r"|(?:\\x[0-9A-Fa-f]{2})+|(?:\\u[0-9A-Fa-f]{4})+|\\u\{[0-9A-Fa-f]{1,6}\}"
)
_SPACED = re.compile(r"\b[A-Za-z](?:([ ._*\-])[A-Za-z]\b)(?:\1{1,3}[A-Za-z]\b){2,}")
# RE2 takes the longest run at its first place and goes on behind it, so this is linear; Python's
# engine needs ten times as long.
_BASE64 = re2.compile(rb"[A-Za-z0-9+/_\-]{20,}={0,2}")
_next_base64 = _BASE64._regexp.Match  # noqa: SLF001  # the wrapper's `finditer` costs as much as the pass
_ANYWHERE = re2._Anchor.UNANCHORED  # noqa: SLF001
_HEX = re2.compile(r"(?:[0-9A-Fa-f]{2}){12,}|(?:[0-9A-Fa-f]{2}[ :]){11,}[0-9A-Fa-f]{2}")


def disguises(raw: View) -> list[View]:
    """The views other than `raw` that say something new about the text."""
    found = _triggers(raw.encoded)
    if not found:
        return []
    names = {_TRIGGER_NAMES[index] for index in found}
    views: list[View] = []
    plain = raw
    unescaped = _unescaped(raw.text) if "unescaped" in names else None
    if unescaped is not None:
        # Escapes may hold look-alike letters, and may stand among them.
        plain = unescaped if unescaped.text.isascii() else _folded(unescaped, "folded+unescaped")
        if plain.text == unescaped.text and "folded" not in names:
            plain = unescaped
        views.append(plain)
    elif "folded" in names:
        plain = _folded(raw, "folded")
        views.append(plain)
    if "leet" in names or (plain.name.startswith("folded") and plain.text != raw.text):
        leet = plain.encoded.translate(_LEET)
        if leet != plain.encoded:
            views.append(plain.rewritten("leet", leet.decode()))
    if "spaced" in names and (spaced := _spaced(raw.text)) is not None:
        views.append(spaced)
    if "decoded" in names and (decoded := _decoded(raw)) is not None:
        views.append(decoded)
    return views


def _folded(view: View, name: str) -> View:
    text = view.text

    @cache  # the view with letters for digits has the same
    def pieces() -> list[Piece]:
        made = []
        at = position = 0
        for run in _BEYOND_ASCII.finditer(text):
            if run.start() > position:
                made.append(Piece(at, position, run.start(), copied=True))
                at += run.start() - position
            position = run.end()
            for index, char in enumerate(run.group(), run.start()):
                width = len(_FOLDING[ord(char)])
                if width:
                    made.append(Piece(at, index, index + 1, copied=False))
                    at += width
        if position < len(text):
            made.append(Piece(at, position, len(text), copied=True))
        return made or [Piece(0, 0, len(text), copied=False)]

    return View(name, _BEYOND_ASCII.sub(_fold_run, text), pieces, None if view.name == "raw" else view)


def _fold_run(match: re.Match[str]) -> str:
    return match.group().translate(_FOLDING)


def _rewritten(name: str, text: str, runs: Iterator[tuple[int, int, str]]) -> View | None:
    """A view in which each run (start, end, replacement) is replaced and the rest is copied."""
    parts: list[str] = []
    pieces: list[Piece] = []
    at = position = 0
    for start, end, replacement in runs:
        if start > position:
            pieces.append(Piece(at, position, start, copied=True))
            parts.append(text[position:start])
            at += start - position
        if replacement:
            pieces.append(Piece(at, start, end, copied=False))
            parts.append(replacement)
            at += len(replacement)
        position = end
    if position == 0:
        return None
    if position < len(text):
        pieces.append(Piece(at, position, len(text), copied=True))
        parts.append(text[position:])
    return View(name, "".join(parts), lambda: pieces)


def _unescaped(text: str) -> View | None:
    def runs() -> Iterator[tuple[int, int, str]]:
        for match in _ESCAPES.finditer(text):
            plain = _unescape(match.group())
            if plain is not None:
                yield match.start(), match.end(), plain

    return _rewritten("unescaped", text, runs())


def _unescape(escape: str) -> str | None:
    if escape[0] == "%":
        return unquote_to_bytes(escape).decode("utf-8", "replace")
    if escape[0] == "&":
        plain = html.unescape(escape)
        return None if plain == escape else plain
    if escape[1] == "x":
        return bytes.fromhex(escape.replace("\\x", "")).decode("utf-8", "replace")
    if escape[2] == "{":
        code = int(escape[3:-1], 16)
        return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else None
    return bytes.fromhex(escape.replace("\\u", "")).decode("utf-16-be", "replace")


def _spaced(text: str) -> View | None:
    def runs() -> Iterator[tuple[int, int, str]]:
        for match in _SPACED.finditer(text):
            separator = match.group(1)
            words = re.split(re.escape(separator) + "{2,}", match.group())
            yield match.start(), match.end(), " ".join(word.replace(separator, "") for word in words)

    return _rewritten("spaced", text, runs())


def _base64_runs(raw: View) -> Iterator[tuple[int, int, str]]:
    encoded = raw.encoded
    at_byte = at_char = 0
    while True:
        start, end = _next_base64(_ANYWHERE, encoded, at_byte, len(encoded))[0]
        if start < 0:
            return
        at_char += start - at_byte if raw.text.isascii() else len(encoded[at_byte:start].decode())
        run = encoded[start:end].decode()
        yield at_char, at_char + len(run), run
        at_char += len(run)
        at_byte = end


def _decoded(raw: View) -> View | None:
    """What base64 and hex runs hold, one after the other; the text between them is left out."""
    parts: list[str] = []
    pieces: list[Piece] = []
    at = 0
    hex_runs = ((*match.span(), match.group()) for match in _HEX.finditer(raw.text))
    for runs, decode in ((_base64_runs(raw), _from_base64), (hex_runs, _from_hex)):
        for start, end, run in runs:
            plain = decode(run)
            if plain:
                pieces.append(Piece(at, start, end, copied=False))
                parts.append(plain + "\n\n")
                at += len(plain) + 2
    if not parts:
        return None
    return View("decoded", "".join(parts), lambda: pieces)


def _from_base64(run: str) -> str | None:
    body = run.rstrip("=").replace("-", "+").replace("_", "/")
    body = body[: len(body) - (len(body) % 4 == 1)]
    try:
        return _readable(base64.b64decode(body + "=" * (-len(body) % 4), validate=True))
    except binascii.Error:
        return None


def _from_hex(run: str) -> str | None:
    return _readable(bytes.fromhex(run.replace(":", "").replace(" ", "")))


def _readable(decoded: bytes) -> str | None:
    """The bytes as text when they look like text: valid UTF-8, nearly all printable."""
    try:
        plain = decoded.decode()
    except UnicodeDecodeError:
        return None
    if len(plain) < 8:
        return None
    if plain.translate(_BREAKS).isprintable():
        return plain
    printable = sum(char.isprintable() or char in "\n\r\t" for char in plain)
    return plain if printable >= 0.95 * len(plain) else None


_BREAKS = dict.fromkeys(b"\n\r\t")
