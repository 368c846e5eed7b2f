"""What every route asks of its caller, and the guard that holds callers to it."""

from collections.abc import Iterator
from typing import Any

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute

from llmobs.domain.access import Need, Principal

NEED = "need"

AnyConnection = ASGIConnection[Any, Any, Any, Any]


def needs(need: Need) -> dict[str, Any]:
    """The declaration that each handler carries: `@get("/x", opt=needs(Need.LOGS_READ))`."""
    return {NEED: need}


async def guard(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Let the caller in or raise why not; every handler of the framework stands behind this."""
    need = _need_of(handler)
    gate = connection.app.state["services"].gate
    connection.scope["state"]["principal"] = await gate.admit(connection.scope["headers"], need)


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
