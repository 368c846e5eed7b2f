"""What is refused before it is read, and what every answer carries."""

import gzip
import zlib

import httpx
import pytest

from llmobs.http.edge import MOST_HEADER_BYTES, MOST_HEADERS, MOST_PATH_BYTES

BOMB = gzip.compress(b'{"llm_response": "' + b"a" * 20_000_000 + b'"}')
POSTS = ("/v1/detect", "/v1/detect/batch", "/v1/admin/clients")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, identity", "GZIP"])
async def test_a_compressed_body_is_refused_unread(
    client: httpx.AsyncClient, path: str, encoding: str
) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = await client.post(path, content=BOMB, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (415, "urn:llmobs:problem:encoding-unsupported")
    assert answer.headers["accept-encoding"] == "identity"


async def test_compressed_bytes_without_a_word_of_it_are_no_json(client: httpx.AsyncClient) -> None:
    body = zlib.compress(b'{"llm_response": "a"}')
    answer = await client.post("/v1/detect", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


async def test_identity_is_no_compression(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v1/detect", json={"llm_response": "Paris."}, headers={"content-encoding": "identity"}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("method_path", [("POST", "/v1/detect"), ("GET", "/v1/logs"), ("GET", "/nowhere")])
async def test_too_many_or_too_large_headers_are_refused(
    client: httpx.AsyncClient, method_path: tuple[str, str]
) -> None:
    method, path = method_path
    for headers in (
        {f"x-filler-{n}": "a" for n in range(MOST_HEADERS + 1)},
        {"x-filler": "a" * MOST_HEADER_BYTES},
    ):
        answer = await client.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (431, "urn:llmobs:problem:headers-too-large")
    assert "headers-too-large" not in (await client.request(method, path)).text


async def test_a_path_that_is_too_long_is_refused_and_not_told_back_whole(client: httpx.AsyncClient) -> None:
    for path in ("/" + "a" * MOST_PATH_BYTES, "/v1/logs?request_id=" + "a" * MOST_PATH_BYTES):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["type"]) == (414, "urn:llmobs:problem:path-too-long")
        assert len(answer.content) < 1_000
    assert (await client.get("/v1/logs?request_id=" + "a" * 4_000)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/v1/logs", "/metrics", "/docs", "/nowhere", "/v1/detect"])
async def test_every_answer_has_the_security_headers(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    posted = await client.post("/v1/detect", json={"llm_response": "Paris."})
    assert posted.headers["x-frame-options"] == "DENY"
