"""What is examined: one text and what is known about where it came from."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec


class Kind(StrEnum):
    """Who wrote the text: a user asking (`prompt`) or a model answering (`response`)."""

    RESPONSE = "response"
    PROMPT = "prompt"


class Span(msgspec.Struct, frozen=True, gc=False):
    """Half-open range of code points in the text exactly as received."""

    start: int
    end: int


class Document(msgspec.Struct, frozen=True, gc=False):
    """One reference passage that the answer should rest on."""

    text: str
    id: str | None = None


class Doubt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What earlier tiers made of a class that is still open."""

    score: float
    """The score that stands, 0 to 1."""
    spans: tuple[Span, ...] = ()
    """Where the evidence for it lies, strongest first."""
    acts: bool = False
    """Whether the policy does something at this score."""
    may_lower: bool = False
    """Whether the policy lets a judge lower the score."""


class Likeness(msgspec.Struct, frozen=True):
    """A class that the policy defines by example texts."""

    examples: tuple[str, ...]
    counter_examples: tuple[str, ...] = ()


class Subject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The text examined, never rewritten or cut, with the context that detectors understand."""

    text: str
    kind: Kind = Kind.RESPONSE
    request_id: str = ""
    """Decides by its hash which percentage roll-outs apply."""
    query: str | None = None
    """The question or instruction that the text answers."""
    documents: tuple[Document, ...] = ()
    reference: str | None = None
    """A known right answer."""
    system_prompt: str | None = None
    domain: str | None = None
    """The subject area the answer must stay in, for example `medicine`."""
    client_id: str | None = None
    """Who asks, where known: budgets are kept by client."""
    person: str | None = None
    """Keyed hash of whom the request names: what is remembered of the text can be forgotten by it."""
    doubts: Mapping[str, Doubt] = {}
    """By open class, what earlier tiers found; empty for the first tier."""
    likenesses: Mapping[str, Likeness] = {}
    """By class, the policy's example texts; empty for the first tier."""


def subject_from_context(
    text: str,
    kind: Kind,
    context: dict[str, Any],
    request_id: str = "",
    client_id: str | None = None,
    *,
    person: str | None = None,
) -> Subject:
    """Pick the understood keys out of free JSON `context`; others are left alone.

    A key of an unexpected type counts as absent: the context is the caller's own, so it is stored
    as sent, and only what has the documented form takes part in detection.
    """

    def text_of(key: str) -> str | None:
        value = context.get(key)
        return value if isinstance(value, str) and value else None

    documents: list[Document] = []
    given = context.get("documents")
    if isinstance(given, list):
        for item in given:
            if isinstance(item, str):
                documents.append(Document(text=item))
            elif isinstance(item, dict) and isinstance(item.get("text"), str):
                name = item.get("id")
                documents.append(Document(text=item["text"], id=None if name is None else str(name)))
    return Subject(
        text=text,
        kind=kind,
        request_id=request_id,
        query=text_of("query"),
        documents=tuple(documents),
        reference=text_of("reference"),
        system_prompt=text_of("system_prompt"),
        domain=text_of("domain"),
        client_id=client_id,
        person=person,
    )
