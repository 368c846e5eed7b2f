from pathlib import Path

import pytest
from click.testing import CliRunner

from llmobs.cli import cli
from llmobs.errors import SettingsInvalid
from llmobs.settings import SECRETS, Settings, StoreText, effective, env_name, file_name, load_settings


def test_defaults_need_no_environment() -> None:
    assert load_settings({}) == Settings()
    assert load_settings({"PATH": "/bin", "LLMOBS_RULES_DIR": ""}) == Settings()


def test_names_of_long_standing_carry_no_prefix() -> None:
    read = load_settings(
        {"API_PORT": "9", "STORE_TEXT": "hash", "LLMOBS_STRICT_MODE": "TRUE", "LOG_LEVEL": "INFO"}
    )
    assert (read.api_port, read.store_text, read.strict_mode, read.log_level) == (
        9,
        StoreText.HASH,
        True,
        "info",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLMOBS_RULE_DIR", "x"),
        ("API_PORT", "eighty"),
        ("API_PORT", "70000"),
        ("STORE_TEXT", "some"),
        ("LLMOBS_STRICT_MODE", "maybe"),
        ("LLMOBS_RETENTION_DAYS", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_an_unknown_name_or_bad_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsInvalid, match=name):
        load_settings({name: value})


def test_names_that_only_the_tests_read_pass() -> None:
    assert load_settings({"LLMOBS_TEST_POSTGRES_URL": "x", "LLMOBS_DATA": "y"}) == Settings()


@pytest.mark.parametrize("field", sorted(SECRETS))
def test_a_secret_can_be_read_from_a_file(field: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" s3cret-of-the-house\n")
    read = load_settings({file_name(field): str(file)})
    assert getattr(read, field) == "s3cret-of-the-house"
    with pytest.raises(SettingsInvalid, match="both set"):
        load_settings({file_name(field): str(file), env_name(field): "another"})
    with pytest.raises(SettingsInvalid, match="cannot be read: FileNotFoundError"):
        load_settings({file_name(field): str(tmp_path / "none")})
    file.write_text("\n")
    with pytest.raises(SettingsInvalid, match="empty file"):
        load_settings({file_name(field): str(file)})


def test_what_is_in_force_is_shown_with_its_source_and_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("gsk_t0psecret")
    told = effective(
        {
            "DATABASE_URL": "postgresql://me:pass/w0rd@x@db/llmobs?password=pw2",
            "JUDGE_BASE_URL": "https://user:hidden@judge.example/v1",
            "LLMOBS_KEY_PEPPER": "pepper" * 8,
            "LLMOBS_RATE_STORE": "redis://:hush@cache:6379/0",
            "GROQ_API_KEY_FILE": str(file),
            "API_PORT": "9000",
        }
    )
    shown = {each.name: (each.value, each.source) for each in told}
    assert len(shown) == len(Settings.__struct_fields__)
    assert shown["DATABASE_URL"] == ("postgresql://***@db/llmobs?***", "environment")
    assert shown["JUDGE_BASE_URL"] == ("https://***@judge.example/v1", "environment")
    assert shown["LLMOBS_KEY_PEPPER"] == ("***", "environment")
    assert shown["LLMOBS_RATE_STORE"] == ("redis://***@cache:6379/0", "environment")
    assert shown["GROQ_API_KEY"] == ("***", f"file {file}")
    assert shown["JUDGE_API_KEY"] == ("", "default")
    assert shown["API_PORT"] == ("9000", "environment")
    assert shown["LLMOBS_STRICT_MODE"] == ("false", "default")


def test_the_command_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk_t0psecret")
    for more in ([], ["--json"]):
        done = CliRunner().invoke(cli, ["config", "show", *more])
        assert done.exit_code == 0
        assert "GROQ_API_KEY" in done.output
        assert "gsk_t0psecret" not in done.output
