"""Tell a hit that stands on its own from one that is shown: in code, a quotation, explaining prose.

An answer that shows SQL is not an attack; the same string alone in a form field is one. A few words
glued to a payload change nothing: prose counts as explaining when it speaks about attacks or code or
asks what something does. A long letter that speaks of neither explains nothing, whatever is put into it.
"""

import re
from bisect import bisect_left, bisect_right
from functools import cached_property

REACH = 600
"""Code points read on each side of a hit; bounds the work a hit."""
LONG_PROSE = 24
"""Words of prose around a hit from which on the text is an article or a letter."""
TECHNICAL = 2
"""Different technical words from which on an article may be one about what it shows."""
SOME_PROSE = 10
FEW_WORDS = 3
CODE_LINES = 2
"""Lines of code besides the hit's own from which on the text is a program or a page."""

_WORD = re.compile(
    r"(?<![^\s(\"“'‘*_>])[^\W\d_]{2,}(?:['’][a-z]{1,3})?(?=[ ,.;:!?)\"”'’*_]|$)(?![\"']\s*:)"
    r"|[\u3040-\u30ff\u4e00-\u9fff]{2}",  # no spaces between the words there
    re.MULTILINE,
)
_TELLING = re.compile(
    r"(?<![^\s(\"“'‘*_>])(attack(?:er|ers|s|ed|ing)?|inject(?:s|ed|ing|ion|ions)?|payloads?|malicious|vulnerab\w+|exploit\w*|hackers?"
    r"|saniti[sz]\w+|(?:un)?escap(?:e|es|ed|ing)|encod(?:e|es|ed|ing)|prevent\w*|mitigat\w+|parameteri[sz]ed|bypass\w*"
    r"|xss|sqli|ssti|csrf|ssrf|xxe|owasp|cve|cwe|waf|security|insecure|unsafe|dangerous|example|examples|instance"
    r"|e\.g|i\.e|such\s+as|snippet|syntax|query|queries|statement|statements|clause|expression|operator|function"
    r"|method|attribute|element|tag|tags|variable|parameters?|argument|option|code|script|scripts|command|commands"
    r"|string|strings|template|templates|returns|evaluates|renders|outputs|prints|executes|means|matches"
    r"|explain\w*|shows|tutorial|documentation|never|instead|avoid|should|would|lets|literal(?:ly)?|linter|audit|rejected|trick|tricks|textbook|concatenat\w+"
    r"|introspection|production)(?=[ ,.;:!?)”’*_-]|$)",
    re.IGNORECASE | re.MULTILINE,
)
_TERM = re.compile(
    r"(?<![^\s(\"“'‘*_>/-])([^\W\d_][\w+#]*)(?=[ ,.;:!?)\"”'’*_/-]|$)(?![\"']\s*:)"
    r"|(攻撃|攻击|注入|脆弱|漏洞|エスケープ|转义|インジェクション|공격|취약|주입|検証環境|正規化|対策|文字列|プレースホルダ|حقن|ثغر|هجوم|هجمات|الاستعلامات|हमल|इंजेक्शन|भेद्य)",
    re.MULTILINE,
)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SECURITY = _listed(
    "payload payloads exploit xss sqli ssti csrf ssrf xxe owasp cve cves cwe waf traversal dvwa log4j log4shell fail2ban lfi rfi rce "
    "poc ctf ctfs webshell webshells honeypot siem advisory advisories hacker hackers hacking"
)
_SECURITY_STEMS = _listed(
    "attack inject malicious vulnerab exploit saniti parameteriz parameteris pentest deseriali quarantin obfuscat escap "
    "angriff angreif schwachstelle ataqu atacante inyecci vulnérab attaqu faille échapp injeç iniezion attacc aanval kwetsba atak "
    "podatno wstrzyk saldır атак уязвим инъекц экраниров"
)
_TECHNICAL = _listed(
    "sql html css javascript js php python java ruby perl bash shell powershell linux unix django flask rails jinja jinja2 react angular "
    "vue query queries database databases oracle sqlite parse parser parsers parses parsed parsing syntax snippet snippets function "
    "functions method methods variable variables string strings argument arguments parameter parameters template templates tag tags "
    "attribute attributes element elements script scripts scripting code codebase coding developer developers runtime exception "
    "exceptions log logs server servers browser browsers endpoint endpoints api apis http https header headers cookie cookies input "
    "inputs output outputs linter linters patch patched patches firewall firewalls scanner scanners container containers docker "
    "kubernetes commit commits migration migrations schema schemas column columns prototype prototypes directory directories ldap xml "
    "json yaml svg dom csp orm jwt backend frontend spreadsheet spreadsheets formula formulas cell cells egress nginx apache webhook "
    "webhooks web root path paths realpath scan scans scanning tester testers review reviews reviewer reviewers security unsafe "
    "insecure workflow client grep probe probes rfc library libraries token tokens consulta consultas código servidor función requête "
    "requêtes serveur serveurs navigateur navigateurs fonction parseur fichier fichiers archivo archivos datei dateien filtre filtro filtros archive archives unpacking sequence sequences wordpress plugin plugins xpath linq код кода коде кодом"
)
_TECHNICAL_STEMS = _listed(
    "postgres mysql mongo regex datab param compil debug sandbox config repositor render evaluat execut encod seriali auditor detect fuzz datenbank "
    "abfrage eingabe navegador funç запрос сервер скрипт"
)
"""Words that speak of technical things, whole or by their beginning; of those of security one is enough."""
_WORDS = {**dict.fromkeys(_TECHNICAL, False), **dict.fromkeys(_SECURITY, True)}
_STEMS: dict[str, list[tuple[str, bool]]] = {}
for _stem, _speaks_of_security in (
    *((stem, False) for stem in _TECHNICAL_STEMS),
    *((stem, True) for stem in _SECURITY_STEMS),
):
    _STEMS.setdefault(_stem[:4], []).append((_stem, _speaks_of_security))


def _about(word: str) -> bool | None:
    """Whether a word in lower case speaks of security; None where it speaks of nothing technical."""
    if (known := _WORDS.get(word)) is not None:
        return known
    for stem, security in _STEMS.get(word[:4], ()):
        if word.startswith(stem):
            return security
    return None


_ASKS = re.compile(
    r"\b(?:what\s+(?:is|are|does|do|would|happens)|what['’]?s|why\s+(?:is|are|does|do|did)|how\s+(?:does|do|can|could|would|to|is)"
    r"|explain|describe|meaning\s+of|difference\s+between|why\s*\?|any\s+idea|still\s+a\s+thing|is\s+(?:this|it)\s+(?:a|an|safe|vulnerable)|understand)\b",
    re.IGNORECASE,
)
# On lower-case text the engine passes over an alternative by its first letter, which it cannot where
# case is to be ignored; that makes these ten times as fast.
_LOWER_TELLING = re.compile(_TELLING.pattern, re.MULTILINE)
_LOWER_ASKS = re.compile(_ASKS.pattern)
_FOLDED = "\u017f\u212a\u0131\u0130"
"""Letters that match `s`, `k` or `i` where case is ignored, and are not those letters in lower case."""
_TEST = re.compile(
    r"\bexpect\s*[({]|\.to(?:Be|Equal|Match|Contain|Throw)\w*\(|\bassert(?:Equals?|That|Raises|True|False|In|Not\w*|_\w+)\b"
    r"|^\s*assert\s+\w|\.should(?:_not)?\b|\bshould\s+(?:eq|be_\w+)\b|@Test\b",
    re.MULTILINE,
)
"""What a unit test says of the string that it tries; nothing that people write, or a word would excuse a payload."""
_CODE_LINE = re.compile(
    r"^[ \t]*(?:(?:def|class|import|from|return|function|const|let|var|public|private|protected|static|package|using"
    r"|namespace|func|fn|elif|else|try|except|catch|finally|async|await|export|module|require|include|if|for|while"
    r"|switch|case|print|echo|assert|raise|throw|new|end|self|this|@\w+|SELECT|FROM|WHERE|JOIN|LEFT|INSERT|UPDATE|SET"
    r"|GROUP|ORDER|CREATE|VALUES|WITH|EXEC|DECLARE|BEGIN|ALTER|DROP|GRANT|UNION|HAVING|INTO|FIELDS|GO"
    r"|FROM|RUN|COPY|WORKDIR|ENTRYPOINT|CMD|ENV|then|do|done|fi|esac|exit|sudo|curl|wget|apt(?:-get)?|pip3?|npm|npx"
    r"|git|docker|kubectl|systemctl|choco|cd|export|set|begin|using|local|foreach|function)\b"
    r"|#include|#!|(?:#|--)[ \t]|//|/\*|\*|\{[%#]|<[%?!]|%>|</?[a-z][a-z0-9]*\b[^<>\n]*>|\$\w+\s*=|[A-Z][a-z]+-[A-Z]\w+|\[\w+(?:\.\w+)+\]::)"
    r"|[;{\\]\s*$|=>|\bend\s*$|\{\{[^{}]*\}\}\s*$|\)\s*:?\s*$|^[ \t]*\w+(?:\.\w+)*\s*(?:=|\()\s*\S",
    re.MULTILINE,
)
_FIELD_LINE = re.compile(r"^[ \t]*(?:[\"']?[\w.\-]+[\"']?\s*:.*|[\w.\-\[\]]+=\S*|[\s{}\[\],]*)$")
_FENCES = {mark: re.compile(f"^{mark}", re.MULTILINE) for mark in ("```", "~~~")}
_NEWLINE = re.compile(r"\n")
_OPENING = re.compile(r"(?:^|[\s(])[\"“«‘'`]$")
_CLOSING = re.compile(r"[\"”»’'`](?:[\s.,;:!?)]|$)")


class Shape:
    """A text's words, fences and lines of code, found once, so that a thousand hits cost no more than one.

    Each is looked for when the first hit asks: most hits are settled by the words around them.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._fences = [
            found
            for pattern in _FENCES.values()
            if (found := [match.start() for match in pattern.finditer(text)])
        ]
        self._lines = [0, *(match.end() for match in _NEWLINE.finditer(text))]

    @cached_property
    def _words(self) -> list[int]:
        return [match.start() for match in _WORD.finditer(self._text)]

    @cached_property
    def _lower(self) -> str | None:
        """The text in lower case, where that has no letter that only ignoring case would take for another."""
        text = self._text
        alike = text.isascii() or not any(letter in text for letter in _FOLDED)
        return text.lower() if alike else None

    @cached_property
    def _telling(self) -> tuple[list[int], list[str]]:
        """Where the telling words stand, and which they are."""
        lower = self._lower
        pattern, searched = (_LOWER_TELLING, lower) if lower is not None else (_TELLING, self._text)
        found = [(match.start(), match.group().lower()) for match in pattern.finditer(searched)]
        return [at for at, _ in found], [word for _, word in found]

    @cached_property
    def _technical(self) -> tuple[list[int], list[tuple[str, bool]]]:
        """Where technical words stand; which, cut to their beginnings, and whether they speak of security."""
        found: list[tuple[int, tuple[str, bool]]] = []
        for match in _TERM.finditer(self._text.lower()):
            word = match.group()
            about = True if match.lastindex == 2 else _about(word)
            if about is not None:
                found.append((match.start(), (word[:6], about)))
        return [at for at, _ in found], [word for _, word in found]

    @cached_property
    def _tests(self) -> list[int]:
        return [match.start() for match in _TEST.finditer(self._text)]

    @cached_property
    def _asks(self) -> list[int]:
        lower = self._lower
        pattern, searched = (_LOWER_ASKS, lower) if lower is not None else (_ASKS, self._text)
        return [match.start() for match in pattern.finditer(searched)]

    @cached_property
    def _code_before(self) -> list[int]:
        """Lines of code among the first so many."""
        ends = [*self._lines[1:], len(self._text) + 1]
        code = 0
        before = [0]
        for start, end in zip(self._lines, ends, strict=True):
            code += _is_code(self._text[start : min(end - 1, start + 200)])
            before.append(code)
        return before

    def is_bare(self, start: int, end: int, *, in_code: bool = False) -> bool:
        """True when the half-open range of code points is not shown by the text around it.

        `in_code`: lines of code around it do not count as showing it.
        """
        low, high = start - REACH, end + REACH
        words = _between(self._words, low, start) + _between(self._words, end, high)
        article = words >= LONG_PROSE
        least = TECHNICAL if article else TECHNICAL + 1
        if (
            any(bisect_right(found, start) % 2 for found in self._fences)
            or (words >= SOME_PROSE and self._is_technical(low, start, end, high, least))
            or _between(self._tests, low, high)
        ):
            return False
        line = bisect_right(self._lines, start) - 1
        last_line = bisect_right(self._lines, end) - 1
        line_end = self._lines[last_line + 1] - 1 if last_line + 1 < len(self._lines) else len(self._text)
        line_before = self._text[max(self._lines[line], low) : start]
        line_after = self._text[end : min(line_end, high)]
        if words >= FEW_WORDS and (
            (not article and (_between(self._asks, low, start) or _between(self._asks, end, high)))
            or (
                _in_inline_code(line_before, line_after)
                and not (article and not self._is_technical(low, start, end, high, 1))
            )
        ):
            return False
        places, telling_words = self._telling if words > 1 and not article else ([], [])
        telling = len(
            {
                *telling_words[bisect_left(places, low) : bisect_left(places, start)],
                *telling_words[bisect_left(places, end) : bisect_left(places, high)],
            }
        )
        if (telling and words >= SOME_PROSE) or (telling > 1 and words >= 2 * FEW_WORDS):
            return False
        if _is_quoted(line_before, line_after) and ((telling and words > 1) or words >= SOME_PROSE):
            return False
        return (
            in_code
            or len(self._lines) <= CODE_LINES
            or self._code_around(line, last_line, low, high) < CODE_LINES
        )

    def _is_technical(self, low: int, start: int, end: int, high: int, least: int) -> bool:
        """Whether the prose within reach speaks about security, or of technical things in so many words."""
        places, words = self._technical
        near = {
            *words[bisect_left(places, low) : bisect_left(places, start)],
            *words[bisect_left(places, end) : bisect_left(places, high)],
        }
        return len(near) >= least or any(security for _, security in near)

    def _code_around(self, line: int, last_line: int, low: int, high: int) -> int:
        """Lines of code within reach, without the hit's own."""
        first_line = bisect_left(self._lines, low)
        end_line = bisect_left(self._lines, high)
        code = self._code_before
        return code[line] - code[min(first_line, line)] + code[end_line] - code[min(last_line + 1, end_line)]


def is_bare(text: str, start: int, end: int, *, in_code: bool = False) -> bool:
    """Ask once; for many hits in one text keep its Shape."""
    return Shape(text).is_bare(start, end, in_code=in_code)


def _between(positions: list[int], low: int, high: int) -> int:
    return bisect_left(positions, high) - bisect_left(positions, low)


def _in_inline_code(before: str, after: str) -> bool:
    """The line's backticks enclose the hit, and they set it apart rather than belong to it."""
    opening = before.rfind("`")
    return (
        opening >= 0
        and "`" in after
        and before.count("`") % 2 == 1
        and (opening == 0 or before[opening - 1] in " \t(:*_[|")
    )


def _is_quoted(before: str, after: str) -> bool:
    return _OPENING.search(before[-2:]) is not None and _CLOSING.match(after) is not None


def _is_code(line: str) -> bool:
    """A line that only a program or a page has; headers, form fields and JSON members are none."""
    return bool(line.strip()) and not _FIELD_LINE.match(line) and _CODE_LINE.search(line) is not None
