"""The one place where callers are let in: credentials in the headers -> Principal, or a problem.

    headers -> credential -> known already?  -> scopes -> Principal
                               no: look it up, check it, remember it for a while

Both ways into the service pass here: the edge, which answers `/v1/detect` itself, and the guard that
stands before every handler of the framework.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol, TypeVar

import msgspec
import structlog

from llmobs.access.keys import PREFIX, Pepper, id_of, matches
from llmobs.access.sessions import PAGE_HEADER, Sessions, cookie_in
from llmobs.domain.access import ANYONE, EVERYTHING, HeldKey, Need, Principal, Scope, View
from llmobs.errors import CredentialsUnchecked, Forbidden, StoreUnavailable, Unauthenticated

log = structlog.get_logger("llmobs.access")

V = TypeVar("V")
Headers = Iterable[tuple[bytes, bytes]]
Lookup = Callable[[str], Awaitable[HeldKey | None]]
"""The key with that id; StoreUnavailable when nobody can tell now."""

MOST_KNOWN = 10_000
MOST_REFUSED = 10_000
REFUSED_SECONDS = 5.0
"""How long an unknown key is refused without another look: it shields the database from a flood."""
_KEY_START = PREFIX.encode()


class Tokens(Protocol):
    """Checks bearer tokens."""

    async def principal(self, token: bytes) -> Principal:
        """Who holds the token; raises Unauthenticated with the reason."""

    def forget(self) -> None:
        """Believe nothing remembered."""


class _Known(msgspec.Struct):
    """A key that was found good."""

    principal: Principal
    key_id: str
    checked_at: float
    """On the monotonic clock."""
    expires_at: datetime | None


class Gate:
    """Lets callers in. One per process; safe for concurrent use."""

    def __init__(
        self,
        *,
        pepper: Pepper | None = None,
        lookup: Lookup | None = None,
        tokens: Tokens | None = None,
        sessions: Sessions | None = None,
        cache_seconds: float = 30.0,
        outage_seconds: float = 600.0,
        open_metrics: bool = False,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """With neither a pepper nor tokens nobody is asked for credentials; without `sessions` no cookie counts.

        A key that was found good is believed for `cache_seconds`, so a revocation in another process
        takes that long at most. While the database does not answer it is believed for `outage_seconds`
        since it was last checked: verdicts can be spooled then, and their callers must get in.
        """
        self._pepper = pepper
        self._lookup = lookup
        self._tokens = tokens
        self._sessions = sessions
        self._cache_seconds = cache_seconds
        self._outage_seconds = max(cache_seconds, outage_seconds)
        self._open_metrics = open_metrics
        self._now = now
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._looking: dict[bytes, asyncio.Task[_Known]] = {}
        self._used: dict[str, datetime] = {}
        self._changes = 0

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for credentials."""
        return self._pepper is None and self._tokens is None

    async def admit(self, headers: Headers, need: Need) -> Principal:
        """Who asks, where the need is met. Unauthenticated (401) and Forbidden (403) say why not."""
        if (
            need is Need.PUBLIC
            or (self._pepper is None and self._tokens is None)
            or (need is Need.METRICS_READ and self._open_metrics)
        ):
            return ANYONE
        principal = await self._principal(headers)
        if not principal.may(need):
            raise Forbidden(
                f"This needs the scope {need.value}, and the credential has "
                f"{', '.join(sorted(principal.scopes)) or 'none'}.",
                scope=need.value,
            )
        return principal

    def forget(self, key_id: str | None = None) -> None:
        """Believe nothing remembered of a key, or of any: something about it has changed."""
        for digest in [d for d, known in self._known.items() if key_id in {None, known.key_id}]:
            del self._known[digest]
        self._refused.clear()
        if self._tokens is not None:
            self._tokens.forget()
        self._changes += 1

    def used(self) -> dict[str, datetime]:
        """When keys were last used since this was last asked, by id."""
        found, self._used = self._used, {}
        return found

    async def _principal(self, headers: Headers) -> Principal:
        shown = self._credential(headers)
        if self._pepper is not None and (self._tokens is None or shown.startswith(_KEY_START)):
            return await self._by_key(self._pepper, shown)
        if self._tokens is None:
            raise Unauthenticated("This service takes no such credential.", error="invalid_token")
        return await self._tokens.principal(shown)

    def _credential(self, headers: Headers) -> bytes:
        """The one credential in the headers, or that of the page's session."""
        found, cookie, by_page = _shown(headers)
        if len(found) > 1:
            raise Unauthenticated("There is more than one credential; send one.", error="invalid_request")
        if found:
            return found[0]
        # Other sites can make a browser send the cookie, but not say that the page asks.
        sealed = cookie_in(cookie) if by_page and cookie and self._sessions is not None else None
        if sealed is None or self._sessions is None:
            raise Unauthenticated("Send an API key or a bearer token: `Authorization: Bearer ...`.")
        return self._sessions.opened(sealed)

    async def _by_key(self, pepper: Pepper, shown: bytes) -> Principal:
        key_id = id_of(shown)
        if key_id is None:
            raise Unauthenticated("The API key is not valid.", error="invalid_token")
        digest = pepper.digest(shown)
        now = self._now()
        known = self._known.get(digest)
        if known is None or now - known.checked_at > self._cache_seconds:
            known = await self._checked(digest, key_id, known)
        used_at = datetime.now(UTC)
        if known.expires_at is not None and known.expires_at <= used_at:
            raise Unauthenticated("The API key has expired.", error="invalid_token")
        self._used[key_id] = used_at
        return known.principal

    async def _checked(self, digest: bytes, key_id: str, before: _Known | None) -> _Known:
        """Look the key up, once for all who show it at the same time."""
        refused_at = self._refused.get(digest)
        if refused_at is not None and self._now() - refused_at < REFUSED_SECONDS:
            raise Unauthenticated("The API key is not valid.", error="invalid_token")
        task = self._looking.get(digest)
        if task is None:
            task = asyncio.ensure_future(self._looked_up(digest, key_id))
            self._looking[digest] = task
            task.add_done_callback(lambda done: self._looked(digest, done))
        try:
            return await asyncio.shield(task)
        except StoreUnavailable as error:
            if before is not None and self._now() - before.checked_at <= self._outage_seconds:
                return before
            log.warning("keys cannot be checked", reason=str(error))
            raise CredentialsUnchecked(
                "The database does not answer, so the key cannot be checked."
            ) from None

    def _looked(self, digest: bytes, done: "asyncio.Task[_Known]") -> None:
        del self._looking[digest]
        if not done.cancelled():
            done.exception()  # seen here, for those who asked may all have gone away

    async def _looked_up(self, digest: bytes, key_id: str) -> _Known:
        assert self._lookup is not None  # noqa: S101  # a gate with a pepper is built with it
        changes = self._changes
        held = await self._lookup(key_id)
        if held is None or not matches(held.digest, digest):
            _remember(self._refused, digest, self._now(), MOST_REFUSED)
            raise Unauthenticated("The API key is not valid.", error="invalid_token")
        self._known.pop(digest, None)
        if held.key.revoked_at is not None:
            raise Unauthenticated("The API key has been revoked.", error="invalid_token")
        if held.client.disabled_at is not None:
            raise Unauthenticated("The client of this API key is disabled.", error="invalid_token")
        scopes = frozenset(held.key.scopes)
        principal = Principal(
            actor=f"key:{key_id}",
            client_id=held.client.id,
            scopes=scopes,
            view=EVERYTHING if Scope.ADMIN in scopes else View(held.sees),
            tier=held.client.tier,
            policy=held.client.policy,
            key_id=key_id,
        )
        known = _Known(principal, key_id, self._now(), held.key.expires_at)
        if changes == self._changes:  # else it may have been read before it was revoked
            _remember(self._known, digest, known, MOST_KNOWN)
        return known


def _remember(kept: OrderedDict[bytes, V], digest: bytes, value: V, most: int) -> None:
    kept[digest] = value
    kept.move_to_end(digest)
    if len(kept) > most:
        kept.popitem(last=False)


def is_of_page(headers: Headers) -> bool:
    """Whether the web page itself asks: no other site can send what tells it."""
    return _shown(headers)[2]


def _shown(headers: Headers) -> tuple[list[bytes], bytes, bool]:
    """Credentials (`Authorization: Bearer ...`, `X-API-Key: ...`), cookies, and whether the page asks."""
    found: list[bytes] = []
    cookies = b""
    by_page = False
    for name, value in headers:
        if name == b"authorization":
            kind, _, shown = value.partition(b" ")
            if kind.lower() != b"bearer" or not shown.strip():
                raise Unauthenticated(
                    "Send the credential as `Authorization: Bearer ...`.", error="invalid_request"
                )
            found.append(shown.strip())
        elif name == b"x-api-key":
            found.append(value.strip())
        elif name == b"cookie":
            cookies = value if not cookies else cookies + b"; " + value
        elif name == PAGE_HEADER or (name == b"sec-fetch-site" and value == b"same-origin"):
            by_page = True
    return found, cookies, by_page
