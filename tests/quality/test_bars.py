"""What tier 1 alone must reach on the labelled data. The figures themselves are in docs/evaluation.md.

The public files were at hand when the rules were written, and all of our own but attack_payloads_2 and personal_data_6 were looked at
after their first measure, so the bars guard against decay; docs/evaluation.md says how the rules did unseen.
"""

import asyncio
import os
from functools import cache
from pathlib import Path

import pytest

from llmobs.app import build_pipeline
from llmobs.detect.tier1_patterns.book import rule_book
from llmobs.evaluation import FileFigures, Outcome, figures, outcomes, read_rows
from llmobs.policies import load_policies
from llmobs.settings import Settings

HELD_OUT = Path(__file__).parents[2] / "training/handwritten/held_out"
DATA = Path(os.environ.get("LLMOBS_DATA", Path(__file__).parents[3] / "shared/data"))

pytestmark = [
    pytest.mark.data,
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("quality"),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no labelled data at {DATA}; set LLMOBS_DATA"),
]


@cache
def _outcomes(name: str) -> tuple[Outcome, ...]:
    pipeline = build_pipeline(Settings(), rule_book(), frozenset({1}))
    policy = load_policies()["default"]

    async def run() -> list[Outcome]:
        path = HELD_OUT / f"{name[4:]}.jsonl" if name.startswith("own/") else DATA / f"{name}.jsonl.gz"
        return [o async for o in outcomes(pipeline, policy, read_rows(path))]

    return tuple(asyncio.run(run()))


def _figures(name: str) -> FileFigures:
    return figures(name, _outcomes(name))


def test_harmless_text_is_hardly_ever_blocked_or_warned_about() -> None:
    found = [
        o for path in sorted((DATA / "benign").glob("*.gz")) for o in _outcomes(f"benign/{path.name[:-9]}")
    ]
    assert len(found) > 14_000
    blocked = sum(o.action == "block" for o in found) / len(found)
    flagged = sum(o.flagged for o in found) / len(found)
    assert blocked <= 0.002, blocked
    assert flagged <= 0.01, flagged


@pytest.mark.parametrize(
    "name", ["owasp_cheatsheets", "sqlglot_fixtures", "django_templates", "stackoverflow_code_train"]
)
def test_code_and_prose_that_show_an_attack_are_none(name: str) -> None:
    flagged = _figures(f"security_attack/{name}").flagged
    assert flagged is not None
    assert flagged.share <= 0.03


@pytest.mark.parametrize(
    ("name", "least_recall", "most_fpr"),
    [
        ("security_attack/payloads_all_the_things", 0.90, None),
        ("secret/gitleaks_cases", 0.90, 0.10),
        ("pii/presidio_synth", 0.90, 0.02),
        ("own/attack_payloads", 0.95, 0.04),
        ("own/attack_payloads_2", 0.90, 0.03),
        ("own/attack_payloads_3", 0.93, 0.05),
        ("own/attack_payloads_4", 0.82, 0.08),
        ("own/attack_payloads_5", 0.75, 0.11),
        ("own/attack_payloads_6", 0.92, 0.05),
        ("own/secrets", 0.95, 0.03),
        ("own/secrets_2", 0.95, 0.03),
        ("own/personal_data", 0.95, 0.03),
        ("own/personal_data_2", 0.92, 0.03),
        ("own/personal_data_3", 0.92, 0.08),
        ("own/personal_data_4", 0.92, 0.15),
        ("own/personal_data_5", 0.93, 0.10),
        ("own/personal_data_6", 0.92, 0.14),
    ],
)
def test_what_patterns_can_find_is_found(name: str, least_recall: float, most_fpr: float | None) -> None:
    found = _figures(name)
    assert found.recall is not None
    assert found.recall.share >= least_recall
    if most_fpr is not None:
        assert found.fpr is not None
        assert found.fpr.share <= most_fpr


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Paris is the capital of France.", "response"),
        ("According to a study from Harvard, this approach is effective.", "response"),
        (
            "To read all users: `SELECT * FROM users WHERE id = 1;` — the WHERE clause picks the row.",
            "response",
        ),
        ("def add(a, b):\n    return a + b\n", "response"),
        (
            "Mix the flour with two eggs, rest the dough for an hour, then bake at 180 °C for 25 minutes.",
            "response",
        ),
        ("I'm sorry, but I can't help with that.", "response"),
        ("Please ignore my previous e-mail, the meeting is on Friday.", "prompt"),
        (
            "SQL injection happens when input such as `' OR 1=1 --` reaches a query unescaped. Use parameters instead:\n"
            "```python\ncursor.execute('SELECT * FROM users WHERE name = %s', (name,))\n```\n",
            "response",
        ),
    ],
)
def test_harmless_classics_are_allowed(text: str, kind: str) -> None:
    from llmobs.domain.subject import Kind
    from llmobs.screen import Inquiry, examine

    pipeline = build_pipeline(Settings(), rule_book(), frozenset({1}))
    verdict = asyncio.run(examine(pipeline, load_policies()["default"], Inquiry(text=text, kind=Kind(kind))))
    assert verdict.decision.action == "allow", verdict.decision.explanation
