"""Bearer tokens of an identity provider (JWT, RFC 7519 and RFC 8725): checked, and read for client and scopes."""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic, time
from typing import Any

import jwt
import msgspec

from llmobs.access.jwks import ALGORITHMS, KeySet, KeysUnavailable
from llmobs.domain.access import EVERYTHING, Client, Principal, Role, Scope, View
from llmobs.errors import CredentialsUnchecked, SettingsInvalid, StoreUnavailable, Unauthenticated
from llmobs.settings import Settings

LONGEST = 16_384
"""Bytes of a token."""
MOST_KNOWN = 10_000
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})

ClientLookup = Callable[[str], Awaitable[tuple[Client, frozenset[str]] | None]]
"""A client and the clients whose rows it may read; StoreUnavailable when nobody can tell now."""

_REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "The token has expired."),
    (jwt.ImmatureSignatureError, "The token is not good yet."),
    (jwt.InvalidAudienceError, "The token is meant for another audience."),
    (jwt.InvalidIssuerError, "The token has another issuer."),
    (jwt.MissingRequiredClaimError, "The token lacks a claim that it must have."),
)


class _Known(msgspec.Struct):
    principal: Principal
    until: float
    """Unix time of the token's expiry, leeway included."""
    checked_at: float
    """On the monotonic clock."""


class Tokens:
    """Checks tokens. One per process; safe for concurrent use."""

    def __init__(self, settings: Settings, keys: KeySet, clients: ClientLookup) -> None:
        """SettingsInvalid when something is missing without which a token could not be trusted."""
        for name, value in (("ISSUER", settings.jwt_issuer), ("AUDIENCE", settings.audiences)):
            if not value:
                raise SettingsInvalid(f"tokens need LLMOBS_JWT_{name}")
        unfit = set(settings.algorithms) - ALGORITHMS
        if unfit or not settings.algorithms:
            raise SettingsInvalid(
                f"LLMOBS_JWT_ALGORITHMS: {', '.join(sorted(unfit)) or 'nothing'} cannot be taken; "
                f"there are: {', '.join(sorted(ALGORITHMS))}"
            )
        self._settings = settings
        self._algorithms = settings.algorithms
        self._keys = keys
        self._clients = clients
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._changes = 0

    async def principal(self, token: bytes) -> Principal:
        """Who holds the token. Unauthenticated says what is wrong with it, CredentialsUnchecked that we cannot tell."""
        digest = hashlib.blake2b(token, digest_size=32).digest()
        known = self._known.get(digest)
        if (
            known is not None
            and time() < known.until
            and monotonic() - known.checked_at < self._settings.auth_cache_seconds
        ):
            return known.principal
        self._known.pop(digest, None)
        changes = self._changes
        claims = await self._claims(token)
        principal = await self._principal(claims)
        until = float(claims["exp"]) + self._settings.jwt_leeway_seconds
        if changes == self._changes:  # else the client may have been read before it was disabled
            self._known[digest] = _Known(principal, until, monotonic())
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return principal

    def forget(self) -> None:
        """Believe nothing remembered: a client has changed."""
        self._known.clear()
        self._changes += 1

    async def _claims(self, token: bytes) -> dict[str, Any]:
        if len(token) > LONGEST:
            raise _refused(f"The token has more than {LONGEST} bytes.")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise _refused("The token is no JWT.") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._algorithms:
            raise _refused("The token is signed in a way that is not taken here.")
        if str(header.get("typ", "JWT")).lower() not in TYPES:
            raise _refused("The token is of another type.")
        if not isinstance(kid, str):
            raise _refused("The token does not name its key.")
        try:
            key = await self._keys.key(kid, algorithm)
        except KeysUnavailable as error:
            raise CredentialsUnchecked(f"The token cannot be checked: {error}.") from None
        if key is None:
            raise _refused("The token names a key that the provider does not have.")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.audiences,
                issuer=self._settings.jwt_issuer,
                leeway=self._settings.jwt_leeway_seconds,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            told = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
            raise _refused(told or "The token is not valid.") from None
        return claims

    async def _principal(self, claims: Mapping[str, Any]) -> Principal:
        settings = self._settings
        scopes = _known_scopes(_names(_claim(claims, settings.jwt_scopes_claim)))
        for name in _names(_claim(claims, settings.jwt_roles_claim)):
            if name in set(Role):
                scopes |= Role(name).scopes
        is_admin = Scope.ADMIN in scopes
        subject = str(claims.get("sub", "unnamed"))[:200]
        client_id = _claim(claims, settings.jwt_client_claim)
        if not isinstance(client_id, str) or not client_id:
            if not is_admin:
                raise _refused(f"The token names no client: it has no claim {settings.jwt_client_claim}.")
            return Principal(actor=f"token:{subject}", client_id=None, scopes=scopes, view=EVERYTHING)
        try:
            found = await self._clients(client_id)
        except StoreUnavailable:
            raise CredentialsUnchecked(
                "The database does not answer, so the token's client cannot be looked up."
            ) from None
        if found is None:
            raise _refused("The token names a client that this service does not know.")
        client, sees = found
        if client.disabled_at is not None:
            raise _refused("The client of this token is disabled.")
        return Principal(
            actor=f"token:{subject}",
            client_id=client.id,
            scopes=scopes,
            view=EVERYTHING if is_admin else View(sees),
            tier=client.tier,
            policy=client.policy,
        )


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a path of names; None where it is not."""
    if path in claims:  # providers use whole URLs as names, dots included
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _names(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list):
        return [name for name in value if isinstance(name, str)]
    return ()


def _known_scopes(names: Iterable[str]) -> frozenset[Scope]:
    ours = set(Scope)
    return frozenset(Scope(name) for name in names if name in ours)


def _refused(detail: str) -> Unauthenticated:
    return Unauthenticated(detail, error="invalid_token")
