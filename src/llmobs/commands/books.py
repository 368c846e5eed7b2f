"""`llmobs rules` and `llmobs policy`: what is looked for, and what follows from it."""

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmobs.detect.tier1_patterns.book import BUILTIN as BUILTIN_RULES
from llmobs.detect.tier1_patterns.book import load_rules
from llmobs.detect.tier1_patterns.pack import Status, read_packs
from llmobs.detect.tier1_patterns.proofs import broken_proofs
from llmobs.policies import load_policies
from llmobs.settings import load_settings


@click.group()
def rules() -> None:
    """Rule packs."""


@rules.command("check")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
def check_rules(*, folder: Path | None) -> None:
    """Hold the built-in packs, and those in FOLDER, to their own examples."""
    settings = load_settings(os.environ)
    folders = [
        BUILTIN_RULES,
        *([folder] if folder else []),
        *([settings.rules_path] if settings.rules_path else []),
    ]
    known = set().union(*(policy.classes for policy in load_policies(settings.policies_path).values()))
    loaded = load_rules(None)
    unmeasured = {r.rule.id for r in loaded.rules if r.score is None and r.rule.status is Status.STABLE}
    table = Table("pack", "class", "rules", "trial", "broken", title="Rule packs")
    broken: list[str] = []
    for place in folders:
        for pack in read_packs(place):
            found = [f"{r.id}: {problem}" for r in pack.rule for problem in broken_proofs(pack, r)]
            classes = {rule.failure_class or pack.pack.failure_class for rule in pack.rule}
            found += [f"{pack.pack.id}: no policy knows the class {name}" for name in sorted(classes - known)]
            trial = sum(
                r.status is Status.TRIAL
                or (r.score is None and (place != BUILTIN_RULES or r.id in unmeasured))
                for r in pack.rule
            )
            table.add_row(
                pack.pack.id, pack.pack.failure_class, str(len(pack.rule)), str(trial), str(len(found) or "")
            )
            broken += found
    console = Console()
    console.print(table)
    for line in broken:
        console.print(Text(line, style="red"))
    if broken:
        sys.exit(1)


@click.group()
def policy() -> None:
    """Policies."""


@policy.command("check")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
def check_policy(*, folder: Path | None) -> None:
    """Validate the built-in policies, and those in FOLDER, with their examples."""
    settings = load_settings(os.environ)
    found = load_policies(folder or settings.policies_path, strict_mode=settings.strict_mode)
    for name, loaded in sorted(found.items()):
        table = Table(
            "class",
            "severity",
            "clear",
            "log",
            "warn",
            "block",
            "on failure",
            title=f"{name} version {loaded.version}",
        )
        for class_name, limits in loaded.classes.items():
            cells = [limits.clear, limits.log, limits.warn, limits.block]
            table.add_row(
                class_name,
                limits.severity,
                *("" if value is None else f"{value:g}" for value in cells),
                limits.on_failure,
            )
        Console().print(table)
