"""The whole service with a judge: answers, records, health, metrics, failure."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.app import client_for
from support.judge_server import HONEST_WORD, Fault, JudgeServer

from llmobs.access.persons import PersonKeys
from llmobs.domain.access import EVERYTHING
from llmobs.settings import Settings, Synchronous
from llmobs.store.database import Database
from llmobs.store.erasure import Erasure
from llmobs.store.migrate import upgrade

OPEN = "The wheelbarrow stands in the rain."
"""Scored 0.6 by a rule of the fixture: warned about, not settled."""
OPEN_AND_BAD = f"The wheelbarrow of the {HONEST_WORD} stands in the rain."
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

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/doubtful.toml").write_text(RULES)

    @asynccontextmanager
    async def serving(server: JudgeServer | None = None, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
        values: dict[str, Any] = {
            "database_url": f"sqlite:///{tmp_path}/llmobs.db",
            "spool_dir": str(tmp_path / "spool"),
            "sqlite_synchronous": Synchronous.NORMAL,
            "rules_dir": str(tmp_path / "rules"),
            "encoder": False,  # it would settle what these tests leave in doubt
        }
        if server is not None:
            values |= {"judge_base_url": server.openai_url, "judge_model": "scripted"}
        settings = Settings(**(values | more))
        await asyncio.to_thread(upgrade, settings)
        async with client_for(settings) as client:
            yield client

    return serving


async def _detect(client: httpx.AsyncClient, text: str) -> dict[str, Any]:
    answer = await client.post("/v1/detect", json={"llm_response": text})
    assert answer.status_code == 200, answer.text
    return answer.json()


def _judge(body: dict[str, Any]) -> dict[str, Any]:
    return next(entry for entry in body["coverage"] if entry["detector"] == "judge")


async def test_what_is_in_doubt_goes_to_the_judge_and_nothing_else_does(serve: Serve) -> None:
    async with JudgeServer() as server, serve(server, judge_prices="scripted=2/10") as client:
        plain = await _detect(client, "The cart stands in the rain.")
        assert _judge(plain) == {"tier": 3, "detector": "judge", "status": "skipped", "reason": "settled"}
        assert server.asked == []
        body = await _detect(client, OPEN_AND_BAD)
        assert (body["action"], body["tier_used"], body["method"]) == ("block", 3, "judge")
        assert server.asked[0].classes == ("toxicity",)
        entry = _judge(body)
        assert entry["status"] == "ran"
        assert (entry["model"], entry["input_tokens"], entry["output_tokens"]) == ("openai/scripted", 100, 20)
        assert entry["cost_usd"] == pytest.approx(0.0004)
        piece = next(piece for piece in body["evidence"] if piece["source"] == "judge:harm@1")
        assert OPEN_AND_BAD[piece["start"] : piece["end"]] == HONEST_WORD
        logged = (await client.get("/logs/recent")).json()["logs"][0]
        assert (logged["method"], logged["tier_used"]) == ("judge", 3)
        assert _judge(logged)["cost_usd"] == pytest.approx(0.0004)
        again = await _detect(client, OPEN_AND_BAD.replace(" ", "  "))
        assert _judge(again)["cached"] is True
        assert _judge(again)["cost_usd"] == 0
        assert len(server.asked) == 1
        metrics = (await client.get("/metrics")).text
        labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="scripted"'
        assert f'gen_ai_client_operation_duration_seconds_count{{error_type="",{labels}}} 1.0' in metrics
        assert 'judge_lookups_total{result="memory"} 1.0' in metrics
        assert 'judge_breaker_state{provider="openai"} 0.0' in metrics
        assert 'judge_cost_usd_total{model="scripted",provider="openai"} 0.0004' in metrics
        assert HONEST_WORD not in metrics


async def test_a_judge_that_is_calm_does_not_lower_what_may_only_be_raised(serve: Serve) -> None:
    async with JudgeServer() as server, serve(server) as client:
        body = await _detect(client, OPEN)
    assert (body["action"], body["scores"]["toxicity"]) == ("warn", 0.6)
    assert len(server.asked) == 1


async def test_decisions_are_shared_by_the_database_and_expire(serve: Serve, tmp_path: Path) -> None:
    async with JudgeServer() as server:
        async with serve(server, judge_cache_seconds=600) as client:
            await _detect(client, OPEN_AND_BAD)
        async with serve(server, judge_cache_seconds=600) as client:  # another process, say
            body = await _detect(client, OPEN_AND_BAD)
            assert _judge(body)["cached"] is True
            assert body["action"] == "block"
            assert len(server.asked) == 1
            assert 'judge_lookups_total{result="database"} 1.0' in (await client.get("/metrics")).text
        with sqlite3.connect(tmp_path / "llmobs.db") as database:
            (kept,) = database.execute("SELECT value FROM judgements").fetchone()
            assert HONEST_WORD.encode() not in kept
            database.execute("UPDATE judgements SET expires_at = '2020-01-01 00:00:00.000000'")
        async with serve(server) as client:
            assert "cached" not in _judge(await _detect(client, OPEN_AND_BAD))
    assert len(server.asked) == 2


async def test_a_failed_judge_degrades_and_the_policy_decides(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/strict.toml").write_text(
        'id = "strict"\nversion = 1\n'
        '[classes.toxicity]\nseverity = "critical"\nwarn = 0.5\nblock = 0.8\non_failure = "block"\n'
    )
    async with JudgeServer() as server:
        server.fault = Fault.SERVER_ERROR
        more = {"policies_dir": str(tmp_path / "policies")}
        async with serve(server, **more) as client:
            body = await _detect(client, OPEN)
            assert (body["action"], body["degraded"]) == ("warn", True)
            assert _judge(body)["status"] == "failed"
            assert _judge(body)["reason"] == "openai: the server answered 500"
            answer = await client.post("/v1/detect", json={"llm_response": OPEN, "policy": "strict"})
            assert (answer.json()["action"], answer.json()["method"]) == ("block", "on_failure")
            settled = await _detect(client, "The cart stands in the rain.")
            assert settled["degraded"] is False


async def test_no_judge_is_a_normal_state(serve: Serve) -> None:
    async with serve() as client:
        ready = await client.get("/health/ready")
        assert ready.status_code == 200
        check = next(c for c in ready.json()["checks"] if c["name"] == "judge")
        assert (check["ok"], check["detail"]) == (True, "not configured")
        body = await _detect(client, OPEN)
        assert _judge(body) == {
            "tier": 3,
            "detector": "judge",
            "status": "skipped",
            "reason": "not configured",
        }
        assert body["degraded"] is False


@pytest.mark.parametrize("required", [False, True])
async def test_a_missing_model_is_told_at_start(serve: Serve, *, required: bool) -> None:
    async with JudgeServer(model="other") as server, serve(server, judge_required=required) as client:
        ready = await client.get("/health/ready")
        assert ready.status_code == (503 if required else 200)
        check = next(c for c in ready.json()["checks"] if c["name"] == "judge")
        assert (check["ok"], check["detail"]) == (False, "openai: the server has no model scripted")
    assert server.asked == []


async def test_a_judge_that_hangs_is_left_at_the_deadline(serve: Serve) -> None:
    async with JudgeServer() as server:
        server.fault = Fault.HANGING
        # Long enough that the tiers before leave time for a call, on a busy machine too.
        async with serve(server, tier3_timeout_ms=900, judge_call_timeout_ms=10_000) as client:
            started = time.perf_counter()
            body = await _detect(client, OPEN)
            assert time.perf_counter() - started < 3
            assert body["degraded"]
            assert _judge(body)["status"] in {"failed", "timed_out"}  # whichever clock strikes first
            assert "no answer within 0." in _judge(body)["reason"]
            await asyncio.sleep(0.1)
            assert server.in_flight == 0


async def test_the_outage_of_the_database_does_not_stop_the_judge(serve: Serve, tmp_path: Path) -> None:
    async with JudgeServer() as server, serve(server, store_on_failure="answer") as client:
        _turn_into_a_folder(tmp_path / "llmobs.db")
        body = await _detect(client, OPEN_AND_BAD)
        assert body["method"] == "judge"


def _turn_into_a_folder(database: Path) -> None:
    """A connection that opens at this moment makes the file anew, so this may take more than one try."""
    while True:
        database.unlink(missing_ok=True)
        try:
            database.mkdir()
        except FileExistsError:
            continue
        return


async def test_a_process_forgets_what_the_judge_said_for_a_person_whom_another_erases(
    serve: Serve, tmp_path: Path
) -> None:
    pepper = "a pepper that only this test knows, long"

    async def asked(client: httpx.AsyncClient, server: JudgeServer, person: str) -> int:
        """How often the judge had been asked after one more text."""
        body = {"llm_response": OPEN_AND_BAD, "context": {"subject_id": person}}
        answer = await client.post("/v1/detect", json=body)
        assert answer.status_code == 200
        return len(server.asked)

    async with JudgeServer() as server, serve(server, subject_pepper=pepper) as client:
        assert [await asked(client, server, who) for who in ("ann", "bob", "ann")] == [1, 1, 1]
        other = Database(Settings(database_url=f"sqlite:///{tmp_path}/llmobs.db"))
        gone = await Erasure(other).of_person(EVERYTHING, PersonKeys(pepper).key_of("ann"), by="test")
        await other.dispose()
        assert (gone.verdicts, gone.judgements) == (2, 1)
        await asyncio.sleep(2.5)  # it looks every second
        assert await asked(client, server, "bob") == 2
        assert await asked(client, server, "ann") == 2
