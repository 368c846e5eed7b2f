"""Feedback: kept, listed, exported, and turned into a policy that decides otherwise."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from sqlalchemy import delete
from support.app import client_for

from llmobs.cli import cli
from llmobs.domain.feedback import Judged, true_class_of
from llmobs.domain.interval import wilson
from llmobs.domain.risk import Action
from llmobs.evaluation import Row, inquiry_of, read_rows
from llmobs.http.problems import TYPE_PREFIX
from llmobs.policies import load_policies
from llmobs.settings import Settings, StoreText
from llmobs.store.database import Database
from llmobs.store.tables import detection_logs

HARMLESS = {"llm_response": "Water boils at a hundred degrees at sea level."}
# Harmless in the house of this test, whose mascot is rude.
ALARMING = "Our {n} idiot-proof guides: you stupid idiot, says the parrot on page {n}."
INSULT = {"llm_response": "You are a worthless idiot and nobody likes you."}


async def _verdict(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post("/v1/detect", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def _say(client: httpx.AsyncClient, verdict: dict[str, Any], **word: Any) -> httpx.Response:
    return await client.post("/v1/feedback", json={"request_id": verdict["request_id"], **word})


async def test_a_word_on_a_verdict_is_kept_and_a_later_one_replaces_it(client: httpx.AsyncClient) -> None:
    verdict = await _verdict(client, HARMLESS)
    assert verdict["action"] == "allow"
    first = await _say(client, verdict, correct=True, note="fine")
    assert (first.status_code, first.json()["true_class"]) == (201, None)
    second = await _say(client, verdict, correct=False, correct_class="toxicity")
    assert (second.status_code, second.json()["true_class"], second.json()["note"]) == (200, "toxicity", "")
    listed = (await client.get("/v1/feedback")).json()
    assert [(f["id"], f["correct"]) for f in listed["feedback"]] == [(first.json()["id"], False)]
    assert listed["next_cursor"] is None


@pytest.mark.parametrize(
    ("word", "status", "slug"),
    [
        ({"correct": False}, 422, "value-refused"),  # harmless is what the verdict said
        ({"correct": True, "correct_class": "toxicity"}, 422, "value-refused"),
        ({"correct": False, "correct_class": "rudeness"}, 422, "value-refused"),
        ({"correct": "perhaps"}, 422, "body-invalid"),
        ({"correct": True, "note": "x" * 4001}, 422, "body-invalid"),
        ({"correct": True, "request_id": "none of ours"}, 404, "entry-unknown"),
        ({"correct": True, "request_id": "\x00"}, 404, "entry-unknown"),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    client: httpx.AsyncClient, word: dict[str, Any], status: int, slug: str
) -> None:
    verdict = await _verdict(client, HARMLESS)
    refused = await _say(client, verdict, **word)
    assert (refused.status_code, refused.json()["type"]) == (status, TYPE_PREFIX + slug)
    assert (await client.get("/v1/feedback")).json()["feedback"] == []


@pytest.mark.parametrize(
    ("action", "said", "correct", "named", "truth"),
    [
        (Action.BLOCK, "toxicity", True, None, "toxicity"),
        (Action.BLOCK, "toxicity", True, "toxicity", "toxicity"),
        (Action.BLOCK, "toxicity", False, None, None),
        (Action.BLOCK, "toxicity", False, "bias", "bias"),
        (Action.ALLOW, "toxicity", True, None, None),
        (Action.ALLOW, None, False, "bias", "bias"),
    ],
)
def test_the_label_that_follows_from_a_word(
    action: Action, said: str | None, correct: bool, named: str | None, truth: str | None
) -> None:
    verdict = Judged(request_id="r", client_id=None, action=action, failure_class=said)
    assert true_class_of(verdict, correct=correct, correct_class=named) == truth


async def test_pages_follow_each_other_without_gap_or_repeat(client: httpx.AsyncClient) -> None:
    for _ in range(7):
        await _say(client, await _verdict(client, HARMLESS), correct=True)
    seen: list[int] = []
    cursor = ""
    while True:
        page = (await client.get(f"/v1/feedback?limit=3{cursor}")).json()
        seen += [f["id"] for f in page["feedback"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 7


async def test_a_secret_in_a_note_is_masked(client: httpx.AsyncClient) -> None:
    key = "AKIA" + "Q7ZK2MNR4TPW3XYB"
    kept = await _say(client, await _verdict(client, HARMLESS), correct=True, note=f"it said {key} once")
    assert key not in kept.text
    assert kept.json()["note"].startswith("it said ")


async def test_precision_by_class_with_its_interval(client: httpx.AsyncClient) -> None:
    for right in (True, True, True, False):
        verdict = await _verdict(client, INSULT)
        assert (verdict["action"], verdict["failure_class"]) == ("block", "toxicity")
        await _say(client, verdict, correct=right)
    await _say(client, await _verdict(client, HARMLESS), correct=False, correct_class="bias")
    told = {line["failure_class"]: line for line in (await client.get("/v1/stats")).json()["feedback"]}
    expected = wilson(3, 4)
    assert expected is not None
    assert told["toxicity"] == {
        "failure_class": "toxicity",
        "flagged": 4,
        "right": 3,
        "precision": msgspec.to_builtins(expected),
        "missed": 0,
    }
    assert (told["bias"]["precision"], told["bias"]["missed"]) == (None, 1)


async def test_rows_say_what_the_request_said(settings: Settings, tmp_path: Path) -> None:
    context = {"query": "Hot?", "documents": [HARMLESS["llm_response"]], "system_prompt": "Be brief."}
    path = tmp_path / "rows.jsonl"
    async with client_for(msgspec.structs.replace(settings, encoder=False)) as client:
        await _say(client, await _verdict(client, HARMLESS | {"context": context}), correct=True)
        alarm = await _verdict(client, {"llm_response": ALARMING})
        assert alarm["failure_class"] == "toxicity"
        await _say(client, alarm, correct=True)
        path.write_bytes((await client.get("/v1/feedback?format=rows")).content)
        only = (await client.get("/v1/feedback?format=rows&harmless=true")).text.splitlines()
    insult, harmless = read_rows(path)
    assert (insult.task, insult.label, insult.role, insult.text) == ("toxicity", 1, "response", ALARMING)
    assert (harmless.task, harmless.label) == ("benign", 0)
    assert inquiry_of(harmless).context == context
    assert [json.loads(line)["task"] for line in only] == ["benign"]


async def test_texts_that_are_not_there_are_left_out(settings: Settings) -> None:
    async with client_for(msgspec.structs.replace(settings, store_text=StoreText.HASH)) as client:
        await _say(client, await _verdict(client, HARMLESS), correct=True)
        assert (await client.get("/v1/feedback?format=rows")).text == ""
    async with client_for(settings) as client:
        verdict = await _verdict(client, HARMLESS)
        await _say(client, verdict, correct=True)
        assert len((await client.get("/v1/feedback?format=rows")).text.splitlines()) == 1
        database = Database(settings)
        async with database.transaction() as connection:
            await connection.execute(delete(detection_logs))
        await database.dispose()
        assert (await client.get("/v1/feedback?format=rows")).text == ""
        assert len((await client.get("/v1/feedback")).json()["feedback"]) == 2


@pytest.mark.timeout(300)
async def test_fifty_labelled_texts_become_a_policy_that_decides_otherwise(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    chosen = msgspec.structs.replace(settings, policies_dir=str(folder), reload_seconds=0.05, encoder=False)
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    monkeypatch.setenv("LLMOBS_ENCODER", "false")
    monkeypatch.setenv("LLMOBS_POLICIES_DIR", str(folder))
    before = load_policies()["default"]
    async with client_for(chosen) as client:
        false_alarm = {"llm_response": ALARMING.format(n=0)}
        first = await _verdict(client, false_alarm)
        assert first["failure_class"] == "toxicity"
        assert first["action"] in {"warn", "block"}
        assert first["policy"] == {"id": "default", "version": before.version}
        for number in range(50):
            text = ALARMING.format(n=number) if number % 2 else f"Guide {number} tells how water boils."
            verdict = await _verdict(client, {"llm_response": text})
            said = await _say(client, verdict, correct=verdict["action"] == "allow")
            assert (said.status_code, said.json()["true_class"]) == (201, None)
        rows = tmp_path / "harmless.jsonl"

        def command(*words: str) -> str:
            done = CliRunner().invoke(cli, words, catch_exceptions=False)
            assert done.exit_code == 0, done.output
            return done.output

        out = await asyncio.to_thread(command, "feedback", "export", "--harmless", "--out", str(rows))
        assert out == f"50 rows written to {rows}.\n"
        assert (await client.get("/v1/feedback?format=rows&harmless=true")).content == rows.read_bytes()
        assert all(isinstance(row, Row) for row in read_rows(rows))
        out = await asyncio.to_thread(
            command, "calibrate", "--benign", str(rows), "--out", str(folder / "default.toml")
        )
        after = load_policies(folder)["default"]
        assert after.version == before.version + 1
        was, now = before.classes["toxicity"].warn, after.classes["toxicity"].warn
        assert was is not None
        assert now is not None
        assert now > was
        print(f"\ntoxicity warn {was:g} -> {now:g}, version {before.version} -> {after.version}\n{out}")
        async with asyncio.timeout(10):
            while True:
                answer = await _verdict(client, false_alarm)
                if answer["policy"]["version"] == after.version:
                    break
        assert answer["action"] in {"allow", "log"}
