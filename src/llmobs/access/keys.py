"""API keys: made, read, and compared. A key is shown once; what is kept cannot be turned back into it.

llmobs_k3v9x0qd2m7a_Zk0...43 characters...Q
└ id, kept    └ 256 random bits, kept only as a BLAKE2b digest keyed with the pepper
"""

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from llmobs.errors import SettingsInvalid
from llmobs.settings import Settings

PREFIX = "llmobs_"
_ID_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 of them, none that reads like another."""
_ID_LENGTH = 12
KEY_ID = "[a-z0-9]{12}"
_SHAPE = re.compile(f"{PREFIX}({KEY_ID})_[A-Za-z0-9_-]{{43}}".encode())
LEAST_PEPPER = 32
"""Characters; a short pepper could be guessed by whoever has the table."""


class Pepper:
    """The service's own secret, without which the digests in the database are of no use."""

    __slots__ = ("_key",)

    def __init__(self, secret: str) -> None:
        # BLAKE2b takes at most 64 bytes of key, and a pepper may be longer.
        self._key = hashlib.sha256(b"llmobs api keys\0" + secret.encode()).digest()

    def digest(self, key: bytes) -> bytes:
        """32 bytes that stand for a key."""
        return hashlib.blake2b(key, digest_size=32, key=self._key).digest()

    def derived(self, purpose: bytes) -> bytes:
        """32 bytes of key for another purpose, which tell nothing about this one."""
        return hashlib.blake2b(purpose, digest_size=32, key=self._key, person=b"llmobs derived").digest()

    def __repr__(self) -> str:
        return "Pepper(...)"


def pepper_from(settings: Settings) -> Pepper:
    """The pepper from the environment or its file; SettingsInvalid when there is none, or it is short."""
    secret = settings.key_pepper
    if not secret and settings.key_pepper_file:
        try:
            secret = Path(settings.key_pepper_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsInvalid(f"LLMOBS_KEY_PEPPER_FILE cannot be read: {type(error).__name__}") from None
    if not secret:
        raise SettingsInvalid(
            "API keys need a pepper: set LLMOBS_KEY_PEPPER or LLMOBS_KEY_PEPPER_FILE to the same secret in every "
            "process; `llmobs keys pepper` prints a fresh one"
        )
    if len(secret) < LEAST_PEPPER:
        raise SettingsInvalid(f"the pepper of the API keys must have at least {LEAST_PEPPER} characters")
    return Pepper(secret)


def new_key() -> tuple[str, str]:
    """The id and the whole of a fresh key."""
    key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
    return key_id, f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"


def id_of(shown: bytes) -> str | None:
    """The id inside a key that someone shows; None when it is no key of ours by its form."""
    match = _SHAPE.fullmatch(shown)
    return None if match is None else match[1].decode()


def matches(kept: bytes, shown: bytes) -> bool:
    """Whether two digests are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(kept, shown)
