"""Generated from the packs: every rule is held to its own examples."""

import pytest

from llmobs.detect.tier1_patterns.book import BUILTIN, load_rules
from llmobs.detect.tier1_patterns.pack import Pack, Rule, Status, read_measured, read_packs
from llmobs.detect.tier1_patterns.proofs import broken_proofs
from llmobs.domain.risk import FailureClass

PACKS = read_packs(BUILTIN)
RULES = [pytest.param(pack, rule, id=rule.id) for pack in PACKS for rule in pack.rule]


@pytest.mark.parametrize(("pack", "rule"), RULES)
def test_a_rule_catches_and_leaves_alone_what_it_says(pack: Pack, rule: Rule) -> None:
    assert list(broken_proofs(pack, rule)) == []


def test_ids_are_unique_and_every_class_is_a_known_one() -> None:
    ids = [rule.id for pack in PACKS for rule in pack.rule]
    assert len(ids) == len(set(ids))
    known = {name.value for name in FailureClass}
    for pack in PACKS:
        for rule in pack.rule:
            assert (rule.failure_class or pack.pack.failure_class) in known


def test_every_stable_rule_has_been_measured() -> None:
    measured = read_measured(BUILTIN / "measured.toml")
    stable = {r.id for pack in PACKS for r in pack.rule if r.status is Status.STABLE and r.score is None}
    assert stable <= set(measured.rules), stable - set(measured.rules)
    present = {r.id for pack in PACKS for r in pack.rule}
    assert set(measured.rules) <= present, "measured.toml speaks of rules that are gone"
    assert all(0 < score <= 1 for score in measured.rules.values())


def test_there_are_rules_for_every_class_that_patterns_can_serve() -> None:
    counted: dict[str, int] = {}
    for rule in load_rules().rules:
        counted[rule.failure_class] = counted.get(rule.failure_class, 0) + 1
    assert counted["secret_leak"] >= 60
    assert counted["pii_leak"] >= 15
    for name in (
        "prompt_injection",
        "security_attack",
        "missing_grounding",
        "overconfidence",
        "toxicity",
        "bias",
    ):
        assert counted[name] >= 3, name
    assert counted["hedging_excessive"] >= 1
