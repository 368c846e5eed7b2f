"""Rules as data: TOML packs, each rule with what it must catch and what it must leave alone.

A rule's score is the measured probability of its class when the rule hits. Built-in rules take it
from `measured.toml` (made by `training/measure_rules.py`), an operator's rule may state its own.
A stable rule with neither has never been measured, so it is treated as `trial`: recorded, never
acted on.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import re2

from llmobs.detect.tier1_patterns.checks import check_named
from llmobs.detect.tier1_patterns.normalise import VIEWS
from llmobs.domain.subject import Kind
from llmobs.errors import RulesInvalid

RULE_ID = r"^[a-z0-9]+(?:-[a-z0-9]+)*\.[a-z0-9]+(?:-[a-z0-9]+)*$"
CLASS_NAME = r"^[a-z][a-z0-9_]{1,40}$"
MAX_PATTERN_PROGRAM = 20_000
"""Instructions of one compiled pattern; more would slow every request for one rule."""

DEFAULT_VIEWS = ("raw", "folded", "unescaped")


class Status(StrEnum):
    """How far a rule is trusted."""

    TRIAL = "trial"
    STABLE = "stable"
    RETIRED = "retired"


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pattern with its conditions and its proofs."""

    id: str
    note: str
    """Why a hit matters, in a few words; shown to callers."""
    pattern: str
    """RE2 syntax. Group `value`, when there is one, is what the checks read and the span shows."""
    match: tuple[str, ...]
    """Texts that must hit; `⟦…⟧` marks the expected span."""
    skip: tuple[str, ...]
    """Texts that must not hit."""
    known_miss: tuple[str, ...] = ()
    """Texts that should hit and do not yet; proving one to hit is an error, so progress shows."""
    known_false_alarm: tuple[str, ...] = ()
    """Texts that hit and should not; likewise."""
    status: Status = Status.STABLE
    rollout: int = 100
    """Percentage of requests, by hash of the request id, in which the rule acts; else as in trial."""
    score: float | None = None
    failure_class: str | None = None
    """Overrides the pack's class."""
    views: tuple[str, ...] | None = None
    """Overrides the pack's views: raw, folded, leet, spaced, unescaped, decoded."""
    kinds: tuple[Kind, ...] | None = None
    """Overrides the pack's kinds of text: prompt, response."""
    check: tuple[str, ...] = ()
    """Checks that the value must pass, all of them: luhn, iban, entropy>3.5, ..."""
    require: tuple[str, ...] = ()
    """Patterns of which one must occur within `window` characters around the hit."""
    unless: tuple[str, ...] = ()
    """Patterns none of which may occur within `window` characters around the hit."""
    unless_text: tuple[str, ...] = ()
    """Patterns none of which may occur anywhere in the text."""
    window: int = 80
    bare: bool = False
    """The hit must stand on its own, not be shown in code, a quotation or explaining prose."""
    in_code: bool = False
    """With `bare`: lines of code around the hit are no excuse, for the attack is a document or program itself."""
    min_count: int = 1
    """Hits needed in one text."""
    min_per_100_words: float = 0.0
    """Hits needed per hundred words of the text."""


class PackHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rules of a pack share."""

    id: str
    failure_class: str
    description: str
    views: tuple[str, ...] = DEFAULT_VIEWS
    kinds: tuple[Kind, ...] = (Kind.PROMPT, Kind.RESPONSE)
    phrases: dict[str, str] = {}
    """Named patterns: a rule's require, unless and unless_text may say `@name`."""


class Pack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of rules."""

    pack: PackHead
    rule: tuple[Rule, ...]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What `measured.toml` holds."""

    rules: Mapping[str, float]
    """Rule id -> probability of its class when it hits."""
    silence: Mapping[str, float]
    """Failure class -> probability of the class when no rule of it hits."""


def read_pack(path: Path, *, tried: bool = False) -> Pack:
    """Parse and validate one file. RulesInvalid names file, rule and reason.

    `tried` says that the rules were validated already, by our tests, and only need reading.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RulesInvalid(f"{path.name}: {error}") from None
    rules = raw.get("rule")
    if not isinstance(raw.get("pack"), dict) or not isinstance(rules, list):
        raise RulesInvalid(f"{path.name}: needs a [pack] table and [[rule]] tables")
    try:
        head = msgspec.convert(raw["pack"], PackHead)
    except msgspec.ValidationError as error:
        raise RulesInvalid(f"{path.name}: [pack]: {error}") from None
    parsed = tuple(_phrased(path, head, _parse_rule(path, index, item)) for index, item in enumerate(rules))
    extra = set(raw) - {"pack", "rule"}
    if extra:
        raise RulesInvalid(f"{path.name}: unknown tables {sorted(extra)}")
    made = Pack(pack=head, rule=parsed)
    for rule in () if tried else parsed:
        reason = next(iter(rule_problems(made.pack, rule)), None)
        if reason is not None:
            raise RulesInvalid(f"{path.name}: rule {rule.id}: {reason}")
    return made


def _parse_rule(path: Path, index: int, item: Any) -> Rule:
    try:
        return msgspec.convert(item, Rule)
    except msgspec.ValidationError as error:
        name = item.get("id", f"number {index + 1}") if isinstance(item, dict) else f"number {index + 1}"
        raise RulesInvalid(f"{path.name}: rule {name}: {error}") from None


def _phrased(path: Path, head: PackHead, rule: Rule) -> Rule:
    """The rule with each `@name` replaced by the pack's phrase of that name."""

    def spelled(patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(head.phrases[p[1:]] if p.startswith("@") else p for p in patterns)

    try:
        return msgspec.structs.replace(
            rule,
            require=spelled(rule.require),
            unless=spelled(rule.unless),
            unless_text=spelled(rule.unless_text),
        )
    except KeyError as error:
        raise RulesInvalid(f"{path.name}: rule {rule.id}: the pack has no phrase {error}") from None


def rule_problems(head: PackHead, rule: Rule) -> Iterable[str]:
    """What is wrong with a rule's declaration, in words. Proofs are checked apart."""
    if not re2.search(RULE_ID, rule.id):
        yield "id must look like pack-name.rule-name in lower case"
    if not rule.id.startswith(head.id + "."):
        yield f"id must start with {head.id}."
    if not re2.search(CLASS_NAME, rule.failure_class or head.failure_class):
        yield "failure_class must be a lower-case name"
    for view in rule.views or head.views:
        if view not in VIEWS:
            yield f"unknown view {view!r}; there are {', '.join(VIEWS)}"
    if not rule.match:
        yield "needs at least one text under match"
    if not rule.skip:
        yield "needs at least one text under skip"
    if rule.score is not None and not 0.0 < rule.score <= 1.0:
        yield "score must lie above 0 and at most at 1"
    if not 0 <= rule.rollout <= 100:
        yield "rollout is a percentage"
    if rule.window < 0 or rule.window > 2000:
        yield "window must lie between 0 and 2000"
    for name in rule.check:
        try:
            check_named(name)
        except (KeyError, ValueError):
            yield f"unknown check {name!r}"
    for pattern in (rule.pattern, *rule.require, *rule.unless, *rule.unless_text):
        try:
            compiled = compile_pattern(pattern)
        except re2.error as error:
            yield f"pattern {pattern!r}: {_words(error)}"
            continue
        if compiled.search(b"") is not None:
            yield f"pattern {pattern!r} matches the empty text"
        elif compiled.programsize > MAX_PATTERN_PROGRAM:
            yield f"pattern {pattern[:60]!r}... is too large ({compiled.programsize} instructions)"


def compile_pattern(pattern: str) -> Any:
    """A compiled RE2 pattern that reads UTF-8 bytes; re2.error when it does not compile."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 64 << 20
    return re2.compile(pattern.encode(), options)


Spans = Sequence[tuple[int, int]]
"""Half-open byte ranges of a match: the whole, then each group; -1 where a group took no part."""


def searcher(pattern: Any) -> Callable[..., Spans | None]:
    """`search(text: bytes, start: int = 0)` for a compiled pattern: the first match from `start` on.

    google-re2's own `search` makes a generator and a match object, which costs more than most searches.
    """
    match = pattern._regexp.Match  # noqa: SLF001  # what its `search` calls
    anywhere = re2._Anchor.UNANCHORED  # noqa: SLF001

    def search(text: bytes, start: int = 0) -> Spans | None:
        spans: Spans = match(anywhere, text, start, len(text))
        return None if spans[0][0] < 0 else spans

    return search


def _words(error: Exception) -> str:
    reason = error.args[0] if error.args else "does not compile"
    return reason.decode() if isinstance(reason, bytes) else str(reason)


def read_measured(path: Path) -> Measured:
    """The measured scores; RulesInvalid when the file is not as `training/measure_rules.py` wrote it."""
    if not path.exists():
        return Measured(rules={}, silence={})
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Measured)
    except (msgspec.DecodeError, msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise RulesInvalid(f"{path.name}: {error}") from None


def read_packs(folder: Path, *, tried: bool = False) -> tuple[Pack, ...]:
    """All packs of a folder in name order. Ids must be unique across them. `tried` as for `read_pack`."""
    if not folder.is_dir():
        raise RulesInvalid(f"{folder}: no such folder")
    return tuple(
        read_pack(path, tried=tried) for path in sorted(folder.glob("*.toml")) if path.name != "measured.toml"
    )


def unique(packs: Iterable[Pack]) -> None:
    """RulesInvalid when two rules share an id."""
    seen: dict[str, str] = {}
    for pack in packs:
        for rule in pack.rule:
            if rule.id in seen:
                raise RulesInvalid(f"rule {rule.id} stands in packs {seen[rule.id]} and {pack.pack.id}")
            seen[rule.id] = pack.pack.id
