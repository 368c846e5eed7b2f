"""Whom a request names is kept as a keyed hash alone, and can be erased by whoever knows the name."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from support.app import client_for

from llmobs.access.persons import PersonKeys, named_person, person_keys_from
from llmobs.cli import cli
from llmobs.errors import SettingsInvalid
from llmobs.settings import Settings, StoreText

PEPPER = "a pepper that only this test knows, long enough"
ANN = "ann-4711@customers.example"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, subject_pepper=PEPPER, encoder=False)


def _body(person: Any = ANN, text: str = "Your parcel is on its way.", **more: Any) -> dict[str, Any]:
    return {"llm_response": text, "context": {"subject_id": person, "ticket": "T-1", **more}}


def _stored(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(settings.database_url.removeprefix("sqlite:///")) as connection:
        return connection.execute(query).fetchall()


def _bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("store_text", list(StoreText))
async def test_the_id_is_in_no_byte_of_the_database(
    settings: Settings, store_text: StoreText, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(settings, store_text=store_text)
    key = PersonKeys(PEPPER).key_of(ANN)
    async with client_for(settings) as client:
        answer = await client.post("/v1/detect", json=_body(), headers={"idempotency-key": "k1"})
        assert answer.status_code == 200
        assert ANN not in answer.text
        shown = (await client.get("/v1/logs")).text
        assert ANN not in shown
        assert key not in shown
        held = _bytes(tmp_path)
    assert ANN.encode() not in held
    assert _stored(settings, "SELECT subject_key FROM detection_logs") == [(key,)]
    if store_text is not StoreText.HASH:
        assert _stored(settings, "SELECT context FROM detection_logs") == [('{"ticket":"T-1"}',)]
    plain = hashlib.sha256(answer.request.content).digest()
    assert _stored(settings, "SELECT body_sha256 FROM idempotency_keys") != [(plain,)], (
        "who has the text could try ids"
    )


async def test_all_of_a_person_can_be_erased_and_the_key_used_again(settings: Settings) -> None:
    async with client_for(settings) as client:
        for number, person in enumerate((ANN, ANN, "bob", 4711)):
            headers = {"idempotency-key": f"k{number}"}
            answer = await client.post("/v1/detect", json=_body(person), headers=headers)
            assert answer.status_code == 200
        said = {"request_id": answer.json()["request_id"], "correct": True}
        assert (await client.post("/v1/feedback", json=said)).status_code == 201
        gone = await client.post("/v1/admin/erasures", json={"subject_id": ANN})
        assert gone.json() == {"verdicts": 2, "feedback": 0, "idempotency_keys": 2, "judgements": 0}
        gone = await client.post("/v1/admin/erasures", json={"subject_id": "4711"})
        assert gone.json() == {"verdicts": 1, "feedback": 1, "idempotency_keys": 1, "judgements": 0}
        assert (await client.get("/v1/logs")).json()["logs"][0]["context"] == {"ticket": "T-1"}
        again = await client.post("/v1/detect", json=_body(ANN), headers={"idempotency-key": "k0"})
        assert again.status_code == 200
        metrics = (await client.get("/metrics")).text
        assert "rows_deleted_total{" in metrics
        audit = (await client.get("/v1/admin/audit")).text
        assert ANN not in audit
        assert PersonKeys(PEPPER).key_of(ANN) in audit
    assert len(_stored(settings, "SELECT id FROM detection_logs")) == 2


async def test_a_verdict_on_a_named_person_is_never_answered_from_memory(settings: Settings) -> None:
    async def cached(client: httpx.AsyncClient, body: dict[str, Any]) -> bool:
        answer = (await client.post("/v1/detect", json=body)).json()
        return any(entry.get("cached") for entry in answer["coverage"])

    async with client_for(settings) as client:
        assert [await cached(client, _body()) for _ in range(3)] == [False, False, False]
        nobody = {"llm_response": "Your parcel is on its way."}
        assert [await cached(client, nobody) for _ in range(3)] == [False, True, True]


async def test_without_a_pepper_ids_are_dropped_and_nobody_can_be_erased(
    settings: Settings, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(settings, subject_pepper="")
    async with client_for(settings) as client:
        assert (await client.post("/v1/detect", json=_body())).status_code == 200
        refused = await client.post("/v1/admin/erasures", json={"subject_id": ANN})
        assert refused.status_code == 409
        assert "LLMOBS_SUBJECT_PEPPER" in refused.json()["detail"]
        held = _bytes(tmp_path)
    assert ANN.encode() not in held
    assert _stored(settings, "SELECT subject_key FROM detection_logs") == [(None,)]


@pytest.mark.parametrize("body", [{}, {"subject_id": ""}, {"subject_id": 7}, {"subject_id": "a", "x": 1}, []])
async def test_a_body_that_names_nobody_is_refused(settings: Settings, body: Any) -> None:
    async with client_for(settings) as client:
        assert (await client.post("/v1/admin/erasures", json=body)).status_code == 422


def test_the_command_erases_and_says_how_much(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    refused = CliRunner().invoke(cli, ["erase", "--subject", ANN])
    assert refused.exit_code == 1
    assert "LLMOBS_SUBJECT_PEPPER" in str(refused.exception)
    monkeypatch.setenv("LLMOBS_SUBJECT_PEPPER", PEPPER)
    for arguments, words in ((["--subject", ANN], None), (["--subject", "-"], f"{ANN}\n")):
        done = CliRunner().invoke(cli, ["erase", *arguments], input=words)
        assert done.exit_code == 0, done.output
        assert done.output == "Erased: 0 verdicts, 0 feedback, 0 idempotency keys, 0 judgements.\n"
    assert CliRunner().invoke(cli, ["erase"]).exit_code == 2
    assert CliRunner().invoke(cli, ["erase", "id", "--subject", ANN]).exit_code == 2
    assert len({row[0] for row in _stored(settings, "SELECT subject_key FROM erased_subjects")}) == 1


@pytest.mark.parametrize(
    ("context", "named"),
    [
        (None, None),
        ({}, None),
        ({"subject_id": ""}, None),
        ({"subject_id": "x"}, "x"),
        ({"subject_id": 12}, "12"),
        ({"subject_id": True}, None),
        ({"subject_id": 1.5}, None),
        ({"subject_id": ["x"]}, None),
    ],
)
def test_who_is_named(context: dict[str, Any] | None, named: str | None) -> None:
    assert named_person(context) == named


def test_a_short_pepper_is_refused_and_none_is_shown() -> None:
    with pytest.raises(SettingsInvalid, match="at least 32"):
        person_keys_from(Settings(subject_pepper="short"))
    keys = PersonKeys(PEPPER)
    assert PEPPER not in repr(keys)
    assert keys.key_of("a") != keys.key_of("b") != PersonKeys(PEPPER + "x").key_of("b")
    assert len(keys.key_of("\ud800")) == 64
