"""Clients and keys, for administrators; and what any caller may know of itself."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath
from msgspec import Meta

from llmobs.access.registry import ClientChange, Made
from llmobs.domain.access import Client, Key, Need, Scope
from llmobs.domain.audit import Entry
from llmobs.errors import EntryConflict, ParameterInvalid
from llmobs.http.access import needs, principal_of
from llmobs.http.bodies import MAX_BODY, read_body
from llmobs.http.logs import before_of, checked_limit, read_query
from llmobs.http.services import services

AnyRequest = Request[Any, Any, Any]

_encode = msgspec.json.Encoder().encode

Days = Annotated[float, Meta(ge=0.001, le=3650)]
Overlap = Annotated[float, Meta(ge=0, le=30 * 86_400)]


class NewClient(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/admin/clients."""

    id: Annotated[
        str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="Lower-case letters, digits, _, -.")
    ]
    name: Annotated[str, Meta(max_length=200, description="For people; the id where it is empty.")] = ""
    tier: Annotated[str, Meta(description="Rate-limit tier.")] = "free"
    policy: Annotated[str | None, Meta(description="Decides where a request names no policy.")] = None
    readers: Annotated[
        tuple[str, ...], Meta(description="Clients that may read this one's rows as well.")
    ] = ()


class ClientPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PATCH /v1/admin/clients/{client_id}: only what is to change."""

    name: Annotated[str, Meta(min_length=1, max_length=200)] | msgspec.UnsetType = msgspec.UNSET
    tier: str | msgspec.UnsetType = msgspec.UNSET
    policy: str | msgspec.UnsetType | None = msgspec.UNSET
    readers: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/admin/keys."""

    client_id: str
    name: Annotated[str, Meta(max_length=200, description="What it is for.")] = ""
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)] = (Scope.DETECT,)
    expires_in_days: Annotated[Days | None, Meta(description="Null: it does not expire.")] = 365


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/admin/keys/{key_id}/rotate."""

    overlap_seconds: Annotated[Overlap, Meta(description="How long the old key works on.")] = 86_400


class NewErasure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/admin/erasures."""

    subject_id: Annotated[
        str, Meta(min_length=1, max_length=1024, description="As requests gave it in `context.subject_id`.")
    ]


class ClientList(msgspec.Struct, frozen=True, kw_only=True):
    """All clients."""

    clients: tuple[Client, ...]


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Keys as kept, never the keys themselves."""

    keys: tuple[Key, ...]


class FreshKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made. It is shown here and never again."""

    key: Annotated[str, Meta(description="The key itself. Keep it: it cannot be had again.")]
    entry: Key


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done."""

    id: int
    at: str
    actor: Annotated[
        str, Meta(description="`key:ID`, `token:SUBJECT`, `anyone`, `service` or `command line`.")
    ]
    action: Annotated[str, Meta(description="Noun and verb, such as `key.revoke`.")]
    target: str
    details: Annotated[
        str, Meta(description="What changed: a JSON object, as text, for its bytes are digested.")
    ]
    digest: Annotated[str, Meta(description="SHA-256 over the entry and the digest before it, in hex.")]


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of what was done, newest first."""

    entries: tuple[AuditEntry, ...]
    next_cursor: Annotated[
        str | None, Meta(description="Pass it as `cursor` for the next page; null at the end.")
    ]


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of GET /v1/admin/audit."""

    cursor: str | None = None
    limit: int = 50


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """What the service knows of whoever asks."""

    actor: str
    client_id: str | None
    scopes: tuple[Scope, ...]
    key_id: str | None
    tier: str | None
    policy: str | None
    reads: Annotated[
        tuple[str, ...] | None, Meta(description="Clients whose rows it may read; null: all of them.")
    ]


@get("/v1/me", opt=needs(Need.KNOWN))
async def me(request: AnyRequest) -> Response[bytes]:
    """Who asks."""
    who = principal_of(request)
    seen = who.view.clients
    return _json(
        Caller(
            actor=who.actor,
            client_id=who.client_id,
            scopes=tuple(sorted(who.scopes)),
            key_id=who.key_id,
            tier=who.tier,
            policy=who.policy,
            reads=None if seen is None else tuple(sorted(seen)),
        )
    )


@get("/v1/admin/clients", opt=needs(Need.ADMIN))
async def list_clients(request: AnyRequest) -> Response[bytes]:
    """All clients."""
    return _json(ClientList(clients=tuple(await services(request).registry.clients())))


@post("/v1/admin/clients", opt=needs(Need.ADMIN), request_max_body_size=MAX_BODY)
async def create_client(request: AnyRequest) -> Response[bytes]:
    """Add a client."""
    asked = await read_body(request, NewClient)
    if asked.policy is not None:
        services(request).screen.policy_named(asked.policy, asked.id)
    made = await services(request).registry.create_client(
        asked.id,
        name=asked.name,
        tier=asked.tier,
        policy=asked.policy,
        readers=asked.readers,
        by=principal_of(request).actor,
    )
    return _json(made, 201)


@get("/v1/admin/clients/{client_id:str}", opt=needs(Need.ADMIN))
async def show_client(request: AnyRequest, client_id: FromPath[str]) -> Response[bytes]:
    """One client."""
    return _json(await services(request).registry.client(client_id))


@patch("/v1/admin/clients/{client_id:str}", opt=needs(Need.ADMIN), request_max_body_size=MAX_BODY)
async def change_client(request: AnyRequest, client_id: FromPath[str]) -> Response[bytes]:
    """Change, share or disable a client."""
    asked = await read_body(request, ClientPatch)
    if isinstance(asked.policy, str):
        services(request).screen.policy_named(asked.policy, client_id)
    change = ClientChange(**{name: getattr(asked, name) for name in ClientPatch.__struct_fields__})
    who = principal_of(request)
    return _json(await services(request).registry.change_client(client_id, change, by=who.actor))


@get("/v1/admin/keys", opt=needs(Need.ADMIN))
async def list_keys(request: AnyRequest) -> Response[bytes]:
    """Keys of all clients, or of one."""
    given = list(request.query_params.multi_items())
    if any(name != "client_id" for name, _ in given) or len(given) > 1:
        raise ParameterInvalid("The only parameter is client_id, once.")
    found = await services(request).registry.keys(principal_of(request).view, given[0][1] if given else None)
    return _json(KeyList(keys=tuple(found)))


@post("/v1/admin/keys", opt=needs(Need.ADMIN), request_max_body_size=MAX_BODY)
async def create_key(request: AnyRequest) -> Response[bytes]:
    """Make a key for a client."""
    asked = await read_body(request, NewKey)
    days = asked.expires_in_days
    made = await services(request).registry.create_key(
        asked.client_id,
        name=asked.name,
        scopes=asked.scopes,
        by=principal_of(request).actor,
        expires_at=None if days is None else datetime.now(UTC) + timedelta(days=days),
    )
    return _fresh(made)


@post("/v1/admin/keys/{key_id:str}/rotate", opt=needs(Need.ADMIN), request_max_body_size=MAX_BODY)
async def rotate_key(request: AnyRequest, key_id: FromPath[str]) -> Response[bytes]:
    """Put a fresh key in the place of one, which works on for a while."""
    asked = await read_body(request, Rotation)
    who = principal_of(request)
    return _fresh(
        await services(request).registry.rotate_key(
            who.view, key_id, overlap=timedelta(seconds=asked.overlap_seconds), by=who.actor
        )
    )


@delete("/v1/admin/keys/{key_id:str}", status_code=200, opt=needs(Need.ADMIN))
async def revoke_key(request: AnyRequest, key_id: FromPath[str]) -> Response[bytes]:
    """Void a key."""
    who = principal_of(request)
    return _json(await services(request).registry.revoke_key(who.view, key_id, by=who.actor))


@get("/v1/admin/audit", opt=needs(Need.ADMIN))
async def list_audit(request: AnyRequest) -> Response[bytes]:
    """What administrators did, newest first."""
    query = read_query(request, AuditQuery)
    limit, before = checked_limit(query.limit), before_of(query.cursor)
    found, cursor = await services(request).audit.page(before, limit)
    return _json(AuditPage(entries=tuple(map(_shown, found)), next_cursor=cursor))


@post("/v1/admin/erasures", status_code=200, opt=needs(Need.ADMIN), request_max_body_size=MAX_BODY)
async def erase_person(request: AnyRequest) -> Response[bytes]:
    """Erase all that is kept of a person. The id is in the body, for URLs end up in logs."""
    asked = await read_body(request, NewErasure)
    parts, who = services(request), principal_of(request)
    if parts.persons is None:
        raise EntryConflict("This service cannot tell persons apart: set LLMOBS_SUBJECT_PEPPER.")
    key = parts.persons.key_of(asked.subject_id)
    return _json(await parts.erasure.of_person(who.view, key, by=who.actor))


HANDLERS = (
    me,
    list_clients,
    create_client,
    show_client,
    change_client,
    list_keys,
    create_key,
    rotate_key,
    revoke_key,
    list_audit,
    erase_person,
)


def _shown(entry: Entry) -> AuditEntry:
    return AuditEntry(
        id=entry.id,
        at=entry.at,
        actor=entry.actor,
        action=entry.action,
        target=entry.target,
        details=entry.details,
        digest=entry.digest.hex(),
    )


def _fresh(made: Made) -> Response[bytes]:
    # No cache on the way may keep what is shown only once.
    return _json(FreshKey(key=made.shown, entry=made.key), 201, {"cache-control": "no-store"})


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(_encode(body), status_code=status, media_type="application/json", headers=headers)
