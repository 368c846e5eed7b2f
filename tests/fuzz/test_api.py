"""The corpus of the API's fuzzer, sent once: no 5xx, and nobody in without a key. `make fuzz-api MINUTES=10` goes further."""

import asyncio
import sys
from pathlib import Path

from support.access import bearer, in_registry, keyed
from support.app import client_for

from llmobs.access.registry import Registry
from llmobs.domain.access import Scope
from llmobs.http.openapi import openapi_document
from llmobs.settings import Settings
from llmobs.store.migrate import upgrade

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from api import body_of, corpus

OPEN = ("/health", "/docs", "/redoc", "/openapi.json", "/ui")


async def test_the_corpus_of_the_api_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stream that goes on for a minute is over at once.
    monkeypatch.setattr("llmobs.http.live.LIFETIME", 0.02)
    settings = keyed(
        Settings(
            database_url=f"sqlite:///{tmp_path}/llmobs.db",
            spool_dir=str(tmp_path / "spool"),
            log_level="error",
            encoder=False,
            rate_limits=False,
        )
    )

    async def furnish(registry: Registry) -> str:
        await registry.create_client("fuzzer", tier="enterprise")
        return (await registry.create_key("fuzzer", name="", scopes=[Scope.ADMIN], by="test")).shown

    await asyncio.to_thread(upgrade, settings)
    key = await in_registry(settings, furnish)
    sent = corpus()
    assert len(sent) > 50
    # An operation that is younger than the corpus is at least called with nothing.
    sent += [
        {
            "method": method.upper(),
            "path": path.replace("{", "").replace("}", ""),
            "headers": {},
            "body": None,
        }
        for path, item in openapi_document(50_000, ["default"])["paths"].items()
        for method in item
    ]
    async with client_for(settings) as client:
        for kept in sent:
            request = (kept["method"], kept["path"])
            known = await client.request(
                *request, headers=kept["headers"] | bearer(key), content=body_of(kept)
            )
            assert known.status_code < 500, (kept, known.text)
            unknown = await client.request(*request, headers=kept["headers"], content=body_of(kept))
            path = kept["path"].split("?")[0]
            if path != "/" and not path.startswith(OPEN):
                assert known.status_code != 401, kept
                assert unknown.status_code == 401, (kept, unknown.text)
