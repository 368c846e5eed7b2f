"""What people say of verdicts."""

from datetime import datetime
from typing import Any

import msgspec

from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind

FLAGGED = frozenset({Action.WARN, Action.BLOCK})


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict that is spoken of, as far as it matters here."""

    request_id: str
    client_id: str | None
    action: Action
    failure_class: str | None

    @property
    def named(self) -> str | None:
        """The class that the verdict acted on; None where it let the text pass."""
        return None if self.action is Action.ALLOW else self.failure_class


class Opinion(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody's word on a verdict. One verdict has at most one; a later word replaces it."""

    request_id: str
    client_id: str | None
    """Whose verdict it is."""
    created_at: datetime
    given_by: str
    """A principal's actor."""
    correct: bool
    true_class: str | None
    """What the text really is; None: harmless."""
    note: str
    """As the storage setting keeps texts."""
    action: Action
    failure_class: str | None
    """What the verdict said."""


class KeptOpinion(Opinion, frozen=True, kw_only=True):
    """An opinion as read back, with its place in the list."""

    id: int


class LabelledText(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded text with the label that an opinion gives it."""

    id: int
    request_id: str
    kind: Kind
    text: str
    """As stored: redacted where the storage setting says so."""
    context: dict[str, Any] | None
    true_class: str | None


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Opinions on one class, counted."""

    failure_class: str
    flagged: int
    """Verdicts with an opinion that warned of the class or blocked for it."""
    right: int
    """Of those, the texts that really are of the class."""
    missed: int
    """Texts of the class by opinion that were not flagged for it."""


def true_class_of(verdict: Judged, *, correct: bool, correct_class: str | None) -> str | None:
    """What the text really is, by an opinion; None: harmless. ValueError where it contradicts itself."""
    if correct:
        if correct_class not in {None, verdict.named}:
            raise ValueError(
                f"The verdict is said to be right, but it was {verdict.named or 'harmless'}, not {correct_class}."
            )
        return verdict.named
    if correct_class == verdict.named:
        raise ValueError(
            f"The verdict is said to be wrong, but {correct_class or 'harmless'} is what it was: "
            "name another class, or none where the text is harmless."
        )
    return correct_class
