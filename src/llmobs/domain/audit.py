"""The record of what administrators did: a chain in which every entry vouches for the one before."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

START = bytes(32)
"""What stands before the first entry."""


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """Something an administrator did."""

    at: str
    """ISO 8601, UTC, to the microsecond."""
    actor: str
    """A principal's actor, or `command line`."""
    action: str
    """Noun and verb, such as `key.revoke`."""
    target: str
    """The id of what it was done to."""
    details: str
    """What changed, as a JSON object. Never a key, a secret or an examined text.

    Text, as the time is: what is vouched for is what stands in the table, to the byte.
    """


def deed(actor: str, action: str, target: str, /, **details: Any) -> Deed:
    """A deed of this moment; details, which may have any name, are left out where they are None."""
    told = {name: value for name, value in details.items() if value is not None}
    return Deed(
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        actor=actor,
        action=action,
        target=target,
        details=msgspec.json.encode(told, order="deterministic").decode(),
    )


class Entry(Deed, frozen=True, kw_only=True):
    """A deed in its place in the chain."""

    id: int
    """From 1 on, without gaps."""
    previous: bytes
    """The digest of the entry before."""
    digest: bytes


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the whole chain showed."""

    entries: int
    broken_at: int | None
    """Id of the first entry that is not as it was written; None: all are."""
    reason: str
    head: bytes
    """Digest of the last good entry. Keep it elsewhere: an end cut off shows only by it."""


def digest_of(entry_id: int, previous: bytes, done: Deed) -> bytes:
    """SHA-256 over the entry's place, the digest before it and all that it says, 32 bytes."""
    said = [entry_id, previous.hex(), done.at, done.actor, done.action, done.target, done.details]
    return hashlib.sha256(b"llmobs audit 1\0" + msgspec.json.encode(said)).digest()


def first_fault(entries: Iterable[Entry], seen: int = 0, before: bytes = START) -> Verified:
    """Look at entries in order of id, the first of which follows `seen` others that end in `before`."""
    for entry in entries:
        reason = ""
        if entry.id != seen + 1:
            reason = f"entry {seen + 1} is missing before it"
        elif entry.previous != before:
            reason = f"it does not follow entry {seen} as that stands"
        elif digest_of(entry.id, entry.previous, entry) != entry.digest:
            reason = "it was changed after it was written"
        if reason:
            return Verified(entries=seen, broken_at=entry.id, reason=reason, head=before)
        seen, before = entry.id, entry.digest
    return Verified(entries=seen, broken_at=None, reason="", head=before)
