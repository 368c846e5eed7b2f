"""What is kept of the patterns' needs is what the patterns say."""

import runpy
from pathlib import Path

from llmobs.detect.tier1_patterns.literals import NEEDS, at_start_only, derived, required_words

ROOT = Path(__file__).parents[2]


def test_kept_needs_are_derived_from_the_patterns_as_they_are() -> None:
    made = runpy.run_path(str(ROOT / "training/needs.py"))["text_of_needs"]()
    kept = (ROOT / "src/llmobs/data/rules" / NEEDS).read_text(encoding="utf-8")
    assert kept == made, "run: python training/needs.py"
    assert kept.count("\n") > 900


def test_a_pattern_that_is_not_kept_is_looked_at() -> None:
    pattern = r"^zanzibar\d{4}(?:quokka|wombat)"
    assert at_start_only(pattern)
    assert required_words(pattern) == derived(pattern).words
    assert any("wombat" in word for words in required_words(pattern) for word in words)
