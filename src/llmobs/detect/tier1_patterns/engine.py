"""The compiled rules: one pass for words a view, then only the patterns whose words occur."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from llmobs.detect.tier1_patterns.checks import Check, check_named
from llmobs.detect.tier1_patterns.normalise import View, disguises
from llmobs.detect.tier1_patterns.pack import Measured, Pack, Rule, Spans, Status, compile_pattern, searcher
from llmobs.detect.tier1_patterns.prefilter import Prefilter, any_of
from llmobs.domain.detection import Evidence
from llmobs.domain.risk import FailureClass
from llmobs.domain.subject import Kind, Span, Subject

MAX_SPANS = 16
"""Spans told per rule and text; one is enough to act, the rest helps to redact."""
MAX_CANDIDATES = 2000
"""Raw matches of one rule that are put through its checks; bounds work on hostile texts."""

_WORDS = re.compile(r"\S+")


class Hit(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A rule that holds for a text, with the spans in the text as received."""

    rule: Rule
    failure_class: str
    score: float | None
    spans: tuple[Span, ...]
    """All of them, up to MAX_CANDIDATES, so that everything sensitive can be masked."""
    view: str


SENSITIVE = frozenset({FailureClass.SECRET_LEAK, FailureClass.PII_LEAK})
"""Classes whose spans are masked before storage."""


class CompiledRule:
    """A rule with its patterns and checks made ready."""

    __slots__ = (
        "_checks",
        "_group",
        "_require",
        "_search",
        "_unless",
        "_unless_text",
        "failure_class",
        "kinds",
        "rule",
        "score",
        "views",
    )

    def __init__(self, pack: Pack, rule: Rule, score: float | None) -> None:
        self.rule = rule
        self.failure_class = rule.failure_class or pack.pack.failure_class
        self.views = rule.views or pack.pack.views
        self.kinds = frozenset(rule.kinds or pack.pack.kinds)
        self.score = score
        self._search: Callable[..., Spans | None] = self._first_search
        self._group = 0
        self._checks: tuple[Check, ...] = tuple(check_named(name) for name in rule.check)
        self._require = any_of(rule.require)
        self._unless = any_of(rule.unless)
        self._unless_text = any_of(rule.unless_text)

    def _first_search(self, text: bytes, start: int = 0) -> Spans | None:
        """Compiles the pattern when a text first asks for it: to do it for all costs every start a tenth of its time."""
        pattern = compile_pattern(self.rule.pattern)
        groups = pattern.groupindex
        self._group = groups.get("value", groups.get(b"value", 0))
        self._search = searcher(pattern)
        return self._search(text, start)

    def hit(self, view: View) -> Hit | None:
        """The rule's hit in a view, if its pattern occurs and its conditions hold."""
        first = self._search(view.encoded)
        if first is None:
            return None
        rule = self.rule
        most = max(MAX_SPANS, rule.min_count)
        if rule.min_per_100_words or self.failure_class in SENSITIVE:
            most = MAX_CANDIDATES
        spans: list[tuple[int, int]] = []
        for start, end, value_start, value_end in self._candidates(view, first):
            if self._holds(view, start, end, value_start, value_end):
                spans.append((value_start, value_end))
                if len(spans) >= most:
                    break
        if len(spans) < rule.min_count:
            return None
        if rule.min_per_100_words:
            words = max(1, sum(1 for _ in _WORDS.finditer(view.text)))
            if len(spans) * 100 < rule.min_per_100_words * words:
                return None
        if self._unless_text is not None and view.fulfils(self._unless_text):
            return None
        return Hit(
            rule=rule,
            failure_class=self.failure_class,
            score=self.score,
            spans=tuple(view.span(start, end) for start, end in spans),
            view=view.name,
        )

    def adds_nothing(self, reached: Mapping[str, float]) -> bool:
        """Whether a hit would neither raise its class above what is reached, nor be masked, nor be on trial."""
        if self.rule.status is not Status.STABLE or self.failure_class in SENSITIVE:
            return False
        return self.score is not None and self.score <= reached.get(self.failure_class, -1.0)

    def _candidates(self, view: View, first: Spans) -> Iterator[tuple[int, int, int, int]]:
        """Whole match and value, as code point offsets in the view, from the first match on."""
        encoded = view.encoded
        plain = view.text.isascii()
        at_byte = at_char = position = 0
        match: Spans | None = first
        for _ in range(MAX_CANDIDATES):
            if match is None:
                return
            start, end = match[0]
            value_start, value_end = match[self._group]
            if value_start < 0:
                value_start, value_end = start, end
            if plain:
                yield start, end, value_start, value_end
            else:
                at_char += len(encoded[at_byte:start].decode())
                at_byte = start
                yield (
                    at_char,
                    at_char + len(encoded[start:end].decode()),
                    at_char + len(encoded[start:value_start].decode()),
                    at_char + len(encoded[start:value_end].decode()),
                )
            if position == len(encoded):
                return
            position = end if end != position else position + 1
            match = self._search(encoded, position)

    def _holds(self, view: View, start: int, end: int, value_start: int, value_end: int) -> bool:
        text = view.text
        if self._checks:
            value = text[value_start:value_end]
            known = view.checked.get((self._checks, value))
            if known is None:
                known = all(check(value) for check in self._checks)
                view.checked[self._checks, value] = known
            if not known:
                return False
        if self._require is not None or self._unless is not None:
            window = self.rule.window
            around = View("window", text[max(0, start - window) : end + window])
            if self._require is not None and not self._require.occurs(around):
                return False
            if self._unless is not None and self._unless.occurs(around):
                return False
        return not self.rule.bare or view.shape.is_bare(start, end, in_code=self.rule.in_code)


class RuleSet:
    """All rules that may speak, compiled. Immutable: a reload makes a new one."""

    def __init__(self, packs: Sequence[Pack], measured: Measured, excluded: Iterable[str] = ()) -> None:
        self.packs = tuple(packs)
        self._warm = False
        excluded = tuple(excluded)
        self.rules = tuple(
            CompiledRule(pack, rule, rule.score if rule.score is not None else measured.rules.get(rule.id))
            for pack in packs
            for rule in pack.rule
            if rule.status is not Status.RETIRED and not excluded_by(rule.id, excluded)
        )
        self.silence = dict(measured.silence)
        self.partial = frozenset(f"rule:{rule.rule.id}" for rule in self.rules if rule.rule.rollout < 100)
        """Sources of evidence that act for a share of the requests only."""
        self.classes = frozenset(rule.failure_class for rule in self.rules)
        self._all = _RuleGroup(self.rules)
        self._masking = _RuleGroup([rule for rule in self.rules if rule.failure_class in SENSITIVE])

    def hits(self, subject: Subject, *, deciding: bool = False) -> list[Hit]:
        """Every rule that holds, once each, the raw view first. Linear in the length of the text.

        With `deciding`, rewritten views are asked only for what may raise a class's score, for rules on
        trial, and for what has to be masked: classes and scores are the same, and a text made of attacks in
        every disguise costs less.
        """
        return self._all.hits(subject.text, subject.kind, deciding=deciding)

    def warm(self) -> None:
        """Run one example of each rule, once: automatons and conditions are made by texts that need them."""
        if self._warm:
            return
        self._warm = True
        for pack in self.packs:
            for rule in pack.rule:
                self._all.hits(rule.match[0], None)

    def sensitive(self, text: str) -> list[Span]:
        """Where secrets and personal data stand in any text, for masking."""
        return [span for hit in self._masking.hits(text, None) for span in hit.spans]


class _RuleGroup:
    """Rules that are looked for together."""

    def __init__(self, rules: Sequence[CompiledRule]) -> None:
        self._rules = tuple(rules)
        self._prefilter = Prefilter(
            [rule.rule.pattern for rule in self._rules], [rule.views for rule in self._rules]
        )

    def hits(self, text: str, kind: Kind | None, *, deciding: bool = False) -> list[Hit]:
        """Rules that hold, with a kind of text or with any; `deciding` as `RuleSet.hits` has it."""
        raw = View("raw", text)
        found: dict[str, Hit] = {}
        reached: dict[str, float] = {}
        """The highest score of each class that needs no more asking; empty while looking at the raw view."""
        for view in (raw, *disguises(raw)):
            if deciding and view is not raw:
                reached = _reached(found.values())
            view.checked = raw.checked
            for index in self._prefilter.possible(view):
                rule = self._rules[index]
                if kind is not None and kind not in rule.kinds:
                    continue
                known = found.get(rule.rule.id)
                if known is None:
                    if reached and rule.adds_nothing(reached):
                        continue
                    hit = rule.hit(view)
                    if hit is not None:
                        found[rule.rule.id] = hit
                elif rule.failure_class in SENSITIVE:
                    # One e-mail in plain sight must not keep an encoded one from being masked.
                    hit = rule.hit(view)
                    if hit is not None and not set(hit.spans) <= set(known.spans):
                        merged = tuple(dict.fromkeys((*known.spans, *hit.spans)))
                        found[rule.rule.id] = msgspec.structs.replace(known, spans=merged)
        return list(found.values())


def _reached(hits: Iterable[Hit]) -> dict[str, float]:
    """The highest score of each class among hits that act for every request."""
    reached: dict[str, float] = {}
    for hit in hits:
        rule = hit.rule
        if rule.status is Status.STABLE and rule.rollout >= 100 and hit.score is not None:
            reached[hit.failure_class] = max(hit.score, reached.get(hit.failure_class, 0.0))
    return reached


def excluded_by(rule_id: str, excluded: Sequence[str]) -> bool:
    """Whether the list names the rule, or a prefix of it with a trailing `*`."""
    return any(
        rule_id == entry or (entry.endswith("*") and rule_id.startswith(entry[:-1])) for entry in excluded
    )


def acts(hit: Hit, request_id: str) -> bool:
    """Whether the hit counts: stable, measured, and inside its percentage roll-out."""
    rule = hit.rule
    if rule.status is not Status.STABLE or hit.score is None:
        return False
    if rule.rollout >= 100:
        return True
    digest = hashlib.blake2b(f"{rule.id}\0{request_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) % 100 < rule.rollout


def evidence_of(hit: Hit, *, trial: bool) -> list[Evidence]:
    """The hit as evidence, one piece a span."""
    shown = hit.rule.note if hit.view == "raw" else f"{hit.rule.note} ({hit.view})"
    return [
        Evidence(
            failure_class=hit.failure_class,
            source=f"rule:{hit.rule.id}",
            score=hit.score or 0.0,
            note=shown,
            span=span,
            trial=trial,
        )
        for span in hit.spans[:MAX_SPANS]
    ]
