"""/ui: the web page, from files in the package. No script or style but these files' is let run."""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath

from llmobs.domain.access import Need
from llmobs.errors import NotFound
from llmobs.http.access import needs

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # asked for each time, and mostly answered 304
}

AnyRequest = Request[Any, Any, Any]


class Asset(msgspec.Struct, frozen=True):
    """One file of the page."""

    body: bytes
    media_type: str
    etag: str


def _assets(folder: Traversable) -> dict[str, Asset]:
    found = {}
    for entry in folder.iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if entry.is_file() and suffix in MEDIA_TYPES:
            body = entry.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[entry.name] = Asset(body, MEDIA_TYPES[suffix], etag)
    return found


ASSETS = _assets(files("llmobs") / "ui")
"""Read once: a page and its scripts are of one version."""


@get("/ui", opt=needs(Need.PUBLIC))
async def page(request: AnyRequest) -> Response[bytes]:
    """The page itself. It holds nothing: what it shows it asks for, with the caller's credentials."""
    return _sent(request, ASSETS["index.html"])


@get("/ui/{name:str}", opt=needs(Need.PUBLIC))
async def part(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """A script, style or picture of the page."""
    asset = ASSETS.get(name)
    if asset is None:
        raise NotFound("The page has no such part.")
    return _sent(request, asset)


def _sent(request: AnyRequest, asset: Asset) -> Response[bytes]:
    headers = HEADERS | {"etag": asset.etag}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(b"", status_code=304, headers=headers, media_type=asset.media_type)
    return Response(asset.body, headers=headers, media_type=asset.media_type)
