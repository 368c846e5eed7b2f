"""`llmobs clients` and `llmobs keys`, from the first client to the last revocation."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmobs.cli import cli
from llmobs.errors import LlmobsError
from llmobs.settings import Settings
from llmobs.store.migrate import upgrade


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    url = f"sqlite:///{tmp_path}/llmobs.db"
    upgrade(Settings(database_url=url), "head")
    pepper = tmp_path / "pepper"
    pepper.write_text(CliRunner().invoke(cli, ["keys", "pepper"]).output)
    return {"DATABASE_URL": url, "LLMOBS_KEY_PEPPER_FILE": str(pepper), "COLUMNS": "160"}


def run(environment: dict[str, str], *arguments: str) -> Result:
    done = CliRunner().invoke(cli, arguments, env=environment)
    if done.exception is not None and not isinstance(done.exception, SystemExit | LlmobsError):
        raise done.exception
    return done


def test_a_key_lives_from_creation_to_revocation(environment: dict[str, str]) -> None:
    unknown = run(environment, "keys", "create", "shop")
    assert "no client shop" in str(unknown.exception)
    made = run(environment, "keys", "create", "shop", "--new-client", "--scope", "detect", "--json")
    told = json.loads(made.output)
    assert told["key"].startswith(f"llmobs_{told['entry']['id']}_")
    assert told["entry"]["scopes"] == ["detect"]
    listed = run(environment, "keys", "list").output
    assert told["entry"]["id"] in listed
    assert told["key"] not in listed
    rotated = json.loads(
        run(environment, "keys", "rotate", told["entry"]["id"], "--overlap", "1h", "--json").output
    )
    assert rotated["entry"]["id"] != told["entry"]["id"]
    assert "revoked" in run(environment, "keys", "revoke", told["entry"]["id"]).output
    states = {
        entry["id"]: (entry["revoked_at"] is not None, entry["replaced_by"])
        for entry in json.loads(run(environment, "keys", "list", "--json").output)
    }
    assert states == {
        told["entry"]["id"]: (True, rotated["entry"]["id"]),
        rotated["entry"]["id"]: (False, None),
    }


def test_clients_are_made_shared_and_disabled(environment: dict[str, str]) -> None:
    assert run(environment, "clients", "create", "audit").exit_code == 0
    assert run(environment, "clients", "create", "shop", "--tier", "pro", "--reader", "audit").exit_code == 0
    assert "already" in str(run(environment, "clients", "create", "shop").exception)
    assert "no tier" in str(run(environment, "clients", "create", "b", "--tier", "gold").exception).lower()
    assert "reader" in str(run(environment, "clients", "create", "b", "--reader", "nobody").exception)
    assert (
        run(environment, "clients", "change", "shop", "--unshare", "--disable", "--tier", "free").exit_code
        == 0
    )
    shop = next(
        c for c in json.loads(run(environment, "clients", "list", "--json").output) if c["id"] == "shop"
    )
    assert (shop["tier"], shop["readers"], shop["disabled_at"] is None) == ("free", [], False)


def test_keys_need_a_pepper_that_is_long_enough(environment: dict[str, str]) -> None:
    Path(environment["LLMOBS_KEY_PEPPER_FILE"]).write_text("short")
    assert "at least 32" in str(run(environment, "keys", "create", "shop").exception)
    del environment["LLMOBS_KEY_PEPPER_FILE"]
    assert "LLMOBS_KEY_PEPPER" in str(run(environment, "keys", "create", "shop", "--new-client").exception)


@pytest.mark.parametrize("span", ["1", "x", "3w", "-1d"])
def test_a_span_that_is_none_is_refused(environment: dict[str, str], span: str) -> None:
    assert run(environment, "keys", "create", "shop", "--expires", span).exit_code == 2
