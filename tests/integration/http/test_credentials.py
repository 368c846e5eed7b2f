"""Keys and tokens against the running application, and the document's word on both."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import schemathesis
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as examples
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from support.access import bearer, in_registry, in_registry_now, keyed
from support.app import client_for
from support.running import Running

from llmobs.access.registry import Registry
from llmobs.app import create_app
from llmobs.domain.access import Scope
from llmobs.http.openapi import openapi_document
from llmobs.settings import AuthMode, Settings, StoreOnFailure
from llmobs.store.migrate import upgrade

SIGNER = ed25519.Ed25519PrivateKey.generate()
TEXT = {"llm_response": "Hello"}


async def _furnish(registry: Registry) -> str:
    await registry.create_client("shop", tier="enterprise")
    return (await registry.create_key("shop", name="", scopes=[Scope.ADMIN], by="test")).shown


async def test_a_token_and_a_key_let_in_side_by_side(settings: Settings, tmp_path: Path) -> None:
    published = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(SIGNER.public_key()))
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [published | {"kid": "k"}]}))
    chosen = keyed(
        settings,
        auth_mode=AuthMode.KEYS_JWT,
        jwt_jwks=str(tmp_path / "jwks.json"),
        jwt_issuer="https://id.example",
        jwt_audience="llmobs",
    )
    key = await in_registry(chosen, _furnish)
    claims = {"iss": "https://id.example", "aud": "llmobs", "exp": time.time() + 60, "client_id": "shop"}

    def token(**more: Any) -> dict[str, str]:
        return bearer(jwt.encode(claims | more, SIGNER, algorithm="EdDSA", headers={"kid": "k"}))

    async with client_for(chosen) as client:
        statuses = [
            (await client.post("/v1/detect", json=TEXT, headers=headers)).status_code
            for headers in (bearer(key), token(roles=["user"]), token(roles=["viewer"]), token(exp=1), {})
        ]
        assert statuses == [200, 200, 403, 401, 401]
        me = (await client.get("/v1/me", headers=token(sub="ada", roles=["viewer"]))).json()
        assert (me["actor"], me["client_id"], me["reads"]) == ("token:ada", "shop", ["shop"])
        await client.patch("/v1/admin/clients/shop", headers=token(roles=["admin"]), json={"disabled": True})
        assert (await client.get("/v1/me", headers=token(roles=["viewer"]))).status_code == 401


async def test_with_browsers_allowed_in_the_framework_asks_for_the_same(settings: Settings) -> None:
    chosen = keyed(settings, cors_origins="https://console.example")
    key = await in_registry(chosen, _furnish)
    async with client_for(chosen) as client:
        refused = await client.post("/v1/detect", json=TEXT)
        assert (refused.status_code, refused.json()["type"]) == (401, "urn:llmobs:problem:unauthenticated")
        assert (await client.post("/v1/detect", json=TEXT, headers=bearer(key))).status_code == 200
        asked = await client.options(
            "/v1/detect",
            headers={
                "origin": "https://console.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization",
            },
        )
        assert asked.status_code == 204
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()


async def test_no_credential_reaches_logs_or_metrics(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = keyed(settings, log_level="debug")
    key = await in_registry(chosen, _furnish)
    async with client_for(chosen) as client:
        for headers in (bearer(key), bearer(key[:-1] + "!"), {"x-api-key": key}):
            await client.post("/v1/detect", json=TEXT, headers=headers)
        metrics = (await client.get("/metrics", headers=bearer(key))).text
    written = "".join(capsys.readouterr())
    assert '"path":"/v1/detect"' in written.replace('": "', '":"')
    secret = key.split("_", 2)[2]
    assert secret not in written + metrics
    assert secret[:-1] not in written + metrics


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    chosen = keyed(
        Settings(
            database_url=f"sqlite:///{folder}/llmobs.db",
            spool_dir=str(folder / "spool"),
            store_on_failure=StoreOnFailure.REFUSE,
            log_level="error",
            encoder=False,
        )
    )
    upgrade(chosen, "head")
    key = in_registry_now(chosen, _furnish)
    # A stream that goes on for a minute is over at once.
    patched = pytest.MonkeyPatch()
    patched.setattr("llmobs.http.live.LIFETIME", 0.02)
    running = Running(create_app(chosen))
    yield schemathesis.openapi.from_asgi("/openapi.json", running), key
    running.stop()
    patched.undo()


OPERATIONS = [
    (path, method.upper())
    for path, item in openapi_document(50_000, ["default"])["paths"].items()
    for method in item
]


JUDGED = {f"/v1/admin/policies/{part}" for part in ("check", "dry-run", "dry-run/labelled", "{policy_id}")}
"""Take policies, and whether one is sound no schema can say."""
SIGNS_IN = "/ui/session"
"""Refuses made-up credentials, and whoever is not the page, with 401: with or without a key beside them."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("with_key", [True, False], ids=["with key", "without"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_what_is_answered_is_described_where_keys_are_asked_for(
    guarded: tuple[Any, str], path: str, method: str, with_key: bool
) -> None:
    api, key = guarded
    operation = api[path][method]
    seen: set[int] = set()

    @seed(1)
    @examples(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    def call(case: Any) -> None:
        if with_key:  # the generator makes credentials up, and two at once are refused
            for name in ("X-API-Key", "Authorization"):
                case.headers.pop(name, None)
        answer = case.call(headers=bearer(key) if with_key else None)
        seen.add(answer.status_code)
        # That a made-up credential is refused is the other half of this test.
        excluded = [ignored_auth] if with_key else []
        case.validate_response(
            answer, excluded_checks=[*excluded, positive_data_acceptance] if path in JUDGED else excluded
        )

    call()
    assert not {status for status in seen if status >= 500}
    if path == SIGNS_IN and method != "GET":
        assert seen == {401}
    elif with_key:
        assert 401 not in seen
    elif "security" in operation.definition.raw:
        assert seen == {401}
    else:
        assert 401 not in seen
