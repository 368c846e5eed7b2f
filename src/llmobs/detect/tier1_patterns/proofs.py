"""Every rule is held to its own examples: what it must catch, where, and what it must leave alone."""

import random
import re
import string
from collections.abc import Iterator

from llmobs.detect.tier1_patterns.engine import CompiledRule, RuleSet
from llmobs.detect.tier1_patterns.pack import Measured, Pack, Rule
from llmobs.domain.subject import Span, Subject

_PLACEHOLDER = re.compile(r"\{\{(alnum|lower|upper|digit|hex|HEX|base64|base64url|uplow):(\d{1,4})\}\}")
_ALPHABETS = {
    "alnum": string.ascii_letters + string.digits,
    "lower": string.ascii_lowercase + string.digits,
    "upper": string.ascii_uppercase + string.digits,
    "uplow": string.ascii_letters,
    "digit": string.digits,
    "hex": "0123456789abcdef",
    "HEX": "0123456789ABCDEF",
    "base64": string.ascii_letters + string.digits + "+/",
    "base64url": string.ascii_letters + string.digits + "-_",
}


def fill(example: str) -> str:
    """Put random characters where an example has `{{kind:length}}`, the same ones each time.

    No secret, not even a made-up one, then stands in the repository. Kinds: alnum, lower and upper
    (with digits), uplow (letters only), digit, hex, HEX, base64, base64url.
    """
    source = random.Random(example)  # noqa: S311  # repeatable examples, nothing secret

    def characters(match: re.Match[str]) -> str:
        alphabet = _ALPHABETS[match.group(1)]
        return "".join(source.choice(alphabet) for _ in range(int(match.group(2))))

    return _PLACEHOLDER.sub(characters, example)


def marked(example: str) -> tuple[str, Span | None]:
    """A filled example without its `⟦⟧` marks, and the range they mark."""
    text = fill(example)
    start, end = text.find("⟦"), text.find("⟧")
    if start < 0 or end < start:
        return text, None
    return text[:start] + text[start + 1 : end] + text[end + 1 :], Span(start, end - 1)


def broken_proofs(pack: Pack, rule: Rule) -> Iterator[str]:
    """What the rule does against its own examples, in words; nothing when it keeps them all."""
    alone = RuleSet([Pack(pack=pack.pack, rule=(rule,))], Measured(rules={rule.id: 1.0}, silence={}))
    if not alone.rules:
        return
    compiled = alone.rules[0]
    for example in rule.match:
        text, expected = marked(example)
        spans = _spans(alone, compiled, text)
        if spans is None:
            yield f"does not hit {example!r}"
        elif expected is not None and expected not in spans:
            shown = ", ".join(f"{text[s.start : s.end]!r}" for s in spans)
            yield f"hits {shown} in {example!r} instead of the marked span"
    for example in rule.skip:
        if _spans(alone, compiled, marked(example)[0]) is not None:
            yield f"hits {example!r}, which it must skip"
    for example in rule.known_miss:
        if _spans(alone, compiled, marked(example)[0]) is not None:
            yield f"now hits its known miss {example!r}: move it to match"
    for example in rule.known_false_alarm:
        if _spans(alone, compiled, marked(example)[0]) is None:
            yield f"now skips its known false alarm {example!r}: move it to skip"


def _spans(alone: RuleSet, compiled: CompiledRule, text: str) -> tuple[Span, ...] | None:
    kind = min(compiled.kinds)
    found = alone.hits(Subject(text=text, kind=kind))
    return found[0].spans if found else None
