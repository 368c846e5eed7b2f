"""Tell a hit that stands on its own from one that is shown: in code, a quotation, explaining prose.

An answer that shows SQL is not an attack; the same string alone in a form field is one. A few words
glued to a payload change nothing: prose counts as explaining when it speaks about attacks or code,
asks what something does, or is long.
"""

import re

REACH = 600
"""Code points read on each side of a hit; bounds the work a hit."""
LONG_PROSE = 40
"""Words of prose around a hit from which on the text is an article, whatever it says."""
SOME_PROSE = 10
FEW_WORDS = 3
CODE_LINES = 3
"""Lines of code besides the hit's own from which on the text is a program or a page."""

_WORD = re.compile(r"(?<![^\s(\"“'‘*_>])[^\W\d_]{2,}(?:['’][a-z]{1,3})?(?=[ ,.;:!?)\"”'’*_]|$)", re.MULTILINE)
_TELLING = re.compile(
    r"\b(attack(?:er|ers|s|ed|ing)?|inject(?:s|ed|ing|ion|ions)?|payloads?|malicious|vulnerab\w+|exploit\w*|hackers?"
    r"|saniti[sz]\w+|escap(?:e|es|ed|ing)|encod(?:e|es|ed|ing)|prevent\w*|mitigat\w+|parameteri[sz]ed|bypass\w*"
    r"|xss|sqli|ssti|csrf|ssrf|xxe|owasp|cve|cwe|waf|security|insecure|unsafe|dangerous|example|examples|instance"
    r"|e\.g|i\.e|such\s+as|snippet|syntax|query|queries|statement|statements|clause|expression|operator|function"
    r"|method|attribute|element|tag|tags|variable|parameters?|argument|options?|code|script|scripts|command|commands"
    r"|string|strings|template|templates|returns?|evaluates?|renders?|outputs?|prints?|executes?|means|matches"
    r"|explain\w*|shows?|tutorial|documentation|called|named|note)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\b(?:what\s+(?:is|are|does|do|would|happens)|why\s+(?:is|are|does|do|did)|how\s+(?:does|do|can|could|would|to|is)"
    r"|explain|describe|meaning\s+of|difference\s+between|is\s+(?:this|it)\s+(?:a|an|safe|vulnerable)|understand)\b",
    re.IGNORECASE,
)
_CODE_LINE = re.compile(
    r"^[ \t]*(?:(?:def|class|import|from|return|function|const|let|var|public|private|protected|static|package|using"
    r"|namespace|func|fn|elif|else|try|except|catch|finally|async|await|export|module|require|include|if|for|while"
    r"|switch|case|print|echo|assert|raise|throw|new|end|self|this|@\w+|SELECT|FROM|WHERE|JOIN|LEFT|INSERT|UPDATE|SET"
    r"|GROUP|ORDER|CREATE|VALUES|WITH)\b|#include|//|/\*|\*|\{[%#]|</?[a-z][a-z0-9]*\b[^<>\n]*>)"
    r"|[;{]\s*$|\)\s*:?\s*$|^[ \t]*\w+(?:\.\w+)*\s*(?:=|\()\s*\S",
    re.MULTILINE,
)
_FIELD_LINE = re.compile(r"^[ \t]*(?:[\"']?[\w.\-]+[\"']?\s*:.*|[\w.\-\[\]]+=\S*|[\s{}\[\],]*)$")
_OPENING = re.compile(r"(?:^|[\s(])[\"“«‘'`]$")
_CLOSING = re.compile(r"[\"”»’'`](?:[\s.,;:!?)]|$)")


def is_bare(text: str, start: int, end: int) -> bool:
    """True when the half-open range of code points is not shown by the text around it. Linear in its reach."""
    if _in_fence(text, start):
        return False
    before = text[max(0, start - REACH) : start]
    after = text[end : end + REACH]
    head, _, line_before = before.rpartition("\n")
    line_after, _, tail = after.partition("\n")
    words = len(_WORD.findall(before)) + len(_WORD.findall(after))
    if words >= LONG_PROSE:
        return False
    if words >= FEW_WORDS and (
        _in_inline_code(line_before, line_after) or _ASKS.search(before + " " + after)
    ):
        return False
    telling = len({match.lower() for match in _TELLING.findall(before + " " + after)})
    if (telling and words >= SOME_PROSE) or (telling > 1 and words >= 2 * FEW_WORDS):
        return False
    if _is_quoted(line_before, line_after) and ((telling and words > 1) or words >= SOME_PROSE):
        return False
    return _code_lines(head) + _code_lines(tail) < CODE_LINES


def _in_fence(text: str, start: int) -> bool:
    """The position lies between an opening Markdown fence and its end, or the end of the text."""
    for mark in ("```", "~~~"):
        fences = text.count("\n" + mark, 0, start) + text.startswith(mark, 0, start)
        if fences % 2:
            return True
    return False


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


def _code_lines(text: str) -> int:
    """Lines that only a program or a page has; headers, form fields and JSON members are none."""
    return sum(
        1
        for line in text.split("\n")
        if line.strip() and not _FIELD_LINE.match(line[:200]) and _CODE_LINE.search(line[:200])
    )
