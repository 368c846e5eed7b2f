from pathlib import Path

import pytest

from llmobs.domain.risk import FailureClass
from llmobs.errors import PolicyInvalid
from llmobs.policies import (
    BUILTIN,
    load_policies,
    parsed_policy,
    policy_book,
    policy_toml,
    read_policy,
)

GOOD = """
id = "house"
version = {version}
[classes.competitors]
severity = "high"
warn = {warn}
[[example]]
scores = {{ competitors = 0.95 }}
action = "warn"
"""


def _write(folder: Path, name: str = "house.toml", *, version: int = 1, warn: float = 0.5) -> Path:
    path = folder / name
    path.write_text(GOOD.format(version=version, warn=warn))
    return path


def test_the_built_in_policies_know_every_class() -> None:
    for policy in load_policies().values():
        assert set(policy.classes) == {name.value for name in FailureClass}


def test_strict_mode_reaches_every_policy() -> None:
    assert all(policy.strict_mode for policy in load_policies(strict_mode=True).values())


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("id = 'x'\nversion = 1\n[classes.rude]\nseverity = 'low'\n", "no action threshold"),
        ("id = 'x'\nversion = 1\n[classes.rude]\nseverity = 'low'\nlog = 0.9\nwarn = 0.5\n", "lies above"),
        ("id = 'x'\nversion = 1\n[classes.rude]\nseverity = 'low'\nlog = 1.5\n", "outside 0 to 1"),
        ("id = 'x'\nversion = 1\n[classes.rude]\nseverity = 'low'\nlog = 0\n", "act on every text"),
        ("id = 'x'\nversion = 1\n[classes.rude]\nseverity = 'dire'\nlog = 0.5\n", "Invalid enum value"),
        ("id = 'x'\nversion = 1\n[classes.rude]\nseverity = 'low'\nlog = 0.5\nlogg = 1\n", "unknown field"),
        ("id = 'x'\n", "version"),
        ("id = = 'x'", "x.toml"),
        (
            "id='x'\nversion=1\n[classes.rude]\nseverity='high'\nwarn=0.5\n"
            "[[example]]\nscores={rude=0.9}\naction='block'\n",
            "example 1 ends in warn, not block",
        ),
        (
            "id='x'\nversion=1\n[classes.rude]\nseverity='high'\nwarn=0.5\n"
            "[[example]]\nscores={other=0.9}\naction='allow'\n",
            "names other",
        ),
    ],
)
def test_a_bad_policy_is_refused_with_its_reason(tmp_path: Path, broken: str, reason: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(broken)
    with pytest.raises(PolicyInvalid, match=r"x\.toml") as refused:
        read_policy(path)
    assert reason in str(refused.value)


async def test_a_good_change_takes_force_and_a_bad_one_leaves_the_last_good_set(tmp_path: Path) -> None:
    path = _write(tmp_path)
    book = policy_book(tmp_path)
    assert book.current["house"].version == 1
    assert not book.changed()

    _write(tmp_path, version=2, warn=0.75)
    assert book.changed()
    assert await book.reload()
    assert book.current["house"].classes["competitors"].warn == 0.75

    path.write_text("nonsense")
    assert not await book.reload()
    assert book.current["house"].version == 2
    assert book.refused is not None
    assert "house.toml" in book.refused
    assert not book.changed()

    _write(tmp_path, version=3)
    assert await book.reload()
    assert book.refused is None


async def test_a_change_without_a_new_version_is_refused(tmp_path: Path) -> None:
    _write(tmp_path)
    book = policy_book(tmp_path)
    _write(tmp_path, warn=0.9)
    assert not await book.reload()
    assert book.refused is not None
    assert "raise it" in book.refused
    assert book.current["house"].classes["competitors"].warn == 0.5


def test_a_default_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid, match="nowhere"):
        policy_book(tmp_path, default="nowhere")


@pytest.mark.parametrize("path", sorted(BUILTIN.glob("*.toml")), ids=lambda path: path.stem)
def test_a_written_policy_reads_as_the_same(path: Path) -> None:
    first = parsed_policy(path.read_text(), path.name)
    assert parsed_policy(policy_toml(first), "again") == first


def test_everything_that_a_policy_can_say_is_written() -> None:
    text = """
id = "full"
version = 7
description = "quotes \\" and \\\\ and \\u007f"
client = "shop"
strict_mode = true
[classes.competitors]
severity = "low"
clear = 0.01
log = 1e-5
warn = 0.5
judge = "never"
judge_from = 0.1
raise_only = true
on_failure = "warn"
message = "no"
examples = ["a\\n", "b", "c"]
counter_examples = ["d"]
[[example]]
scores = { competitors = 0.5 }
failed = ["competitors"]
strict_mode = false
action = "warn"
"""
    first = parsed_policy(text, "full")
    assert parsed_policy(policy_toml(first), "again") == first
