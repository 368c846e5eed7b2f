"""Signing in to the web page: what the cookie opens, for whom, and when it no longer does."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest
from support.access import bearer, in_registry, keyed
from support.app import started

from llmobs.access.keys import new_key
from llmobs.access.registry import Registry
from llmobs.app import create_app
from llmobs.domain.access import Need, Scope
from llmobs.http.access import route_needs
from llmobs.http.session import MOST_FAILED
from llmobs.settings import Settings

PAGE = {"x-llmobs-page": "1"}
TEXT = {"llm_response": "The library opens at nine."}


class House(NamedTuple):
    app: Any
    http: httpx.AsyncClient
    settings: Settings

    async def key(self, *scopes: Scope) -> str:
        async def work(registry: Registry) -> str:
            return (await registry.create_key("ours", name="", scopes=scopes, by="test")).shown

        return await in_registry(self.settings, work)

    async def signed_in(self, *scopes: Scope, **headers: str) -> tuple[httpx.Response, str]:
        """The answer to signing in with a fresh key, and that key."""
        key = await self.key(*scopes)
        answer = await self.http.post("/ui/session", json={"credential": key}, headers=PAGE | headers)
        assert answer.status_code == 200, answer.text
        return answer, key


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    asked = keyed(settings)

    async def furnish(registry: Registry) -> None:
        await registry.create_client("ours", tier="enterprise")

    await in_registry(asked, furnish)
    app = create_app(asked)
    async with started(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://llmobs.test") as http:
            yield House(app, http, asked)


def cookie_of(answer: httpx.Response) -> dict[str, str]:
    """The session as a browser sends it back."""
    return {"cookie": answer.headers["set-cookie"].split(";")[0]}


async def test_a_session_does_what_its_key_does_and_no_more(house: House) -> None:
    answer, key = await house.signed_in(Scope.DETECT, Scope.LOGS_READ)
    house.http.cookies.clear()
    told = answer.json()
    assert (told["signed_in"], told["client_id"]) == (True, "ours")
    assert told["scopes"] == ["detect", "logs:read"]
    assert answer.headers["cache-control"] == "no-store"
    assert key not in answer.text
    mine = cookie_of(answer) | PAGE
    assert (await house.http.post("/v1/detect", json=TEXT, headers=mine)).status_code == 200
    assert (await house.http.get("/v1/logs", headers=mine)).json()["logs"] != []
    refused = await house.http.get("/v1/admin/keys", headers=mine)
    assert (refused.status_code, refused.json()["title"]) == (403, "Not allowed")
    assert (await house.http.get("/ui/session", headers=mine)).json()["signed_in"] is True


async def test_the_cookie_is_kept_from_scripts_and_other_sites(house: House) -> None:
    plain, key = await house.signed_in(Scope.DETECT)
    house.http.cookies.clear()
    cookie = plain.headers["set-cookie"]
    assert cookie.startswith("llmobs=")
    assert key.split("_", 2)[2] not in cookie  # the secret may hold a "_" of its own
    for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=28800"):
        assert part.lower() in cookie.lower()
    assert "secure" not in cookie.lower()
    tls, _ = await house.signed_in(Scope.DETECT, origin="https://guard.example")
    cookie = tls.headers["set-cookie"]
    assert cookie.startswith("__Host-llmobs=")
    for part in ("HttpOnly", "SameSite=strict", "Path=/", "Secure"):
        assert part.lower() in cookie.lower()
    assert "domain" not in cookie.lower()


async def test_no_endpoint_takes_the_cookie_from_another_site(house: House) -> None:
    """What a browser sends for a foreign page: the cookie at most, and where the request comes from."""
    answer, _ = await house.signed_in(Scope.ADMIN)
    house.http.cookies.clear()
    mine = cookie_of(answer)
    tried = 0
    for method, path, need in route_needs(house.app._app):
        if need is Need.PUBLIC:
            continue
        for site in ({}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
            sent = await house.http.request(
                method, path.replace("{", "").replace("}", ""), headers=mine | site, content=b"{}"
            )
            assert sent.status_code == 401, (method, path, site)
            tried += 1
    assert tried > 40
    own = mine | {"sec-fetch-site": "same-origin"}
    assert (await house.http.get("/v1/logs?format=jsonl", headers=own)).status_code == 200


async def test_a_header_goes_before_the_cookie(house: House) -> None:
    answer, _ = await house.signed_in(Scope.ADMIN)
    house.http.cookies.clear()
    weak = bearer(await house.key(Scope.DETECT))
    refused = await house.http.get("/v1/admin/keys", headers=cookie_of(answer) | PAGE | weak)
    assert refused.status_code == 403


async def test_the_session_ends_with_its_key(house: House) -> None:
    answer, key = await house.signed_in(Scope.LOGS_READ)
    house.http.cookies.clear()
    mine = cookie_of(answer) | PAGE
    admin = bearer(await house.key(Scope.ADMIN))
    assert (await house.http.get("/v1/logs", headers=mine)).status_code == 200
    await house.http.delete(f"/v1/admin/keys/{key.split('_')[1]}", headers=admin)
    over = await house.http.get("/v1/logs", headers=mine)
    assert (over.status_code, over.json()["detail"]) == (401, "The API key has been revoked.")
    state = await house.http.get("/ui/session", headers=mine)
    assert (state.status_code, state.json()["signed_in"]) == (200, False)


async def test_signing_out_takes_both_cookies_away(house: House) -> None:
    await house.signed_in(Scope.LOGS_READ)
    house.http.cookies.clear()
    out = await house.http.delete("/ui/session", headers=PAGE)
    gone = out.headers.get_list("set-cookie")
    assert out.status_code == 200
    assert {one.split("=")[0] for one in gone} == {"llmobs", "__Host-llmobs"}
    assert all("max-age=0" in one.lower() for one in gone)


async def test_wrong_credentials_are_refused_and_soon_made_to_wait(house: House) -> None:
    good = await house.key(Scope.DETECT)
    statuses = []
    for _ in range(MOST_FAILED + 1):
        body = {"credential": new_key()[1]}
        refused = await house.http.post("/ui/session", json=body, headers=PAGE)
        assert "set-cookie" not in refused.headers
        statuses.append(refused.status_code)
    assert statuses == [401] * MOST_FAILED + [429]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (await house.http.post("/ui/session", json={"credential": good}, headers=PAGE)).status_code == 429
    # Who sends the key itself is not kept out by it.
    assert (await house.http.post("/v1/detect", json=TEXT, headers=bearer(good))).status_code == 200


async def test_signing_in_stands_in_the_audit_log(house: House) -> None:
    _, key = await house.signed_in(Scope.DETECT)
    house.http.cookies.clear()
    admin = bearer(await house.key(Scope.ADMIN))
    entries = (await house.http.get("/v1/admin/audit", headers=admin)).json()["entries"]
    entry = next(one for one in entries if one["action"] == "session.open")
    assert entry["actor"] == f"key:{key.split('_')[1]}"
    assert key not in str(entries)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"credential": ""}', b'{"credential": 1}', b'{"c": "x"}', b"\xff"]
)
async def test_bad_bodies_get_a_problem(house: House, body: bytes) -> None:
    typed = PAGE | {"content-type": "application/json"}
    answer = await house.http.post("/ui/session", content=body, headers=typed)
    assert answer.status_code in {400, 413, 415, 422}
    assert answer.headers["content-type"] == "application/problem+json"


async def test_where_nobody_is_asked_nobody_signs_in(settings: Settings) -> None:
    app = create_app(settings)
    async with started(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://llmobs.test") as http:
            state = (await http.get("/ui/session")).json()
            assert (state["asks"], state["sessions"], state["signed_in"]) == (False, False, False)
            refused = await http.post("/ui/session", json={"credential": "x"}, headers=PAGE)
            assert refused.status_code == 409
