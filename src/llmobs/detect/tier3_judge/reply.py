"""Reading a reply: to the letter, or not at all."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from llmobs.detect.tier3_judge.excerpt import Flat, Window

MAX_QUOTE = 400
MAX_REASON = 300
SHARED = 24
"""A reason that repeats this many code points of the text in a row is not kept."""


class ClassVerdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a judge says of one class. The reason comes first: models judge better after giving it."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)]
    quote: Annotated[str, Meta(max_length=MAX_QUOTE)]
    probability: Annotated[float, Meta(ge=0, le=1)]


class ReplyInvalid(Exception):
    """A reply does not hold the form; the message says how, without quoting it."""


_FENCED = re.compile(r"\s*```(?:json)?\s*(\{.*\})\s*```\s*", re.DOTALL)
_NAMED = re.compile(r"`[^`]*`")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069]+")


def schema_for(classes: Sequence[str]) -> dict[str, Any]:
    """The JSON Schema of a reply about these classes: each exactly once, nothing else."""
    verdict = {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "minLength": 1, "maxLength": MAX_REASON},
            "quote": {"type": "string", "maxLength": MAX_QUOTE},
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
        },
        "required": ["reason", "quote", "probability"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": dict.fromkeys(classes, verdict),
        "required": list(classes),
        "additionalProperties": False,
    }


def read_reply(text: str, classes: Sequence[str]) -> dict[str, ClassVerdict]:
    """The verdicts by class. ReplyInvalid unless the reply is one JSON object of just that form."""
    fenced = _FENCED.fullmatch(text)
    try:
        found = msgspec.json.decode(fenced[1] if fenced else text, type=dict[str, ClassVerdict])
    except msgspec.ValidationError as error:
        # Names a path and a limit; names of the reply's own making are left out.
        raise ReplyInvalid(_NAMED.sub("a field", str(error))) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ReplyInvalid("it is not one JSON object") from None
    missing = [name for name in classes if name not in found]
    if missing:
        raise ReplyInvalid(f"it says nothing of {', '.join(missing)}")
    if len(found) != len(classes):
        raise ReplyInvalid("it holds classes that were not asked about")
    return found


def locate(quote: str, flat: Flat, shown: Sequence[Window]) -> tuple[int, int] | None:
    """Where the quotation occurs in what was shown, as a range of the flat text; None if nowhere."""
    wanted = " ".join(quote.split()).strip("\"'“”‘’«»` ")
    if not wanted:
        return None
    for haystack, needle in (
        (flat.text, wanted),
        (_same_length_lower(flat.text), _same_length_lower(wanted)),
    ):
        for window in shown:
            at = haystack.find(needle, window.start, window.end)
            if at >= 0:
                return at, at + len(needle)
    return None


def _same_length_lower(text: str) -> str:
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else text


def told_reason(verdict: ClassVerdict, flat: Flat) -> str:
    """The reason on one line, or a plain sentence where it repeats the text: notes never quote it."""
    reason = " ".join(_CONTROL.sub(" ", verdict.reason).split())
    step = SHARED // 2
    text = flat.text
    # Any shared run of SHARED code points covers a whole aligned piece of half its length.
    for start in range(0, max(1, len(reason) - step + 1), step):
        piece = reason[start : start + step]
        if len(piece) == step and piece in text and _longest_shared(reason, start, text) >= SHARED:
            return "the judge's reason repeats the text, so it is not kept"
    return reason or "no reason given"


def _longest_shared(reason: str, start: int, text: str) -> int:
    """Length of the longest run around `reason[start:]` that occurs in the text, up to SHARED."""
    for first in range(max(0, start - SHARED), start + 1):
        piece = reason[first : first + SHARED]
        if len(piece) == SHARED and piece in text:
            return SHARED
    return 0


def merged_quote(verdicts: Sequence[Mapping[str, ClassVerdict]], name: str, mean: float) -> ClassVerdict:
    """Of several votes, the one whose probability lies nearest to the mean speaks for all."""
    return min((vote[name] for vote in verdicts), key=lambda v: (abs(v.probability - mean), v.reason))
