"""What several commands need."""

import os
from collections.abc import Awaitable
from contextlib import nullcontext
from typing import TypeVar

import click

from llmobs.app import build_pipeline
from llmobs.detect.pipeline import Pipeline
from llmobs.detect.tier1_patterns.book import rule_book
from llmobs.detect.tier3_judge.observer import NoObserver
from llmobs.detect.tier3_judge.setup import InstalledJudge, installed_judge
from llmobs.domain.interval import Interval
from llmobs.domain.policy import Policy
from llmobs.policies import classes_by_example, load_policies
from llmobs.settings import Settings, load_settings


def percent(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval.share:.2f}"


def with_interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.share:.1f} [{100 * interval.low:.1f}-{100 * interval.high:.1f}]"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def settings_of_environment() -> Settings:
    return load_settings(os.environ)


def installed_pipeline(
    settings: Settings, policy_name: str | None, tiers: frozenset[int] = frozenset({1, 2, 3})
) -> tuple[Pipeline, Policy, InstalledJudge | None]:
    """The pipeline as the service would run it, a policy, and the judge, which wants to be entered."""
    policies = load_policies(settings.policies_path, strict_mode=settings.strict_mode)
    name = policy_name or settings.default_policy
    if name not in policies:
        raise click.UsageError(f"No policy is called {name}; there are {', '.join(sorted(policies))}.")
    book = rule_book(settings.rules_path, settings.excluded_rules)
    installed = None
    if 3 in tiers:
        installed = installed_judge(settings, observer=NoObserver(), find_sensitive=book.current.sensitive)
    pipeline = build_pipeline(
        settings, book, tiers, installed, by_example=lambda: classes_by_example(policies)
    )
    return pipeline, policies[name], installed


T = TypeVar("T")


async def while_judging(installed: InstalledJudge | None, work: Awaitable[T]) -> T:
    """Do the work while the judge lives."""
    async with nullcontext() if installed is None else installed.judge:
        return await work
