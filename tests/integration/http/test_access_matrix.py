"""Every endpoint with every kind of key, from the application's own table of routes.

A route without a line here fails the test: nobody can add an endpoint and forget who may call it.
Run with `-s` to see the table.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from rich.console import Console
from rich.table import Table
from sqlalchemy import update
from support.access import bearer, in_registry, keyed
from support.app import started

from llmobs.access.keys import new_key
from llmobs.access.registry import Registry
from llmobs.app import create_app
from llmobs.domain.access import EVERYTHING, Need, Scope
from llmobs.http.access import route_needs
from llmobs.settings import Settings
from llmobs.store import rollup
from llmobs.store.database import Database
from llmobs.store.tables import api_keys


class Expected(NamedTuple):
    """What one endpoint is, and what the right caller gets from it."""

    need: Need
    status: int = 200
    json: Any = None
    other_tenant: int | None = None
    """What a caller with the scope and of another client gets; None: the same as the right one.
    What it must never get, whatever the status: the first client's rows (checked by a word in them)."""


TEXT = {"llm_response": "The zebrafinch is ours alone."}
WORD = "zebrafinch"
POLICY = 'id = "default"\nversion = 2\n[classes.toxicity]\nseverity = "high"\nwarn = 0.5\n'
REQUEST = "the id of the first client's verdict"
PUBLIC = Expected(Need.PUBLIC)

# (method, path): one line for every route that there is.
TABLE = {
    ("GET", "/"): PUBLIC,
    ("GET", "/health"): PUBLIC,
    ("GET", "/health/live"): PUBLIC,
    ("GET", "/health/ready"): PUBLIC,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/redoc"): Expected(Need.PUBLIC, 302),
    ("GET", "/openapi.json"): PUBLIC,
    ("GET", "/ui"): PUBLIC,
    ("GET", "/ui/{name}"): PUBLIC,
    ("GET", "/ui/session"): PUBLIC,
    # Only the page may: it says so in a header, which these callers do not send.
    ("POST", "/ui/session"): Expected(Need.PUBLIC, 401, {"credential": "llmobs_x"}),
    ("DELETE", "/ui/session"): Expected(Need.PUBLIC, 401),
    ("GET", "/v1/policies"): Expected(Need.KNOWN),
    ("GET", "/v1/overview"): Expected(Need.LOGS_READ),
    ("GET", "/v1/rules"): Expected(Need.KNOWN),
    ("GET", "/v1/rules/hits"): Expected(Need.LOGS_READ),
    ("GET", "/v1/overview/stream"): Expected(Need.LOGS_READ),
    ("GET", "/static/docs/{file_path}"): PUBLIC,
    ("HEAD", "/static/docs/{file_path}"): PUBLIC,
    ("POST", "/v1/detect"): Expected(Need.DETECT, json=TEXT),
    ("POST", "/detect"): Expected(Need.DETECT, json=TEXT),
    ("POST", "/v1/detect/batch"): Expected(Need.DETECT, json=[TEXT]),
    ("POST", "/detect/batch"): Expected(Need.DETECT, json=[TEXT]),
    ("GET", "/logs/recent"): Expected(Need.LOGS_READ),
    ("GET", "/v1/logs"): Expected(Need.LOGS_READ),
    ("GET", "/metrics/stats"): Expected(Need.LOGS_READ),
    ("GET", "/v1/stats"): Expected(Need.LOGS_READ),
    ("POST", "/v1/feedback"): Expected(
        Need.DETECT, 200, {"request_id": REQUEST, "correct": True, "note": WORD}, 404
    ),
    ("GET", "/v1/feedback"): Expected(Need.LOGS_READ),
    ("GET", "/metrics"): Expected(Need.METRICS_READ),
    ("GET", "/v1/me"): Expected(Need.KNOWN),
    ("GET", "/v1/admin/audit"): Expected(Need.ADMIN),
    ("GET", "/v1/admin/clients"): Expected(Need.ADMIN),
    ("POST", "/v1/admin/clients"): Expected(Need.ADMIN, 201, {"id": "fresh"}, 409),
    ("GET", "/v1/admin/clients/{client_id}"): Expected(Need.ADMIN),
    ("PATCH", "/v1/admin/clients/{client_id}"): Expected(Need.ADMIN, json={"name": "Ours"}),
    ("GET", "/v1/admin/keys"): Expected(Need.ADMIN),
    ("POST", "/v1/admin/keys"): Expected(Need.ADMIN, 201, {"client_id": "ours"}),
    ("POST", "/v1/admin/keys/{key_id}/rotate"): Expected(Need.ADMIN, 201, {}, 409),
    ("DELETE", "/v1/admin/keys/{key_id}"): Expected(Need.ADMIN),
    ("POST", "/v1/admin/erasures"): Expected(Need.ADMIN, 200, {"subject_id": "nobody's"}),
    ("GET", "/v1/admin/policies/{policy_id}"): Expected(Need.ADMIN),
    ("POST", "/v1/admin/policies/check"): Expected(Need.ADMIN, json={"toml": POLICY}),
    ("POST", "/v1/admin/policies/dry-run"): Expected(Need.ADMIN, json={"toml": POLICY}),
    ("POST", "/v1/admin/policies/dry-run/labelled"): Expected(
        Need.ADMIN,
        json={
            "toml": POLICY,
            "labelled": '{"id": "1", "task": "benign", "label": 0, "role": "response", "text": "Hello."}',
        },
    ),
    # There is no folder to put it in, and nobody but an administrator is told so.
    ("PUT", "/v1/admin/policies/{policy_id}"): Expected(Need.ADMIN, 409, {"toml": POLICY, "based_on": 0}),
    # Last, for the lines above ask for the verdict.
    ("DELETE", "/v1/logs/{request_id}"): Expected(Need.ADMIN, 200, None, 404),
}
CALLERS = ("no key", "wrong key", "expired", "revoked", "wrong scope", "other tenant", "right")
REFUSED = {"no key": 401, "wrong key": 401, "expired": 401, "revoked": 401, "wrong scope": 403}


class House(NamedTuple):
    """A running service with keys of every kind in it."""

    app: Any
    http: httpx.AsyncClient
    settings: Settings
    spare: str
    """The id of a key to be rotated and revoked."""
    verdict: str
    """The request id of the first client's verdict, which has feedback."""

    async def key(self, client: str, *scopes: Scope) -> str:
        """A fresh key."""

        async def work(registry: Registry) -> str:
            return (await registry.create_key(client, name="", scopes=scopes, by="test")).shown

        return await in_registry(self.settings, work)

    async def credential(self, caller: str, need: Need) -> dict[str, str]:
        """Headers of a caller of that kind, for an endpoint with that need."""
        scope = Scope.DETECT if need in {Need.PUBLIC, Need.KNOWN} else Scope(need.value)
        match caller:
            case "no key":
                return {}
            case "wrong key":
                return bearer(new_key()[1])
            case "expired" | "revoked":
                key = await self.key("ours", scope)
                await self._spoil(key, caller)
                return bearer(key)
            case "wrong scope":
                others = [s for s in Scope if s not in {scope, Scope.ADMIN}]
                return bearer(await self.key("ours", *others))
            case "other tenant":
                return bearer(await self.key("theirs", scope))
            case _:
                return bearer(await self.key("ours", scope))

    async def _spoil(self, key: str, how: str) -> None:
        column = {"expired": "expires_at", "revoked": "revoked_at"}[how]
        database = Database(self.settings)
        async with database.transaction() as connection:
            await connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key.split("_")[1])
                .values({column: datetime.now(UTC) - timedelta(seconds=1)})
            )
        await database.dispose()


@pytest.fixture(autouse=True)
def short_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would go on for a minute is over at once."""
    monkeypatch.setattr("llmobs.http.live.LIFETIME", 0.05)


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    asked = keyed(settings)

    async def furnish(registry: Registry) -> str:
        await registry.create_client("ours", tier="enterprise")
        await registry.create_client("theirs", tier="enterprise")
        made = await registry.create_key("ours", name="spare", scopes=[Scope.DETECT], by="test")
        return made.key.id

    spare = await in_registry(asked, furnish)
    app = create_app(asked)
    async with started(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://llmobs.test") as http:
            made = House(app, http, asked, spare, "")
            mine = bearer(await made.key("ours", Scope.DETECT))
            verdict = await http.post("/v1/detect", json=TEXT, headers=mine)
            assert verdict.status_code == 200
            request_id = verdict.json()["request_id"]
            word = {"request_id": request_id, "correct": True, "note": WORD}
            assert (await http.post("/v1/feedback", json=word, headers=mine)).status_code == 201
            yield made._replace(verdict=request_id)


def _expected(line: Expected, caller: str) -> int:
    if line.need is Need.PUBLIC or (line.need is Need.KNOWN and caller == "wrong scope"):
        return line.status
    if caller == "other tenant" and line.other_tenant is not None:
        return line.other_tenant
    return REFUSED.get(caller, line.status)


def _path(template: str, house: House) -> str:
    return template.format(
        client_id="ours",
        key_id=house.spare,
        request_id=house.verdict,
        file_path="swagger-ui.css",
        name="app.css",
        policy_id="default",
    )


@pytest.mark.timeout(300)
async def test_every_endpoint_answers_every_kind_of_caller_as_stated(house: House) -> None:
    routes = {(method, path): need for method, path, need in route_needs(house.app._app)}
    assert set(routes) == set(TABLE), "a route without a line in TABLE, or a line without a route"
    shown = Table("endpoint", "need", *CALLERS, title="Who gets which status")
    surprises: list[str] = []
    cells = 0
    for (method, template), line in TABLE.items():
        assert routes[method, template] is line.need, (method, template)
        got: dict[str, str] = {}
        # The right caller goes before the other tenant: what it made must not show to the other.
        for caller in ("right", *(c for c in CALLERS if c != "right")):
            headers = await house.credential(caller, line.need)
            body = None if line.json is None else json.dumps(line.json)
            if body is not None:
                body = body.replace(REQUEST, house.verdict)
            if body is not None and caller == "other tenant":
                body = body.replace(WORD, "other bird")
            typed = {} if body is None else {"content-type": "application/json"}
            answer = await house.http.request(
                method, _path(template, house), headers=headers | typed, content=body
            )
            wanted = _expected(line, caller)
            got[caller] = str(answer.status_code)
            cells += 1
            if answer.status_code != wanted:
                got[caller] += f" (not {wanted})"
                surprises.append(
                    f"{method} {template}, {caller}: {answer.status_code}, not {wanted}: {answer.text}"
                )
            if answer.status_code in {401, 403}:
                assert answer.headers["www-authenticate"].startswith('Bearer realm="llmobs"')
                assert answer.headers["content-type"] == "application/problem+json"
            if caller == "other tenant" and line.need is not Need.ADMIN and method == "GET":
                assert WORD not in answer.text, f"{method} {template} shows another client's row"
        shown.add_row(f"{method} {template}", line.need.value, *(got[caller] for caller in CALLERS))
    Console(width=150).print(shown, f"{cells} calls, {len(surprises)} surprises")
    assert surprises == []


async def test_reading_endpoints_show_a_client_its_own_rows_and_what_is_shared_with_it(house: House) -> None:
    ours = bearer(await house.key("ours", Scope.LOGS_READ))
    theirs = bearer(await house.key("theirs", Scope.LOGS_READ))
    admin = bearer(await house.key("theirs", Scope.ADMIN))

    async def seen(headers: dict[str, str]) -> list[Any]:
        told: list[Any] = [
            WORD in (await house.http.get(path, headers=headers)).text
            for path in (
                "/logs/recent",
                "/v1/logs",
                "/v1/logs?format=jsonl",
                "/v1/logs?client_id=ours",
                "/v1/feedback",
                "/v1/feedback?format=rows",
            )
        ]
        stats = (await house.http.get("/metrics/stats", headers=headers)).json()
        return [*told, stats["total_detections"]]

    assert await seen(ours) == [*[True] * 6, 1]
    assert await seen(theirs) == [*[False] * 6, 0]
    assert await seen(admin) == [*[True] * 6, 1]
    shared = await house.http.patch("/v1/admin/clients/ours", headers=admin, json={"readers": ["theirs"]})
    assert shared.json()["readers"] == ["theirs"]
    assert await seen(theirs) == [*[True] * 6, 1]
    await house.http.patch("/v1/admin/clients/ours", headers=admin, json={"readers": []})
    assert await seen(theirs) == [*[False] * 6, 0]


async def test_an_idempotency_key_of_one_client_says_nothing_to_another(house: House) -> None:
    answers = []
    for client in ("ours", "theirs"):
        headers = bearer(await house.key(client, Scope.DETECT)) | {"idempotency-key": "same"}
        body = {"llm_response": f"of {client}"}
        answers.append(await house.http.post("/v1/detect", json=body, headers=headers))
    assert [a.status_code for a in answers] == [200, 200]
    assert "idempotent-replayed" not in answers[1].headers
    assert answers[0].json()["request_id"] != answers[1].json()["request_id"]


async def test_a_revoked_key_is_out_at_once_where_it_was_revoked(house: House) -> None:
    admin = bearer(await house.key("theirs", Scope.ADMIN))
    made = await house.http.post("/v1/admin/keys", headers=admin, json={"client_id": "ours"})
    assert made.headers["cache-control"] == "no-store"
    fresh, key_id = bearer(made.json()["key"]), made.json()["entry"]["id"]
    assert (await house.http.post("/v1/detect", json=TEXT, headers=fresh)).status_code == 200
    gone = await house.http.delete(f"/v1/admin/keys/{key_id}", headers=admin)
    assert gone.json()["revoked_at"] is not None
    refused = await house.http.post("/v1/detect", json=TEXT, headers=fresh)
    assert (refused.status_code, refused.json()["detail"]) == (401, "The API key has been revoked.")


async def test_both_keys_work_while_a_rotation_overlaps(house: House) -> None:
    admin = bearer(await house.key("theirs", Scope.ADMIN))
    made = (await house.http.post("/v1/admin/keys", headers=admin, json={"client_id": "ours"})).json()
    rotate = f"/v1/admin/keys/{made['entry']['id']}/rotate"
    fresh = (await house.http.post(rotate, headers=admin, json={"overlap_seconds": 60})).json()
    assert fresh["entry"]["scopes"] == made["entry"]["scopes"]
    for key in (made["key"], fresh["key"]):
        assert (await house.http.post("/v1/detect", json=TEXT, headers=bearer(key))).status_code == 200
    again = await house.http.post(rotate, headers=admin, json={})
    assert again.status_code == 409
    rotate = f"/v1/admin/keys/{fresh['entry']['id']}/rotate"
    last = (await house.http.post(rotate, headers=admin, json={"overlap_seconds": 0})).json()
    statuses = [
        (await house.http.post("/v1/detect", json=TEXT, headers=bearer(key))).status_code
        for key in (fresh["key"], last["key"])
    ]
    assert statuses == [401, 200]


async def test_a_disabled_client_is_out_and_its_rows_stay(house: House) -> None:
    admin = bearer(await house.key("theirs", Scope.ADMIN))
    mine = bearer(await house.key("ours", Scope.LOGS_READ))
    assert (await house.http.get("/v1/logs", headers=mine)).status_code == 200
    for disabled, status in ((True, 401), (False, 200)):
        await house.http.patch("/v1/admin/clients/ours", headers=admin, json={"disabled": disabled})
        assert (await house.http.get("/v1/logs", headers=mine)).status_code == status
    assert WORD in (await house.http.get("/v1/logs", headers=mine)).text


async def test_the_row_filter_stands_in_every_statement_on_clients_rows(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the endpoints send to the database while a plain client reads, statement by statement."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    mine = bearer(await house.key("theirs", Scope.LOGS_READ))
    await house.http.get("/v1/me", headers=mine)
    await _counted(house)
    told: list[str] = []

    def listen(_: Any, __: Any, statement: str, *___: Any) -> None:
        told.append(statement)

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        for (method, template), line in TABLE.items():
            if method == "GET" and line.need is Need.LOGS_READ:
                await house.http.get(_path(template, house), headers=mine)
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    reads = [statement for statement in told if "FROM detection_logs" in statement]
    assert len(reads) >= 3
    assert [s for s in reads if "detection_logs.client_id IN" not in s] == []
    words = [statement for statement in told if "FROM feedback" in statement]
    assert len(words) >= 3
    assert [s for s in words if "feedback.client_id IN" not in s] == []


async def _counted(house: House) -> None:
    """Wait until the service has counted what is over, as it does for all clients together and for nobody's eyes."""
    database = Database(house.settings)
    now = datetime.now(UTC)
    first, last = rollup.bucket_of(now - rollup.KEPT), rollup.bucket_of(now - rollup.SETTLED) - 1
    try:
        async with asyncio.timeout(60):
            while True:
                async with database.transaction() as connection:
                    rolled = not await rollup.uncounted(connection, first, last)
                if rolled and house.app._app.state["services"].logs.kept is not None:
                    return
                await asyncio.sleep(0.05)
    finally:
        await database.dispose()


async def test_who_am_i(house: House) -> None:
    me = (await house.http.get("/v1/me", headers=bearer(await house.key("ours", Scope.DETECT)))).json()
    assert (me["client_id"], me["scopes"], me["tier"], me["reads"]) == (
        "ours",
        ["detect"],
        "enterprise",
        ["ours"],
    )


async def test_keys_are_nowhere_in_the_clear(house: House, tmp_path: Any) -> None:
    key = await house.key("ours", Scope.DETECT)
    assert (await house.http.post("/v1/detect", json=TEXT, headers=bearer(key))).status_code == 200
    secret = key.split("_", 2)[2].encode()
    found = [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert found == []
    assert any(
        key.split("_")[1].encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


async def test_last_use_is_written_down(house: House) -> None:
    key = await house.key("ours", Scope.DETECT)
    await house.http.post("/v1/detect", json=TEXT, headers=bearer(key))
    gate = house.app._app.state["services"].gate
    used = gate.used()
    assert key.split("_")[1] in used

    async def listed(registry: Registry) -> Any:
        return {k.id: k.last_used_at for k in await registry.keys(EVERYTHING)}

    from llmobs.store.clients import touch

    database = Database(house.settings)
    async with database.transaction() as connection:
        await touch(connection, used)
        await touch(connection, {key.split("_")[1]: datetime(2020, 1, 1, tzinfo=UTC)})
    await database.dispose()
    kept = await in_registry(house.settings, listed)
    assert kept[key.split("_")[1]] == used[key.split("_")[1]]


async def test_a_policy_of_one_client_is_none_to_another(house: House, tmp_path: Any) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "own.toml").write_text(
        'id = "own"\nversion = 1\nclient = "ours"\n[classes.toxicity]\nseverity = "high"\nwarn = 0.5\n'
    )
    chosen = msgspec.structs.replace(house.settings, policies_dir=str(folder))
    app = create_app(chosen)
    async with (
        started(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://llmobs.test") as http,
    ):
        body = TEXT | {"policy": "own"}
        statuses = {}
        for client in ("ours", "theirs"):
            headers = bearer(await house.key(client, Scope.DETECT))
            answer = await http.post("/v1/detect", json=body, headers=headers)
            statuses[client] = answer.status_code
            if client == "theirs":
                assert "own" not in answer.json()["detail"].partition("there are")[2]
        assert statuses == {"ours": 200, "theirs": 422}
        assert '"own"' not in (await http.get("/openapi.json")).text
        admin = bearer(await house.key("theirs", Scope.ADMIN))
        given = await http.patch("/v1/admin/clients/ours", headers=admin, json={"policy": "own"})
        assert given.status_code == 200
        mine = bearer(await house.key("ours", Scope.DETECT))
        decided = await http.post("/v1/detect", json=TEXT, headers=mine)
        assert decided.json()["policy"] == {"id": "own", "version": 1}
        other = await http.patch("/v1/admin/clients/theirs", headers=admin, json={"policy": "own"})
        assert other.status_code == 422
