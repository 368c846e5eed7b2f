"""What leaves the service is noted: an export stands in the audit log with what was asked for."""

import json

import httpx


async def test_an_export_is_noted_with_its_filters(client: httpx.AsyncClient) -> None:
    wanted = {"format": "jsonl", "action": "block", "kind": "response"}
    assert (await client.get("/v1/logs", params=wanted)).status_code == 200
    noted = (await client.get("/v1/admin/audit")).json()
    entry = next(one for one in noted["entries"] if one["action"] == "logs.export")
    details = json.loads(entry["details"])
    assert (details["action"], details["kind"]) == ("block", "response")


async def test_reading_a_page_is_no_export(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/logs", params={"action": "block"})).status_code == 200
    noted = (await client.get("/v1/admin/audit")).json()
    assert not [one for one in noted["entries"] if one["action"] == "logs.export"]
