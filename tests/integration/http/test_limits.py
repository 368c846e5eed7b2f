"""Limits as callers meet them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from support.access import bearer, in_registry, keyed
from support.app import client_for

from llmobs.access.registry import Registry
from llmobs.domain.access import Scope
from llmobs.settings import Settings

TEXT = {"llm_response": "Hello"}
TIERS = """
[small]
requests = 5
batch_texts = 4
tier2 = 1

[wide]
requests = 1000
"""


class House(NamedTuple):
    """A running service, callers of two tiers, and who may change them."""

    http: httpx.AsyncClient
    """Sends the key of the small tier."""
    wide: dict[str, str]
    admin: dict[str, str]


@pytest.fixture
async def house(settings: Settings, tmp_path: Path) -> AsyncIterator[House]:
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(TIERS)
    chosen = keyed(settings, tiers_file=str(tiers), default_policy="thorough")

    async def furnish(registry: Registry) -> list[str]:
        scopes = [Scope.DETECT, Scope.LOGS_READ, Scope.METRICS_READ]
        made = []
        for client, tier in (("shop", "small"), ("lab", "wide")):
            await registry.create_client(client, tier=tier)
            made.append((await registry.create_key(client, name="", scopes=scopes, by="test")).shown)
        made.append((await registry.create_key("lab", name="", scopes=[Scope.ADMIN], by="test")).shown)
        return made

    small, wide, admin = await in_registry(chosen, furnish)
    async with client_for(chosen) as client:
        client.headers.update(bearer(small))
        yield House(client, bearer(wide), bearer(admin))


async def test_requests_count_down_to_429_and_others_go_on(house: House) -> None:
    http = house.http
    left = []
    for path in ("/v1/detect", "/detect", "/v1/detect"):
        answer = await http.post(path, json=TEXT)
        assert answer.status_code == 200
        left.append(answer.headers["ratelimit-remaining"])
    left += [(await http.get(path)).headers["ratelimit-remaining"] for path in ("/v1/logs", "/v1/me")]
    assert left == ["4", "3", "2", "1", "0"]
    refused = await http.post("/v1/detect", json=TEXT)
    assert refused.status_code == 429
    assert refused.json()["type"] == "urn:llmobs:problem:rate-limited"
    assert refused.json()["detail"] == "The allowance of 5 requests an hour is spent."
    assert 3590 <= int(refused.headers["retry-after"]) <= 3600
    assert refused.headers["ratelimit-policy"] == "5;w=3600"
    assert refused.headers["x-request-id"]
    assert (await http.get("/v1/logs")).status_code == 429
    assert (await http.get("/metrics")).status_code == 200
    assert (await http.get("/health")).status_code == 200
    assert (await http.post("/v1/detect", json=TEXT, headers=house.wide)).status_code == 200


async def test_what_does_not_validate_counts_and_tells_the_rest_as_well(house: House) -> None:
    http = house.http
    answer = await http.post("/v1/detect", json={})
    assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (422, "4")


async def test_texts_in_batches_have_their_own_allowance(house: House) -> None:
    http = house.http
    assert (await http.post("/v1/detect/batch", json=[TEXT] * 3)).status_code == 200
    refused = await http.post("/v1/detect/batch", json=[TEXT] * 2)
    assert (refused.status_code, refused.json()["detail"]) == (
        429,
        "The allowance of 4 texts in batches an hour is spent.",
    )
    assert (await http.post("/v1/detect/batch", json=[TEXT])).status_code == 200
    assert (await http.post("/v1/detect", json=TEXT)).headers["ratelimit-remaining"] == "1"


async def test_a_spent_allowance_of_tier_2_is_told_and_left_to_the_policy(house: House) -> None:
    http = house.http
    # Two texts: one that comes again is answered from memory, and uses no tier.
    texts = ("The weather is fine.", "The train is late.")
    first, second = [(await http.post("/v1/detect", json={"llm_response": t})).json() for t in texts]

    def tier2(answer: dict[str, object]) -> set[tuple[str, str | None]]:
        coverage = answer["coverage"]
        assert isinstance(coverage, list)
        return {
            (c["status"], c.get("reason")) for c in coverage if c["tier"] == 2 and c["status"] != "skipped"
        }

    assert {status for status, _ in tier2(first)} == {"ran"}
    assert tier2(second) == {("failed", "allowance spent")}
    assert second["degraded"] is True


async def test_an_administrator_changes_the_tier_and_it_holds_at_once(house: House) -> None:
    http = house.http
    for _ in range(6):
        last = await http.post("/v1/detect", json=TEXT)
    assert last.status_code == 429
    changed = await http.patch("/v1/admin/clients/shop", headers=house.admin, json={"tier": "wide"})
    assert changed.status_code == 200
    answers = [(await http.post("/v1/detect", json=TEXT)) for _ in range(3)]
    assert answers[-1].status_code == 200
    assert answers[-1].headers["ratelimit-limit"] == "1000"


async def test_what_is_refused_is_counted_by_its_reason(house: House) -> None:
    http = house.http
    assert (await http.post("/v1/detect/batch", json=[TEXT] * 5)).status_code == 429
    for _ in range(6):
        last = await http.post("/v1/detect", json=TEXT)
    assert last.status_code == 429
    told = (await http.get("/metrics")).text
    counted = {
        line.split('reason="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1])
        for line in told.splitlines()
        if line.startswith("requests_limited_total{")
    }
    assert counted == {"rate": 0, "quota": 2, "batch_texts": 1, "sign-in": 0}
