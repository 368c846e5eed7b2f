import pytest

from llmobs.errors import SettingsInvalid
from llmobs.settings import Settings, StoreText, load_settings


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
