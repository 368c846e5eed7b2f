"""Broken structure is found where it breaks, and sound or sketched structure is left alone."""

import time

import pytest

from llmobs.detect.tier1_patterns.formatting import SCORES, formatting_problems

PLAIN = "The bridge is closed on Monday. Please take the road along the river.\n"
TABLE = "| Name | Age |\n|---|---|\n| Ann | 31 |\n"

BROKEN = {
    "a fence never closed": ("Run:\n\n```sh\nmake", "fence-unclosed", "```sh\nmake"),
    "a fence of tildes": ("~~~\na", "fence-unclosed", "~~~\na"),
    "a fence closed by a shorter one": ("````\na\n```\nb", "fence-unclosed", "````\na\n```\nb"),
    "a fence closed by the other sort": ("```\na\n~~~\n", "fence-unclosed", "```\na\n~~~\n"),
    "a closing fence with words behind it": (
        "```\na\n``` and so on\n",
        "fence-unclosed",
        "```\na\n``` and so on\n",
    ),
    "the second of two fences": ("```\na\n```\n```py\nb", "fence-unclosed", "```py\nb"),
    "a fence inside a fence of its length": ("```md\n```py\na\n```\n```\n", "fence-unclosed", "```\n"),
    "a fence in a list": ("- item\n\n  ```sh\n  make\n", "fence-unclosed", "```sh\n  make\n"),
    "a rule with too few columns": (
        "| a | b | c |\n|---|---|\n| 1 | 2 |",
        "table-header",
        "| a | b | c |\n|---|---|",
    ),
    "a rule without outer bars": ("a | b | c\n--- | ---\n1 | 2", "table-header", "a | b | c\n--- | ---"),
    "a row with too many cells": (f"{TABLE}| Ben | 28 | x |\n", "table-row", "| Ben | 28 | x |"),
    "a row with too few cells": ("| a | b | c |\n|-|-|-|\n| 1 | 2 |\n", "table-row", "| 1 | 2 |"),
    "a comma too many": ('```json\n{"a": 1,, "b": 2}\n```', "json", '{"a": 1,, "b": 2}\n'),
    "a comma too few": ('{"a": 1 "b": 2}', "json", '{"a": 1 "b": 2}'),
    "a bracket too few": ('{"a": {"b": 1}', "json", '{"a": {"b": 1}'),
    "a bracket of the other sort": ('[{"a": 1}, {"b": 2]', "json", '[{"a": 1}, {"b": 2]'),
    "a quote inside a text": ('{"a": "he said "no" to me"}', "json", '{"a": "he said "no" to me"}'),
    "Python for JSON": ("```json\n{'a': True}\n```", "json", "{'a': True}\n"),
    "JSON that breaks off": ('  {"a": [1, 2, ', "json", '{"a": [1, 2,'),
    "a sentence without end": (PLAIN + "I am sorry. " * 12, "repetition", None),
    "a line without end": ("The best way is to practise.\n" * 8, "repetition", None),
    "a loop cut off": ("It lies on the river " + "and on the river " * 15 + "and on t", "repetition", None),
    "a loop in the middle": (PLAIN + "we are on the way home, " * 20 + PLAIN, "repetition", None),
    "a loop of two lines": (PLAIN + "First we wait here.\nThen we go there.\n" * 7, "repetition", None),
}

SOUND = {
    "nothing": "",
    "plain text": PLAIN,
    "a fence": "```py\na\n```\n",
    "a longer fence around a fence": "````md\n```py\na\n```\n````\n",
    "a longer closing fence": "```\na\n`````\n",
    "a fence with Windows line ends": "```py\r\na\r\n```\r\n",
    "fences of both sorts": "~~~\n```\n~~~\n\n```\n~~~\n```\n",
    "backticks in a line": "Three backticks (```) open a block, ```like this``` they do not.",
    "inline code at the start of a line": "```make``` builds it.",
    "a fence in a list, closed": "1. do\n\n   ```sh\n   make\n   ```\n",
    "a heading underlined with tildes": "Serving files\n~~~~~~~~~~~~~\n\nText.",
    "emphasis left open": "The answer is **42 and `that is it.",
    "a table": TABLE,
    "a table without outer bars": "a | b\n--- | ---\n1 | 2\n",
    "alignment": "| a | b |\n|:--|--:|\n| 1 | |\n",
    "a bar escaped": "| a | b |\n|---|---|\n| x \\| y | 2 |\n",
    "a bar in inline code": "| a | b |\n|---|---|\n| `x | y` | 2 |\n",
    "a section row": "| a | b |\n|---|---|\n| **Part one** |\n| 1 | 2 |\n",
    "a table in a fence": "```\n| a | b |\n|---|\n```\n",
    "bars in a line": "Choose a | b | c.\n--- \nDone | over.",
    "pipes": "cat a | sort | uniq -c\n",
    "JSON": '{"a": [1, 2.5e3, true, null, {"b": "c"}]}',
    "JSON in a fence": '```json\n{"a": 1}\n```\n',
    "two objects": '```json\n{"a": 1}\n{"b": 2}\n```\n',
    "JSON, then words": '{"a": 1}\n\nThis is the object.',
    "JSON with comments": '```json\n{\n  // the port\n  "a": 1,\n}\n```\n',
    "JSON5": "```json\n{a: 'b', c: [0x1F, .5, 1,],}\n```\n",
    "JSON with parts left out": '```json\n{"a": 1, ...}\n```\n',
    "JSON with a slot": '```json\n{"a": {{ value }}, "b": <name>}\n```\n',
    "a fragment": '```json\n"a": 1,\n"b": 2\n```\n',
    "other braces": "{name} is put in for the name. [Note: closed.]",
    "a set": "{1, 2, 3} has three elements [1][2]",
    "a chorus": "Row, row, row your boat,\nGently down the stream.\n" * 2,
    "yes": '"Yes, yes, yes, yes, yes!" she said.',
    "a field of noughts": "0 1 0 1 0 1 0 1\n" * 30,
    "a long rule": PLAIN + "-" * 300 + "\n" + PLAIN,
    "a loop inside code": "```\n" + "load the next block\n" * 30 + "```\n",
}


@pytest.mark.parametrize(("text", "kind", "shown"), BROKEN.values(), ids=BROKEN)
def test_broken_structure_is_found_where_it_breaks(text: str, kind: str, shown: str | None) -> None:
    (problem,) = formatting_problems(text)
    assert problem.kind == kind
    start, end = problem.span
    if shown is None:
        assert end - start > len(text) / 2
    else:
        assert text[start:end] == shown


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_sound_structure_is_left_alone(text: str) -> None:
    assert formatting_problems(text) == []


def test_every_kind_has_a_score() -> None:
    kinds = {kind for _, kind, _ in BROKEN.values()}
    assert kinds == set(SCORES)
    assert all(0 < score < 1 for score in SCORES.values())


def test_problems_come_in_reading_order() -> None:
    text = f'```json\n{{"a" 1}}\n```\n\n{TABLE}| Ben | 28 | x |\n\n```sh\nmake\n'
    assert [problem.kind for problem in formatting_problems(text)] == ["json", "table-row", "fence-unclosed"]


@pytest.mark.parametrize(
    "text",
    [
        "|" * 50_000,
        "|-|\n" * 12_500,
        "a|b\n-|-\n" + "a|b|c\n" * 8_000,
        "```\na|b\n-|-\n```\n" * 3_000,
        "`" * 50_000,
        "```\n" * 12_500,
        "```json\n{\n```\n" * 3_500,
        '{"a":' * 10_000,
        "[" * 50_000,
        '[{"a":1},' + '"' * 50_000,
        "`a" * 20_000 + "|\n-|-\n",
        "ab " * 16_000,
        ("a" * 31 + "b") * 1_500,
        " " * 50_000,
        "\n" * 50_000,
    ],
    ids=range(15),
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    before = time.process_time()  # of this process alone: others may keep the cores
    formatting_problems(text)
    assert time.process_time() - before < 1.0
