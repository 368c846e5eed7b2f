"""The use case: examine one text, decide, record, and only then answer.

    text -> pipeline (reports) -> policy (decision) -> journal (commit) -> answer

Read this page first; everything else serves it.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Protocol

import anyio.to_thread
import msgspec

from llmobs.access.persons import SUBJECT_ID, PersonKeys, named_person
from llmobs.detect.pipeline import Departed, Pipeline
from llmobs.domain.decision import decide
from llmobs.domain.policy import Policy
from llmobs.domain.record import Record, told
from llmobs.domain.redaction import masked
from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind, Span, subject_from_context
from llmobs.domain.urgency import CAN_WAIT
from llmobs.domain.verdict import Verdict
from llmobs.errors import IdempotencyConflict, PolicyUnknown
from llmobs.ids import new_request_id
from llmobs.policies import PolicyBook, shared_policies
from llmobs.remembered import Generation, Known, Remembered, key_of
from llmobs.settings import StoreText

INLINE_CONTEXT = 8_000
"""Bytes of context that are searched for things to mask on the event loop; more goes to a thread."""


ITEMS_AT_ONCE = 32
"""Items of batches under examination at a time, of one process: more would wait for the encoder beyond
its deadline."""
SHORT = 6
"""Texts shorter than this hold no e-mail address, number or credential that a rule knows."""


class Inquiry(msgspec.Struct, frozen=True, kw_only=True):
    """One text to screen, as it came in."""

    text: str
    kind: Kind = Kind.RESPONSE
    context: dict[str, Any] | None = None
    context_bytes: int = 0
    policy: str | None = None
    client_id: str | None = None
    idempotency_key: str | None = None
    body_sha256: bytes | None = None
    departed: Departed | None = None
    """Returns when whoever asked has gone away; None where nobody can tell."""


class Recalled(msgspec.Struct, gc=False):
    """What memory says of an inquiry."""

    policy: Policy
    person: str | None
    known: Known | None
    """What was decided of an equal one; None where it is to be examined."""
    began: float
    """perf_counter() before memory was asked."""
    key: bytes | None = None
    """Under which the verdict is to be kept; None where it is not."""
    generation: Generation = ()


class Screened(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was decided, and whether it stands in the record."""

    record: Record
    recorded: bool
    replayed: bool = False
    """The idempotency key was seen before: this is the first verdict again."""


class Receipt(Protocol):
    """What became of an appended record."""

    @property
    def recorded(self) -> bool: ...
    @property
    def duplicate_of(self) -> Record | None: ...


class Journal(Protocol):
    """Keeps records; returns after the commit that holds the record."""

    async def append(self, record: Record) -> Receipt: ...
    async def by_idempotency_key(self, client_id: str | None, key: str) -> Record | None: ...


class Observer(Protocol):
    """Is told of every verdict given."""

    def verdict(self, verdict: Verdict) -> None: ...


FindSensitive = Callable[[str], Iterable[Span]]


class Screen:
    """Screens texts. One per process; safe for concurrent use."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        policies: PolicyBook,
        journal: Journal,
        observer: Observer,
        find_sensitive: FindSensitive,
        default_policy: str = "default",
        store_text: StoreText = StoreText.REDACTED,
        remembered: Remembered | None = None,
        persons: PersonKeys | None = None,
    ) -> None:
        """Without `remembered` every text is examined, however often it comes.

        Without `persons` nobody can be erased by the id that requests name them by.
        """
        self._persons = persons
        self._remembered = remembered
        self._pipeline = pipeline
        self._policies = policies
        self._journal = journal
        self._observer = observer
        self._find_sensitive = find_sensitive
        self._default_policy = default_policy
        self._store_text = store_text
        self._items = asyncio.Semaphore(ITEMS_AT_ONCE)

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """The policies in force that all may use."""
        return shared_policies(self._policies.current)

    def policy_named(self, name: str | None, client_id: str | None = None) -> Policy:
        """The policy in force under that name, or the default.

        PolicyUnknown when there is none that this client may use; where nobody is known (None), all may be.
        """
        wanted = name or self._default_policy
        policy = self._policies.current.get(wanted)
        if policy is None or not _may_use(policy, client_id):
            known = ", ".join(sorted(n for n, p in self._policies.current.items() if _may_use(p, client_id)))
            raise PolicyUnknown(f"No policy is called {wanted!r}; there are: {known}.")
        return policy

    def classes(self, client_id: str | None = None) -> frozenset[str]:
        """The classes of all policies that this client may use."""
        found = (policy for policy in self._policies.current.values() if _may_use(policy, client_id))
        return frozenset(name for policy in found for name in policy.classes)

    def kept_note(self, note: str) -> str:
        """A note about a text, as the storage setting keeps it: masked unless texts are kept in full."""
        return note if self._store_text is StoreText.FULL else masked(note, self._find_sensitive(note))

    def recall(self, inquiry: Inquiry) -> Recalled:
        """Whether an equal request was examined before; quick. Raises PolicyUnknown.

        What names a person is not remembered: other processes would go on serving it after an erasure.
        """
        began = perf_counter()
        policy = self.policy_named(inquiry.policy, inquiry.client_id)
        person = self._person(inquiry)
        remembered = self._remembered
        if remembered is None or person is not None:
            return Recalled(policy, person, None, began)
        generation = remembered.generation()
        key = key_of(inquiry.text, inquiry.kind, inquiry.context, policy, inquiry.client_id)
        return Recalled(policy, person, remembered.get(key), began, key, generation)

    async def screen(self, inquiry: Inquiry, recalled: Recalled | None = None) -> Screened:
        """Examine, decide, record. Raises Problem when the verdict may not be given unrecorded.

        Pass what `recall` said of this inquiry, if it was asked.
        """
        if inquiry.idempotency_key is not None:
            # A name that is wrong is told of in any case.
            self.policy_named(inquiry.policy, inquiry.client_id)
            first = await self._journal.by_idempotency_key(inquiry.client_id, inquiry.idempotency_key)
            if first is not None:
                return _replay(inquiry, first)
        if recalled is None:
            recalled = self.recall(inquiry)
        known = recalled.known
        if known is not None:
            verdict = _verdict_again(known, recalled)
        elif CAN_WAIT.get():
            async with self._items:
                verdict = await self._examined(inquiry, recalled)
        else:
            verdict = await self._examined(inquiry, recalled)
        record = await self._record(inquiry, verdict, recalled)
        receipt = await self._journal.append(record)
        if receipt.duplicate_of is not None:
            return _replay(inquiry, receipt.duplicate_of)
        self._observer.verdict(verdict)
        return Screened(record=record, recorded=receipt.recorded)

    def body_digest(self, body: bytes) -> bytes:
        """What tells a repeated request from another one with the same idempotency key, 32 bytes."""
        return hashlib.sha256(body).digest() if self._persons is None else self._persons.body_digest(body)

    def _person(self, inquiry: Inquiry) -> str | None:
        """The keyed hash of the person whom the request names."""
        named = None if self._persons is None else named_person(inquiry.context)
        return None if named is None or self._persons is None else self._persons.key_of(named)

    async def _examined(self, inquiry: Inquiry, recalled: Recalled) -> Verdict:
        verdict = await examine(self._pipeline, recalled.policy, inquiry, recalled.person)
        if self._remembered is not None and recalled.key is not None:
            self._remembered.put(recalled.key, verdict, recalled.generation)
        return verdict

    async def _record(self, inquiry: Inquiry, verdict: Verdict, recalled: Recalled) -> Record:
        decision = verdict.decision
        said = recalled.known.told if recalled.known is not None else None
        if said is None:
            said = told(decision, verdict.coverage)
        text, context = await self._kept(inquiry, said.sensitive)
        return Record(
            request_id=verdict.request_id,
            created_at=datetime.now(UTC),
            llm_response=text,
            context=context,
            kind=inquiry.kind,
            action=decision.action,
            blocked=decision.action is Action.BLOCK,
            tier_used=decision.tier_used,
            method=decision.method,
            confidence=round(decision.confidence, 4),
            processing_time_ms=round(verdict.processing_time_ms, 3),
            failure_class=decision.failure_class,
            severity=decision.severity,
            explanation=decision.explanation,
            scores=said.scores,
            evidence=said.evidence,
            coverage=said.coverage,
            degraded=decision.degraded,
            policy_id=verdict.policy_id,
            policy_version=verdict.policy_version,
            client_id=inquiry.client_id,
            subject_key=recalled.person,
            idempotency_key=inquiry.idempotency_key,
            body_sha256=inquiry.body_sha256,
        )

    async def _kept(self, inquiry: Inquiry, sensitive: tuple[Span, ...]) -> tuple[str, dict[str, Any] | None]:
        """Text and context as the storage setting wants them, the person's id left out in any case."""
        context = inquiry.context
        if context is not None and SUBJECT_ID in context:
            context = {name: value for name, value in context.items() if name != SUBJECT_ID}
        match self._store_text:
            case StoreText.FULL:
                return inquiry.text, context
            case StoreText.HASH:
                return "sha256:" + hashlib.sha256(inquiry.text.encode()).hexdigest(), None
            case StoreText.REDACTED:
                text = masked(inquiry.text, sensitive)
                if context:
                    if inquiry.context_bytes > INLINE_CONTEXT:
                        context = await anyio.to_thread.run_sync(self._masked_json, context)
                    else:
                        context = self._masked_json(context)
                return text, context

    def _masked_json(self, value: Any) -> Any:
        if isinstance(value, str):
            # Nothing sensitive is as short as a name such as `query` or `doc_7`.
            return value if len(value) < SHORT else masked(value, self._find_sensitive(value))
        if isinstance(value, dict):
            return {self._masked_json(key): self._masked_json(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._masked_json(item) for item in value]
        return value


async def examine(pipeline: Pipeline, policy: Policy, inquiry: Inquiry, person: str | None = None) -> Verdict:
    """The verdict alone, unrecorded: what `llmobs detect` and `llmobs eval` use as well.

    `person` is the keyed hash of whom the request names.
    """
    started = perf_counter()
    request_id = new_request_id()
    subject = subject_from_context(
        inquiry.text, inquiry.kind, inquiry.context or {}, request_id, inquiry.client_id, person=person
    )
    reports, standing = await pipeline.weighed(subject, policy, inquiry.departed)
    decision = decide(policy, reports, standing)
    return Verdict(
        request_id=request_id,
        decision=decision,
        coverage=reports,
        policy_id=policy.id,
        policy_version=policy.version,
        processing_time_ms=(perf_counter() - started) * 1000,
    )


def _verdict_again(known: Known, recalled: Recalled) -> Verdict:
    policy = recalled.policy
    return Verdict(
        request_id=new_request_id(),
        decision=known.decision,
        coverage=known.coverage,
        policy_id=policy.id,
        policy_version=policy.version,
        processing_time_ms=(perf_counter() - recalled.began) * 1000,
        repeated=True,
    )


def _may_use(policy: Policy, client_id: str | None) -> bool:
    return client_id is None or policy.client in {None, client_id}


def _replay(inquiry: Inquiry, first: Record) -> Screened:
    if first.body_sha256 != inquiry.body_sha256:
        raise IdempotencyConflict("This Idempotency-Key came with another body before; use a new key.")
    return Screened(record=first, recorded=True, replayed=True)
