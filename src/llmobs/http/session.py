"""/ui/session: signing in to the web page and out of it."""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import Cookie
from msgspec import Meta

from llmobs.access.gate import is_of_page
from llmobs.access.sessions import COOKIE, MOST_BYTES, SECURE_COOKIE
from llmobs.domain.access import Need, Principal
from llmobs.domain.audit import deed
from llmobs.errors import EntryConflict, RateLimited, Unauthenticated
from llmobs.http.access import needs
from llmobs.http.bodies import read_body
from llmobs.http.services import Services, services

SIGN_IN = "session.open"
MAX_SIGN_IN = 65_536
"""Bytes of a body."""
MOST_FAILED = 10
FAILED_SECONDS = 60.0
"""So many wrong credentials of one address within so long, then it waits. Keys cannot be guessed; this keeps
whoever tries from filling logs and asking the database."""
MOST_ADDRESSES = 10_000

AnyRequest = Request[Any, Any, Any]


class SignIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /ui/session."""

    credential: Annotated[
        str, Meta(min_length=1, max_length=MOST_BYTES, description="API key or bearer token.")
    ]


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses the page, and whether anybody is asked."""

    asks: Annotated[bool, Meta(description="Whether the service asks for credentials at all.")]
    sessions: Annotated[bool, Meta(description="Whether one can sign in; else a key goes with each call.")]
    signed_in: bool
    actor: str | None = None
    client_id: str | None = None
    scopes: tuple[str, ...] = ()
    ends_at: Annotated[datetime | None, Meta(description="Of a session that begins now.")] = None


class FailedSignIns:
    """Counts wrong credentials by address. Of one process: each of several lets the same number through."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._by_address: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise RateLimited while the address has to wait."""
        since, count = self._by_address.get(address, (0.0, 0))
        left = since + FAILED_SECONDS - self._now()
        if count >= MOST_FAILED and left > 0:
            raise RateLimited(
                "Too many wrong credentials came from this address.", seconds=int(left) + 1, reason="sign-in"
            )

    def failed(self, address: str) -> None:
        """One more."""
        now = self._now()
        since, count = self._by_address.pop(address, (now, 0))
        self._by_address[address] = (since, count + 1) if now - since < FAILED_SECONDS else (now, 1)
        if len(self._by_address) > MOST_ADDRESSES:
            self._by_address.popitem(last=False)


@get("/ui/session", opt=needs(Need.PUBLIC))
async def session(request: AnyRequest) -> Response[bytes]:
    """Who is signed in. Never an error: the page asks before anybody could have signed in."""
    parts = services(request)
    try:
        who = await parts.gate.admit(request.scope["headers"], Need.KNOWN)
    except Unauthenticated:
        return _told(_state(parts))
    return _told(_state(parts, None if parts.gate.is_open else who))


@post("/ui/session", opt=needs(Need.PUBLIC), request_max_body_size=MAX_SIGN_IN, status_code=200)
async def sign_in(request: AnyRequest) -> Response[bytes]:
    """Begin a session with an API key or a bearer token, which is sealed into a cookie."""
    parts = services(request)
    asked = await read_body(request, SignIn)
    if not is_of_page(request.scope["headers"]):
        raise Unauthenticated("Only the web page signs in; elsewhere send the key itself with each request.")
    if parts.sessions is None:
        raise EntryConflict(
            "Nobody signs in here: no credentials are asked for, LLMOBS_SESSION_SECONDS is 0, or there is no "
            "LLMOBS_KEY_PEPPER to seal sessions with."
        )
    address = "" if request.client is None else request.client.host
    failed: FailedSignIns = request.app.state["failed_sign_ins"]
    try:
        failed.check(address)
    except RateLimited as waits:
        parts.telemetry.count("requests_limited", (waits.reason,))
        raise
    shown = asked.credential.strip().encode()
    try:
        value, ends_at = parts.sessions.sealed(shown)
        who = await parts.gate.admit([(b"authorization", b"Bearer " + shown)], Need.KNOWN)
    except Unauthenticated:
        failed.failed(address)
        raise
    await parts.audit.tell(deed(who.actor, SIGN_IN, who.client_id or "", ends_at=ends_at.isoformat()))
    cookie = _cookie(value, int(parts.sessions.seconds), secure=_over_tls(request))
    return _told(_state(parts, who, ends_at), cookie)


@delete("/ui/session", opt=needs(Need.PUBLIC), status_code=200)
async def sign_out(request: AnyRequest) -> Response[bytes]:
    """End the session in this browser."""
    if not is_of_page(request.scope["headers"]):
        raise Unauthenticated("Only the web page signs out.")
    return _told(_state(services(request)), *(_cookie("", 0, secure=secure) for secure in (True, False)))


def _state(parts: Services, who: Principal | None = None, ends_at: datetime | None = None) -> SessionState:
    return SessionState(
        asks=not parts.gate.is_open,
        sessions=parts.sessions is not None,
        signed_in=who is not None,
        actor=None if who is None else who.actor,
        client_id=None if who is None else who.client_id,
        scopes=() if who is None else tuple(sorted(who.scopes)),
        ends_at=ends_at,
    )


def _over_tls(request: AnyRequest) -> bool:
    """Whether the browser speaks TLS, which a proxy may end: the page's own origin, as the browser tells it."""
    return request.headers.get("origin", "").startswith("https://")


def _cookie(value: str, seconds: int, *, secure: bool) -> Cookie:
    return Cookie(
        key=SECURE_COOKIE if secure else COOKIE,
        value=value,
        max_age=seconds,
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def _told(state: SessionState, *cookies: Cookie) -> Response[bytes]:
    return Response(
        msgspec.json.encode(state),
        media_type="application/json",
        headers={"cache-control": "no-store"},
        cookies=cookies,
    )


HANDLERS = (session, sign_in, sign_out)
