"""Sessions of the web page: a credential, sealed into a cookie that no script can read.

    credential + end --AES-256-GCM, key from the pepper--> cookie

The cookie holds the credential itself, so whatever ends the credential (revocation, expiry, a disabled
client, a token's `exp`) ends the session as soon as it would end the credential, in every process and on
every machine with the same pepper; nothing is kept on the server.
"""

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from datetime import UTC, datetime
from time import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmobs.access.keys import Pepper
from llmobs.errors import Unauthenticated

COOKIE = "llmobs"
SECURE_COOKIE = "__Host-llmobs"
"""Over TLS: browsers take a cookie of this name only from the host itself, over TLS, for the whole site."""
PAGE_HEADER = b"x-llmobs-page"
"""What the page sends with every call. No other site can make a browser send it without being let by CORS."""
MOST_BYTES = 3_000
"""Largest credential; browsers keep cookies of up to 4,096 bytes."""
_NONCE = 12
_BOUND_TO = b"llmobs session 1"


class Sessions:
    """Seals credentials and opens them again. The same pepper makes the same."""

    def __init__(self, pepper: Pepper, seconds: float, *, now: Callable[[], float] = time) -> None:
        """`seconds`: how long a session lasts at most."""
        self._cipher = AESGCM(pepper.derived(b"page sessions"))
        self._seconds = seconds
        self._now = now

    @property
    def seconds(self) -> float:
        """How long a session lasts at most."""
        return self._seconds

    def sealed(self, credential: bytes) -> tuple[str, datetime]:
        """The cookie's value and when it ends; Unauthenticated for what cannot be a credential."""
        if not 0 < len(credential) <= MOST_BYTES or not all(33 <= byte <= 126 for byte in credential):
            raise Unauthenticated("That is no API key and no bearer token.", error="invalid_token")
        ends = int(self._now() + self._seconds)
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, ends.to_bytes(8) + credential, _BOUND_TO)
        return urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode(), datetime.fromtimestamp(ends, UTC)

    def opened(self, value: bytes) -> bytes:
        """The credential in a cookie; Unauthenticated when the session is over or the cookie is not ours."""
        try:
            whole = urlsafe_b64decode(value + b"=" * (-len(value) % 4))
            plain = self._cipher.decrypt(whole[:_NONCE], whole[_NONCE:], _BOUND_TO)
        except (NotBase64, ValueError, InvalidTag):
            raise Unauthenticated("The session is not valid; sign in again.", error="invalid_token") from None
        if int.from_bytes(plain[:8]) <= self._now():
            raise Unauthenticated("The session has ended; sign in again.", error="invalid_token")
        return plain[8:]


def cookie_in(header: bytes) -> bytes | None:
    """Our cookie's value in a `Cookie` header, the one that only TLS can have set first."""
    found = dict(part.strip().partition(b"=")[::2] for part in header.split(b";"))
    return found.get(SECURE_COOKIE.encode()) or found.get(COOKIE.encode()) or None
