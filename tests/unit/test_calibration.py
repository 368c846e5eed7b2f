"""Thresholds fitted to harmless outcomes."""

import random
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmobs.calibration import calibrate, flagged, written
from llmobs.domain.risk import Action
from llmobs.evaluation import Outcome
from llmobs.policies import load_policies, read_policy

POLICY = load_policies()["default"]


def outcome(number: int, **scores: float) -> Outcome:
    return Outcome(
        id=str(number), task="benign", label=0, action=Action.ALLOW, failure_class=None, tier_used=2,
        scores=scores, ms=1.0,
    )  # fmt: skip


def traffic(count: int, seed: int = 1) -> list[Outcome]:
    chance = random.Random(seed)
    return [
        outcome(n, toxicity=chance.random() ** 3, bias=chance.random() ** 2, secret_leak=0.0)
        for n in range(count)
    ]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 120), st.floats(0.001, 0.3), st.integers(0, 99))
def test_never_more_than_the_target_is_flagged(count: int, target: float, seed: int) -> None:
    benign = traffic(count, seed)
    found = calibrate(POLICY, benign, target)
    if (
        max((o.scores["toxicity"] for o in benign), default=0) < 0.98
        and max(o.scores["bias"] for o in benign) < 0.98
    ):
        assert flagged(found.policy, benign) <= target * count


def test_the_target_is_used_up_when_there_is_enough_traffic() -> None:
    benign = traffic(1500)
    found = calibrate(POLICY, benign, 0.01)
    assert 0.005 * 1500 <= found.flagged_after <= 0.01 * 1500
    assert found.flagged_before > found.flagged_after


def test_blocks_are_rarer_than_warnings() -> None:
    found = calibrate(POLICY, traffic(1500), 0.05)
    limits = found.policy.classes["toxicity"]
    assert limits.warn is not None
    assert limits.block is not None
    assert limits.block > limits.warn


def test_classes_that_only_log_keep_their_thresholds_and_all_stay_sound() -> None:
    found = calibrate(POLICY, traffic(500), 0.01)
    assert found.policy.classes["tone_issue"] == POLICY.classes["tone_issue"]
    assert not [p for limits in found.policy.classes.values() for p in limits.problems()]
    assert found.policy.version == POLICY.version + 1


def test_no_traffic_is_an_error() -> None:
    with pytest.raises(ValueError, match="no harmless texts"):
        calibrate(POLICY, [], 0.01)


def test_the_written_policy_reads_back_the_same(tmp_path: Path) -> None:
    found = calibrate(POLICY, traffic(500), 0.01).policy
    path = tmp_path / "mine.toml"
    path.write_text(written(found), encoding="utf-8")
    assert tomllib.loads(path.read_text(encoding="utf-8"))["version"] == found.version
    assert read_policy(path) == found
