from pathlib import Path

import pytest

from llmobs.detect.tier1_patterns.book import rule_book
from llmobs.detect.tier1_patterns.engine import RuleSet, acts
from llmobs.detect.tier1_patterns.pack import Measured, read_pack
from llmobs.domain.subject import Kind, Span, Subject
from llmobs.errors import RulesInvalid

HEAD = """
[pack]
id = "house"
failure_class = "security_attack"
description = "Ours."
"""
RULE = """
[[rule]]
id = "house.codename"
note = "names a project"
pattern = '''\\bbluebird-\\d+\\b'''
score = 0.9
match = ["ship ⟦bluebird-7⟧ now"]
skip = ["a bluebird sang"]
"""


def _write(folder: Path, text: str, name: str = "house.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _rules(folder: Path, text: str, **more: float) -> RuleSet:
    return RuleSet([read_pack(_write(folder, text))], Measured(rules=more, silence={}))


def _hits(rules: RuleSet, text: str, kind: Kind = Kind.RESPONSE) -> list[str]:
    return [hit.rule.id for hit in rules.hits(Subject(text=text, kind=kind))]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (RULE.replace("house.codename", "other.codename"), "must start with house."),
        (RULE.replace("house.codename", "house.Codename"), "lower case"),
        (RULE.replace("\\\\d+", "(?=x)").replace("\\d+", "(?=x)"), "pattern"),
        (RULE.replace("\\bbluebird-\\d+\\b", "x*"), "matches the empty text"),
        (RULE.replace('match = ["ship ⟦bluebird-7⟧ now"]', "match = []"), "under match"),
        (RULE.replace('skip = ["a bluebird sang"]', "skip = []"), "under skip"),
        (RULE.replace('skip = ["a bluebird sang"]', ""), "skip"),
        (RULE + 'views = ["x-ray"]\n', "unknown view 'x-ray'"),
        (RULE + 'check = ["luhnn"]\n', "unknown check 'luhnn'"),
        (RULE + "scor = 1\n", "unknown field `scor`"),
        (RULE.replace("score = 0.9", "score = 2"), "score"),
        (RULE.replace("score = 0.9", 'score = "high"'), "Expected `float"),
        (RULE.replace("pattern = '''\\b", "pattern = '''(\\b"), "pattern"),
    ],
)
def test_a_bad_rule_is_refused_with_file_rule_and_reason(tmp_path: Path, rule: str, reason: str) -> None:
    path = _write(tmp_path, HEAD + rule)
    with pytest.raises(RulesInvalid) as refused:
        read_pack(path)
    said = str(refused.value)
    assert said.startswith("house.toml: rule ")
    assert reason in said


@pytest.mark.parametrize("text", ["= 1", "[pack]\nid = 'x'\n", "\x00"])
def test_a_file_that_is_no_pack_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RulesInvalid, match=r"house\.toml"):
        read_pack(_write(tmp_path, text))


async def test_the_last_good_set_stays_in_force_when_a_pack_turns_bad(tmp_path: Path) -> None:
    _write(tmp_path, HEAD + RULE)
    book = rule_book(tmp_path)
    assert "house.codename" in _hits(book.current, "ship bluebird-7 now")

    _write(tmp_path, HEAD + RULE.replace("bluebird-7⟧", "bluebird⟧"))
    assert book.changed()
    assert not await book.reload()
    assert book.refused is not None
    assert "house.codename" in book.refused
    assert "does not hit" in book.refused
    assert "house.codename" in _hits(book.current, "ship bluebird-7 now")

    _write(tmp_path, HEAD + RULE.replace("bluebird", "redstart"))
    assert await book.reload()
    assert _hits(book.current, "ship bluebird-7 now") == []
    assert "house.codename" in _hits(book.current, "ship redstart-7 now")


async def test_an_id_that_is_taken_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, HEAD + RULE)
    book = rule_book(tmp_path)
    _write(tmp_path, HEAD + RULE, "twin.toml")
    assert not await book.reload()
    assert "stands in packs" in (book.refused or "")


def test_an_excluded_rule_does_not_run(tmp_path: Path) -> None:
    _write(tmp_path, HEAD + RULE)
    assert "house.codename" not in _hits(rule_book(tmp_path, ("house.*",)).current, "ship bluebird-7 now")
    assert "house.codename" not in _hits(
        rule_book(tmp_path, ("house.codename",)).current, "ship bluebird-7 now"
    )
    assert "house.codename" in _hits(rule_book(tmp_path, ("house.code",)).current, "ship bluebird-7 now")


def test_an_unmeasured_or_trial_rule_never_acts(tmp_path: Path) -> None:
    for text, score, expected in (
        (RULE, {}, True),
        (RULE.replace("score = 0.9", ""), {}, False),
        (RULE.replace("score = 0.9", ""), {"house.codename": 0.8}, True),
        (RULE + 'status = "trial"\n', {}, False),
        (RULE + "rollout = 0\n", {}, False),
    ):
        rules = _rules(tmp_path, HEAD + text, **score)
        hit = rules.hits(Subject(text="ship bluebird-7 now"))[0]
        assert acts(hit, "some-request") is expected, text


def test_a_retired_rule_is_gone(tmp_path: Path) -> None:
    assert _hits(_rules(tmp_path, HEAD + RULE + 'status = "retired"\n'), "ship bluebird-7 now") == []


def test_a_rollout_takes_about_its_share_of_requests_and_always_the_same(tmp_path: Path) -> None:
    rules = _rules(tmp_path, HEAD + RULE + "rollout = 20\n")
    hit = rules.hits(Subject(text="ship bluebird-7 now"))[0]
    taken = [acts(hit, f"request-{n}") for n in range(3000)]
    assert 0.16 < sum(taken) / len(taken) < 0.24
    assert taken == [acts(hit, f"request-{n}") for n in range(3000)]


def test_conditions_around_a_hit_are_kept(tmp_path: Path) -> None:
    near = _rules(tmp_path, HEAD + RULE.replace("now", "launch") + "require = ['launch']\nwindow = 20\n")
    assert _hits(near, "bluebird-7 launch") == ["house.codename"]
    assert _hits(near, "bluebird-7 " + "x " * 30 + "launch") == []
    unless = _rules(tmp_path, HEAD + RULE + "unless = ['sang']\nunless_text = ['fiction']\nwindow = 10\n")
    assert _hits(unless, "bluebird-7 flew") == ["house.codename"]
    assert _hits(unless, "bluebird-7 sang") == []
    assert _hits(unless, "bluebird-7 flew, " + "x " * 30 + "in fiction") == []
    dense = _rules(tmp_path, HEAD + RULE.replace("ship ⟦bluebird-7⟧ now", "⟦bluebird-7⟧ bluebird-8")
                   + "min_count = 2\nmin_per_100_words = 10\n")  # fmt: skip
    assert _hits(dense, "bluebird-1 bluebird-2") == ["house.codename"]
    assert _hits(dense, "bluebird-1") == []
    assert _hits(dense, "bluebird-1 bluebird-2" + " word" * 50) == []
    prompts = _rules(tmp_path, HEAD + RULE + 'kinds = ["prompt"]\n')
    assert _hits(prompts, "bluebird-7", Kind.PROMPT) == ["house.codename"]
    assert _hits(prompts, "bluebird-7") == []


def test_spans_are_code_points_also_past_wide_characters(tmp_path: Path) -> None:
    rules = _rules(tmp_path, HEAD + RULE)
    text = "🎉 déjà 忽略 bluebird-7 und bluebird-12 🎉"
    spans = rules.hits(Subject(text=text))[0].spans
    assert [text[s.start : s.end] for s in spans] == ["bluebird-7", "bluebird-12"]
    assert spans[0] == Span(10, 20)
