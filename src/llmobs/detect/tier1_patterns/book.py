"""The rules in force: built-in packs and the operator's folder."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from llmobs.book import Book
from llmobs.detect.tier1_patterns.engine import RuleSet
from llmobs.detect.tier1_patterns.pack import Pack, read_measured, read_packs, unique
from llmobs.detect.tier1_patterns.proofs import broken_proofs
from llmobs.errors import RulesInvalid

BUILTIN = Path(str(files("llmobs") / "data" / "rules"))

RuleBook = Book[RuleSet]


def rule_book(folder: Path | None = None, excluded: Sequence[str] = ()) -> RuleBook:
    """The rules, reloaded when the operator's folder changes."""
    return Book("rules", folder, lambda _: load_rules(folder, excluded))


def load_rules(folder: Path | None = None, excluded: Sequence[str] = ()) -> RuleSet:
    """Built-in packs and, when given, the operator's, whose proofs are checked here as well.

    RulesInvalid names file, rule and reason. The built-in packs' proofs are checked by our tests.
    """
    if folder is None and not excluded:
        return _builtin_rules()
    packs = _builtin_packs()
    if folder is not None:
        own = read_packs(folder)
        for pack in own:
            for rule in pack.rule:
                for problem in broken_proofs(pack, rule):
                    raise RulesInvalid(f"pack {pack.pack.id}: rule {rule.id}: {problem}")
        packs += own
    unique(packs)
    return RuleSet(packs, read_measured(BUILTIN / "measured.toml"), excluded)


def own_rules(rules: RuleSet) -> int:
    """How many of the rules in force come from the operator's folder."""
    builtin = {rule.id for pack in _builtin_packs() for rule in pack.rule}
    return sum(compiled.rule.id not in builtin for compiled in rules.rules)


@cache
def _builtin_packs() -> tuple[Pack, ...]:
    """Read once: they do not change while we run, and the operator's folder may, often."""
    packs = read_packs(BUILTIN, tried=True)
    unique(packs)
    return packs


@cache
def _builtin_rules() -> RuleSet:
    return RuleSet(_builtin_packs(), read_measured(BUILTIN / "measured.toml"))
