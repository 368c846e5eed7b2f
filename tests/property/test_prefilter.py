"""The prefilter may call a rule in vain; it must never leave one out that matches."""

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from llmobs.detect.tier1_patterns.book import load_rules
from llmobs.detect.tier1_patterns.literals import LONG_RUN, at_start_only, required_words
from llmobs.detect.tier1_patterns.normalise import View
from llmobs.detect.tier1_patterns.prefilter import Prefilter
from llmobs.detect.tier1_patterns.proofs import marked

RULES = load_rules().rules
PREFILTER = Prefilter([rule.rule.pattern for rule in RULES])


def _missed(text: str) -> list[str]:
    view = View("raw", text)
    possible = set(PREFILTER.possible(view))
    return [
        rule.rule.id
        for index, rule in enumerate(RULES)
        if index not in possible and rule._search(view.encoded) is not None
    ]


def test_no_rule_is_left_out_on_any_example_of_any_rule() -> None:
    examples = [e for rule in RULES for e in (*rule.rule.match, *rule.rule.skip)]
    assert len(examples) > 1000
    wrong = {example: missed for example in examples if (missed := _missed(marked(example)[0]))}
    assert wrong == {}


def test_no_rule_is_left_out_where_numbers_are_spread_and_joined() -> None:
    source = random.Random(11)
    pieces = [marked(e)[0] for rule in RULES for e in rule.rule.match if sum(map(str.isdigit, e)) > 3]
    assert len(pieces) > 100
    for piece in source.sample(pieces, 50):
        for sign in (" ", "\u00a0", "\u2011", "\t", "/", "+1 (", ". "):
            at = source.randrange(len(piece))
            assert _missed(piece[:at] + sign + piece[at:]) == []
            assert _missed(piece.replace(" ", sign)) == []


@pytest.mark.parametrize(
    ("pattern", "only"),
    [
        (r"^\s*or\b", True),
        (r"(?i)^(?:a|b)", True),
        (r"(?im)^a", False),
        (r"^a|b", False),
        (r"^a|^b", True),
        (r"(?:^|x)a", False),
        (r"\b^a", True),
        (r"a^", False),
        (r"(?:^a)?b", False),
    ],
)
def test_patterns_that_match_at_the_start_alone_are_known(pattern: str, only: bool) -> None:
    assert at_start_only(pattern) is only


def test_no_rule_is_left_out_on_mixtures_of_examples() -> None:
    source = random.Random(7)
    pieces = [marked(e)[0] for rule in RULES for e in rule.rule.match]
    for _ in range(150):
        text = " ".join(source.sample(pieces, 3))
        shaped = source.choice([text, text.upper(), text.title(), text.swapcase()])
        assert _missed(shaped) == []


@pytest.mark.data
def test_no_rule_is_left_out_on_labelled_texts() -> None:
    data = Path(os.environ.get("LLMOBS_DATA", Path(__file__).parents[3] / "shared/data"))
    if not data.is_dir():
        pytest.skip(f"no labelled data at {data}; set LLMOBS_DATA")
    for path in sorted(data.glob("*/*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in list(lines)[:12]:
                assert _missed(json.loads(line)["text"][:3000]) == []


@pytest.mark.parametrize(
    ("pattern", "clauses"),
    [
        (r"(?i)\bignore\s+(?:all\s+)?(?:rules|prompts)\b", [{"rules", "prompts"}, {"ignore"}]),
        (r"gh[pous]_[A-Za-z0-9]{36}", [{"ghp_", "gho_", "ghu_", "ghs_"}, {LONG_RUN}]),
        (r"(?:secret)?word", [{"word", "secretword"}]),
        (r"(?:secret)*wordy", [{"wordy"}]),
        (r"(?:q){2,}", []),
        (r"(?:abcd){2,}", [{"abcd"}]),
        (r"x|longer", []),
        (r"shorter|longer", [{"shorter", "longer"}]),
        (r"\d{3}-\d{4}", [{"\0digits 7"}, {"\0dense 7"}]),
        (r"[0-9]{4}(?:[ -]?[0-9]{4}){2}x?", [{"\0digits 12"}, {"\0dense 12"}]),
        (r"\d{3}[a-z]\d{3}", [{"\0digits 6"}, {"\0dense 3"}]),
        (r"(?:\d{3} \d{3}|\d{9})z", [{"\0digits 6"}, {"\0dense 6"}]),
        (r"(?:\d,){4}", [{"\0digits 4"}]),
        (r"(?:\d\.){4}", [{"\0dense 4"}]),
        (r"[\x{17f}\d]{9}", []),
        (r"[^a]bcde", [{"bcde"}]),
        (r"\x{43f}\x{430}\x{440}", [{"пар"}]),
        (r"a.*?needle", [{"needle"}]),
        (r"(?P<value>needle)", [{"needle"}]),
        (r"(?=x)", []),
        (r"['\"`\x{2018}\x{2019}]\s+or\b", [{"'", '"', "`", "\u2018", "\u2019"}]),
        (r"(?:;|&&|%0a|\$\()id", [{";id", "&&id", "%0aid", "$(id"}]),
        (r"(?:%0a|%0d|\|\|)\s", [{"%0a", "%0d", "||"}]),
        (r"A{120}", [{LONG_RUN}]),
        (r"\{\{?\d", [{"\0digits 1"}]),
    ],
)
def test_what_a_pattern_needs(pattern: str, clauses: list[set[str]]) -> None:
    found = [set(words) for words in required_words(pattern)]
    assert all(words in found for words in clauses), found
    assert bool(found) == bool(clauses)
