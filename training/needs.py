"""Write src/llmobs/data/rules/needs.json: what the patterns of the built-in packs and of their conditions need.

    python training/needs.py

To be run after a pattern or `detect/tier1_patterns/literals.py` has changed (measure_rules.py does it as well); a test
says when it was forgotten.
"""

from pathlib import Path

import msgspec

from llmobs.detect.tier1_patterns.literals import NEEDS, derived
from llmobs.detect.tier1_patterns.pack import read_packs

RULES = Path(__file__).parent.parent / "src/llmobs/data/rules"


def text_of_needs() -> str:
    """The file's text: a line a pattern."""
    patterns = {
        pattern
        for pack in read_packs(RULES)
        for rule in pack.rule
        for pattern in (rule.pattern, *rule.require, *rule.unless, *rule.unless_text)
    }
    lines = []
    for pattern in sorted(patterns):
        needs = derived(pattern)
        told = msgspec.json.encode([needs.at_start, [sorted(words) for words in needs.words]]).decode()
        lines.append(f"{msgspec.json.encode(pattern).decode()}:{told}")
    return "{" + ",\n".join(lines) + "}\n"


def write_needs() -> None:
    """Write the file where it belongs."""
    (RULES / NEEDS).write_text(text_of_needs(), encoding="utf-8")


if __name__ == "__main__":
    write_needs()
