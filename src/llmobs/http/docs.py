"""/openapi.json, and /docs with every asset served from here: it works with no internet."""

from pathlib import Path
from typing import Any

import litestar_offline_docs
import msgspec
from litestar import Request, Response, get
from litestar.response import Redirect
from litestar.static_files import create_static_files_router

from llmobs.domain.access import Need
from llmobs.http.access import needs, route_needs
from llmobs.http.openapi import openapi_document
from llmobs.http.services import services

ASSETS = "/static/docs"

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>llmobs API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{ASSETS}/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="{ASSETS}/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null}});</script>
</body>
</html>
"""


@get("/openapi.json", opt=needs(Need.PUBLIC))
async def openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The OpenAPI document."""
    parts = services(request)
    needed = () if parts.gate.is_open else route_needs(request.app)
    document = openapi_document(
        parts.settings.max_text_chars, parts.screen.policy_ids, needed, parts.registry.tiers
    )
    return Response(msgspec.json.encode(document), media_type="application/json")


@get("/docs", opt=needs(Need.PUBLIC))
async def docs() -> Response[str]:
    """Swagger UI over /openapi.json."""
    return Response(PAGE, media_type="text/html")


@get("/redoc", opt=needs(Need.PUBLIC))
async def redoc() -> Redirect:
    """An old address of the documentation."""
    return Redirect("/docs")


assets = create_static_files_router(
    ASSETS,
    directories=[Path(litestar_offline_docs.__file__).parent / "static"],
    include_in_schema=False,
    opt=needs(Need.PUBLIC),
)
