"""Tell a hit that stands on its own from one that is shown: in code, a quotation, explaining prose.

An answer that shows SQL is not an attack; the same string alone in a form field is one.
"""

import re

_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z]{3,}")
_SHOWING_BEFORE = re.compile(r"[`\"“«]\s*$")


def is_bare(text: str, start: int, end: int) -> bool:
    """True when the half-open range of code points is not quoted or explained by the text around it."""
    if _FENCE.search(text):
        return False
    if _SHOWING_BEFORE.search(text[max(0, start - 40) : start]):
        return False
    around = text[max(0, start - 400) : start] + " " + text[end : end + 400]
    return len(_WORD.findall(around)) < 25
