"""Keyed hashes in place of the persons whom requests name, so that all that is kept of one can be found and erased.

`context.subject_id` is the caller's own name for somebody: a customer number, an e-mail address. It is never
stored. What is stored is an HMAC, which without the key tells nothing, not even by trying all customer numbers.
"""

import hashlib
import hmac
from typing import Any

from llmobs.errors import SettingsInvalid
from llmobs.settings import Settings

SUBJECT_ID = "subject_id"
"""The key of the context that names a person."""
LEAST_PEPPER = 32
"""Characters; a short pepper could be guessed by whoever has the table."""


class PersonKeys:
    """Turns ids into keys, the same in every process with the same pepper."""

    __slots__ = ("_body_key", "_key")

    def __init__(self, secret: str) -> None:
        # Two keys from one secret: what stands for a body must never equal what stands for a person.
        self._key = hashlib.sha256(b"llmobs persons\0" + secret.encode()).digest()
        self._body_key = hashlib.sha256(b"llmobs bodies\0" + secret.encode()).digest()

    def key_of(self, subject_id: str) -> str:
        """HMAC-SHA256, 64 hex digits."""
        return hmac.digest(self._key, subject_id.encode("utf-8", "surrogatepass"), "sha256").hex()

    def body_digest(self, body: bytes) -> bytes:
        """HMAC-SHA256 of a request's body, 32 bytes.

        A plain digest beside an idempotency key would let whoever knows the text try ids until one fits.
        """
        return hmac.digest(self._body_key, body, "sha256")

    def __repr__(self) -> str:
        return "PersonKeys(...)"


def named_person(context: dict[str, Any] | None) -> str | None:
    """The id that a context names: a string that is not empty, or an integer; anything else counts as absent."""
    named = None if context is None else context.get(SUBJECT_ID)
    if isinstance(named, str):
        return named or None
    return str(named) if isinstance(named, int) and not isinstance(named, bool) else None


def person_keys_from(settings: Settings) -> PersonKeys | None:
    """None where no pepper is set: then persons are not told apart. SettingsInvalid for a short one."""
    if not settings.subject_pepper:
        return None
    if len(settings.subject_pepper) < LEAST_PEPPER:
        raise SettingsInvalid(f"LLMOBS_SUBJECT_PEPPER must have at least {LEAST_PEPPER} characters")
    return PersonKeys(settings.subject_pepper)
