"""The real server with a judge: callers who leave, a judge that dies, a shutdown in the middle."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from e2e.test_service import Server
from support.judge_server import HONEST_WORD, Fault, JudgeServer

RULES = """
[pack]
id = "doubtful"
failure_class = "toxicity"
description = "Leaves a text in doubt."
[[rule]]
id = "doubtful.wheelbarrow"
note = "a wheelbarrow"
pattern = "wheelbarrow"
score = 0.6
match = ["a ⟦wheelbarrow⟧"]
skip = ["a cart"]
"""
OPEN = "The wheelbarrow stands in the rain."


@asynccontextmanager
async def served(folder: Path, judge: JudgeServer, **more: str) -> AsyncIterator[Server]:
    (folder / "rules").mkdir()
    (folder / "rules/doubtful.toml").write_text(RULES)
    server = Server(
        folder,
        f"sqlite:///{folder}/llmobs.db",
        LLMOBS_RULES_DIR=str(folder / "rules"),
        LLMOBS_ENCODER="false",  # it would settle what these tests leave in doubt
        JUDGE_BASE_URL=judge.openai_url,
        JUDGE_MODEL=judge.model,
        **more,
    )
    migrated = await asyncio.to_thread(server.llmobs, "migrate")
    assert migrated.returncode == 0, migrated.stderr
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            await asyncio.to_thread(server.kill)


async def _until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_caller_who_hangs_up_cancels_the_call_to_the_judge(tmp_path: Path) -> None:
    async with JudgeServer() as judge, served(tmp_path, judge) as server:
        judge.fault = Fault.HANGING
        for path, body in (
            ("/v1/detect", {"llm_response": OPEN}),
            ("/v1/detect/batch", [{"llm_response": f"{OPEN} {n}"} for n in range(3)]),
        ):
            calls = 3 if isinstance(body, list) else 1
            before = judge.left
            raw = json.dumps(body).encode()
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
            writer.write(head.encode() + raw)
            await _until(lambda wanted=calls: judge.in_flight == wanted)
            writer.close()
            await _until(lambda: judge.in_flight == 0)
            assert judge.left - before == calls
        rows: list[dict[str, Any]] = []
        async with asyncio.timeout(10):
            while len(rows) < 4:  # nobody waits for these verdicts, so they are written a little later
                rows = (await asyncio.to_thread(server.get, "/logs/recent"))["logs"]
                await asyncio.sleep(0.05)
        reasons = {
            entry["reason"] for row in rows for entry in row["coverage"] if entry["detector"] == "judge"
        }
        assert reasons == {"the caller went away"}
        assert len(rows) == 4


async def test_a_shutdown_lets_the_judge_finish(tmp_path: Path) -> None:
    async with (
        JudgeServer(pause_s=1.0) as judge,
        served(tmp_path, judge) as server,
        httpx.AsyncClient(timeout=20) as client,
    ):
        text = f"{OPEN} A {HONEST_WORD}."
        url = f"http://127.0.0.1:{server.port}/v1/detect"
        call = asyncio.create_task(client.post(url, json={"llm_response": text}))
        await _until(lambda: judge.in_flight == 1)
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        answer = await call
        assert (answer.status_code, answer.json()["method"]) == (200, "judge")
        assert await stopping == 0


async def test_a_judge_that_dies_and_returns_leaves_no_request_hanging(tmp_path: Path) -> None:
    more = {"LLMOBS_JUDGE_BREAKER_SECONDS": "0.5", "LLMOBS_TIER3_TIMEOUT_MS": "2000"}
    async with (
        JudgeServer(pause_s=0.02) as judge,
        served(tmp_path, judge, **more) as server,
        httpx.AsyncClient(timeout=20, base_url=f"http://127.0.0.1:{server.port}") as client,
    ):

        async def status(number: int) -> str:
            started = time.perf_counter()
            body = (await client.post("/v1/detect", json={"llm_response": f"{OPEN} {number}"})).json()
            assert time.perf_counter() - started < 4
            entry = next(e for e in body["coverage"] if e["detector"] == "judge")
            assert body["degraded"] is (entry["status"] != "ran")
            assert body["action"] == "warn"
            return str(entry["status"])

        assert {await status(n) for n in range(5)} == {"ran"}
        await judge.stop()
        assert {await status(n) for n in range(10, 20)} == {"failed"}
        assert 'judge_breaker_state{provider="openai"} 2.0' in (await client.get("/metrics")).text
        await judge.start()
        async with asyncio.timeout(20):
            number = 100
            while await status(number) != "ran":
                number += 1
                await asyncio.sleep(0.1)
        assert 'judge_breaker_state{provider="openai"} 0.0' in (await client.get("/metrics")).text
