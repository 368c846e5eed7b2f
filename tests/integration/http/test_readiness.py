"""Who is sent requests: a database that goes away takes nobody out of service who can do without it."""

import asyncio
from pathlib import Path

import httpx
import msgspec
import pytest
from support.app import client_for
from support.postgres import OwnServer, new_database, own_server

from llmobs.settings import Settings, StoreOnFailure
from llmobs.store.migrate import upgrade

BODY = {"llm_response": "The library opens at nine."}


def _settings(server: OwnServer, folder: Path, **changes: object) -> Settings:
    made = Settings(
        database_url=new_database(server),
        spool_dir=str(folder / "spool"),
        database_timeout_seconds=2.0,
        encoder=False,
        snapshot_seconds=0,
    )
    upgrade(made)
    return msgspec.structs.replace(made, **changes)


async def _ready(client: httpx.AsyncClient) -> tuple[int, dict[str, tuple[bool, bool]]]:
    answer = await client.get("/health/ready")
    return answer.status_code, {c["name"]: (c["ok"], c["required"]) for c in answer.json()["checks"]}


@pytest.mark.parametrize(
    ("on_failure", "status", "answered"),
    [
        (StoreOnFailure.SPOOL, 200, (200, True)),
        (StoreOnFailure.ANSWER, 200, (200, False)),
        (StoreOnFailure.REFUSE, 503, (503, None)),
    ],
)
async def test_readiness_follows_what_requests_would_get(
    on_failure: StoreOnFailure, status: int, answered: tuple[int, bool | None], tmp_path: Path
) -> None:
    with own_server() as server:
        settings = await asyncio.to_thread(_settings, server, tmp_path, store_on_failure=on_failure)
        async with client_for(settings) as client:
            assert (await _ready(client))[0] == 200
            await asyncio.to_thread(server.stop)
            found, checks = await _ready(client)
            assert found == status
            assert checks["database"] == checks["migrations"] == (False, status == 503)
            answer = await client.post("/v1/detect", json=BODY)
            assert (answer.status_code, answer.json().get("recorded")) == answered
            await asyncio.to_thread(server.start)
            found, checks = await _ready(client)
            assert (found, checks["database"]) == (200, (True, True))


async def test_a_spool_without_room_is_not_ready_and_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_server() as server:
        settings = await asyncio.to_thread(_settings, server, tmp_path, spool_max_bytes=4096)
        async with client_for(settings) as client:
            assert (await _ready(client))[0] == 200
            await asyncio.to_thread(server.stop)
            statuses = [(await client.post("/v1/detect", json=BODY)).status_code for _ in range(12)]
            assert statuses[0] == 200
            assert statuses[-1] == 503
            assert (await _ready(client))[0] == 503
            monkeypatch.setattr("llmobs.store.spool.REFUSED_SECONDS", 0.0)
            monkeypatch.setattr("llmobs.store.spool.ROOM_SHARE", 2.0)
            assert (await _ready(client))[0] == 200
            await asyncio.to_thread(server.start)


async def test_a_database_that_was_never_there_is_waited_for(tmp_path: Path) -> None:
    with own_server() as server:
        settings = await asyncio.to_thread(_settings, server, tmp_path)
        await asyncio.to_thread(server.stop)
        async with client_for(settings) as client:
            assert (await _ready(client))[0] == 503
            await asyncio.to_thread(server.start)
            assert (await _ready(client))[0] == 200
