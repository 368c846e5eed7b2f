"""What every route asks of its caller, and the guard that holds callers to it."""

from collections.abc import Iterator
from typing import Any

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute

from llmobs.access.gate import Headers
from llmobs.domain.access import Need, Principal
from llmobs.http.services import Services

NEED = "need"
LIMITED = frozenset({Need.KNOWN, Need.DETECT, Need.LOGS_READ})
"""What counts against a client's allowance. Scraping and administration do not: who runs the service does them."""

Told = list[tuple[bytes, bytes]]

AnyConnection = ASGIConnection[Any, Any, Any, Any]


def needs(need: Need) -> dict[str, Any]:
    """The declaration that each handler carries: `@get("/x", opt=needs(Need.LOGS_READ))`."""
    return {NEED: need}


async def enter(parts: Services, headers: Headers, need: Need) -> tuple[Principal, Told]:
    """Who asks, and the headers that the answer is to carry. Raises what stands in the way.

    The one way in, for the guard below and for the edge.
    """
    who = await parts.gate.admit(headers, need)
    if need in LIMITED and who.client_id is not None:
        return who, await parts.limiter.request(who)
    return who, []


async def guard(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Let the caller in or raise why not; every handler of the framework stands behind this."""
    state = connection.scope["state"]
    parts: Services = connection.app.state["services"]
    state["principal"], state["headers"] = await enter(parts, connection.scope["headers"], _need_of(handler))


def principal_of(request: Request[Any, Any, Any]) -> Principal:
    """Who asks."""
    found: Principal = request.scope["state"]["principal"]
    return found


def route_needs(app: Litestar) -> Iterator[tuple[str, str, Need]]:
    """Every method and path of the application with its need; RuntimeError where none is declared.

    The framework's own answers to OPTIONS tell the methods of a path and no more.
    """
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            raise RuntimeError(f"{route.path} is no HTTP route, so nothing guards it")  # noqa: TRY004  # not the caller's type
        for method, (handler, _) in sorted(route.route_handler_map.items()):
            if method != "OPTIONS":
                yield method, route.path_format, _need_of(handler)


def _need_of(handler: BaseRouteHandler) -> Need:
    if NEED in handler.opt:
        need: Need = handler.opt[NEED]
        return need
    if getattr(handler, "http_methods", None) == {"OPTIONS"}:
        return Need.PUBLIC
    raise RuntimeError(f"{handler.handler_name} declares no need: add opt=needs(Need...)")
