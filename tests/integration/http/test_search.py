"""GET /v1/logs?q=: what is refused, what is found, and that the word itself is kept nowhere."""

import httpx
import pytest
from support.access import bearer, in_registry, keyed
from support.app import started

from llmobs.access.registry import Registry
from llmobs.app import create_app
from llmobs.domain.access import Scope
from llmobs.settings import Settings


@pytest.mark.parametrize("word", ["", "z", "z" * 201])
async def test_too_short_and_too_long_words_are_refused(settings: Settings, word: str) -> None:
    app = create_app(settings)
    async with started(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://llmobs.test") as http:
            refused = await http.get("/v1/logs", params={"q": word})
    assert refused.status_code == 400
    assert refused.json()["type"] == "urn:llmobs:problem:parameter-invalid"


async def test_a_client_finds_its_own_and_the_audit_log_does_not_tell_the_word(settings: Settings) -> None:
    asked = keyed(settings)

    async def furnish(registry: Registry) -> list[str]:
        made = []
        for client, scopes in (
            ("ours", [Scope.DETECT, Scope.LOGS_READ]),
            ("theirs", [Scope.DETECT, Scope.LOGS_READ]),
            ("ours", [Scope.ADMIN]),
        ):
            if client not in {one.id for one in await registry.clients()}:
                await registry.create_client(client, tier="enterprise")
            made.append((await registry.create_key(client, name="", scopes=scopes, by="test")).shown)
        return made

    ours, theirs, admin = (bearer(key) for key in await in_registry(asked, furnish))
    app = create_app(asked)
    async with started(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://llmobs.test") as http:
            body = {"llm_response": "The zebrafinch is ours."}
            assert (await http.post("/v1/detect", json=body, headers=ours)).status_code == 200
            query = {"q": "ZebraFinch"}
            found = (await http.get("/v1/logs", params=query, headers=ours)).json()
            assert [row["llm_response"] for row in found["logs"]] == ["The zebrafinch is ours."]
            assert (await http.get("/v1/logs", params=query, headers=theirs)).json()["logs"] == []
            lines = await http.get("/v1/logs", params=query | {"format": "jsonl"}, headers=ours)
            assert lines.text.count("zebrafinch") == 1
            told = await http.get("/v1/admin/audit", headers=admin)
            assert "logs.export" in told.text
            assert "finch" not in told.text.lower()
