"""Thresholds per class on the one calibrated scale, and what to do when a detector fails."""

from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from math import inf

import msgspec

from llmobs.domain.risk import Action, Severity
from llmobs.domain.subject import Likeness

FEWEST_EXAMPLES, MOST_EXAMPLES = 3, 50
LONGEST_EXAMPLE = 2_000


class OnFailure(StrEnum):
    """What an unheard open class does to the action."""

    ALLOW = "allow"
    WARN = "warn"
    BLOCK = "block"

    @property
    def action(self) -> Action:
        """The action of the same name."""
        return Action(self.value)


class Judging(StrEnum):
    """What the LLM judge may do to a class."""

    NEVER = "never"
    """It is not asked."""
    RAISE = "raise"
    """It may raise the score, never lower it: what it reads may be written to talk it round."""
    WEIGH = "weigh"
    """Its score replaces the earlier one. It softens an action only after it has passed a control."""


class ClassPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one failure class may do. A threshold of None is never reached."""

    severity: Severity
    clear: float = 0.0
    """Below this a detector that may clear the class settles it as absent."""
    log: float | None = None
    warn: float | None = None
    block: float | None = None
    on_failure: OnFailure = OnFailure.ALLOW
    raise_only: bool = False
    """Later tiers may raise the score of this class and never lower it."""
    judge: Judging = Judging.WEIGH
    judge_from: float | None = None
    """Lowest score at which the LLM judge is asked about the class; None: from `clear` on."""
    message: str = ""
    """Told to the caller when the class decides."""

    examples: tuple[str, ...] = ()
    """Texts that define the class by likeness: 3 to 50 of them make a detector for it."""
    counter_examples: tuple[str, ...] = ()
    """Texts that are close and yet no case of it, up to 50."""

    def problems(self) -> list[str]:
        """What is wrong with the thresholds and examples, in words; empty when they are sound."""
        found = []
        if self.examples and not FEWEST_EXAMPLES <= len(self.examples) <= MOST_EXAMPLES:
            found.append(f"{len(self.examples)} examples: give {FEWEST_EXAMPLES} to {MOST_EXAMPLES}, or none")
        if len(self.counter_examples) > MOST_EXAMPLES:
            found.append(f"{len(self.counter_examples)} counter_examples: give at most {MOST_EXAMPLES}")
        if self.counter_examples and not self.examples:
            found.append("counter_examples without examples")
        for text in (*self.examples, *self.counter_examples):
            if not text.strip() or len(text) > LONGEST_EXAMPLE:
                found.append(f"an example is empty or longer than {LONGEST_EXAMPLE} characters")
                break
        ladder = [("clear", self.clear), ("log", self.log), ("warn", self.warn), ("block", self.block)]
        given = [(name, value) for name, value in ladder if value is not None]
        for name, value in given:
            if not 0.0 <= value <= 1.0:
                found.append(f"{name} = {value} lies outside 0 to 1")
            if name != "clear" and value == 0.0:
                found.append(f"{name} = 0 would act on every text")
        for (lower, a), (upper, b) in pairwise(given):
            if a > b:
                found.append(f"{lower} = {a} lies above {upper} = {b}")
        if self.judge_from is not None and not 0.0 <= self.judge_from <= 1.0:
            found.append(f"judge_from = {self.judge_from} lies outside 0 to 1")
        if len(given) == 1:
            found.append("no action threshold: give at least one of log, warn, block")
        return found

    def action_at(self, score: float, *, strict: bool) -> Action:
        """The action for a calibrated score. `strict` lifts medium severity from warn to block."""
        if self.block is not None and score >= self.block:
            return Action.BLOCK
        if self.warn is not None and score >= self.warn:
            return Action.BLOCK if strict and self.severity is Severity.MEDIUM else Action.WARN
        if self.log is not None and score >= self.log:
            return Action.LOG
        return Action.ALLOW

    @property
    def doubtful_from(self) -> float:
        """The score from which the LLM judge is asked; up to `ceiling`, where the class is settled."""
        return self.clear if self.judge_from is None else self.judge_from

    @property
    def ceiling(self) -> float:
        """The score from which no higher action exists: reaching it settles the class.

        Infinite where a failure asks for more than any score does: then a class that is surely
        there must not be let off with less than one that nobody could look for.
        """
        found, strongest = 1.0, Action.ALLOW
        for threshold, action in (
            (self.block, Action.BLOCK),
            (self.warn, Action.WARN),
            (self.log, Action.LOG),
        ):
            if threshold is not None:
                found, strongest = threshold, action
                break
        return found if self.on_failure.action.rank <= strongest.rank else inf


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A versioned set of class policies."""

    id: str
    version: int
    classes: Mapping[str, ClassPolicy]
    strict_mode: bool = False
    description: str = ""
    client: str | None = None
    """The client it belongs to; None: all may use it."""

    @property
    def likenesses(self) -> Mapping[str, Likeness]:
        """The classes that example texts define."""
        return {
            name: Likeness(limits.examples, limits.counter_examples)
            for name, limits in self.classes.items()
            if limits.examples
        }

    def action_for(self, failure_class: str, score: float) -> Action:
        """The action for a score. A class the policy does not name is recorded, never acted on."""
        found = self.classes.get(failure_class)
        return Action.ALLOW if found is None else found.action_at(score, strict=self.strict_mode)
