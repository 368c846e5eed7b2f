import gzip
import json
from pathlib import Path

import pytest

from llmobs.domain.interval import wilson
from llmobs.domain.risk import Action
from llmobs.evaluation import Outcome, auc, average_precision, figures, read_rows, recall_at_fpr

# Worked by hand: ranks 0.9+ 0.8- 0.7+ 0.7- 0.1-, so 2 positives and 3 negatives.
SCORED = [(0.9, 1), (0.8, 0), (0.7, 1), (0.7, 0), (0.1, 0)]


def test_auc_counts_won_pairs_and_half_of_ties() -> None:
    assert auc(SCORED) == pytest.approx((3 + 1 + 0.5) / 6)


def test_a_score_that_says_nothing_has_auc_one_half() -> None:
    assert auc([(0.5, 1), (0.5, 0), (0.5, 0)]) == 0.5


def test_average_precision_takes_ties_together() -> None:
    assert average_precision(SCORED) == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)


def test_recall_at_fixed_fpr_never_exceeds_the_false_alarms_allowed() -> None:
    assert recall_at_fpr(SCORED, 0.0) == 0.5
    assert recall_at_fpr(SCORED, 0.7) == 1.0


def test_the_wilson_interval_holds_the_share_and_stays_within_bounds() -> None:
    none, some = wilson(0, 50), wilson(9, 10)
    assert none is not None
    assert some is not None
    assert (none.share, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.0714, abs=1e-3)
    assert some.low == pytest.approx(0.5958, abs=1e-3)
    assert some.high == pytest.approx(0.9821, abs=1e-3)
    assert wilson(0, 0) is None


def _outcome(label: int, action: str, scores: dict[str, float], task: str = "toxicity") -> Outcome:
    return Outcome(
        id="x",
        task=task,
        label=label,
        action=Action(action),
        failure_class=None,
        tier_used=1,
        scores=scores,
        ms=1.0,
    )


def test_figures_split_flags_by_label() -> None:
    found = figures(
        "toxicity/x",
        [
            _outcome(1, "block", {"toxicity": 0.9}),
            _outcome(1, "log", {"bias": 0.4}),
            _outcome(0, "warn", {"toxicity": 0.6}),
            _outcome(0, "allow", {}),
        ],
    )
    assert found.recall is not None
    assert found.fpr is not None
    assert found.blocked is not None
    assert (found.recall.share, found.fpr.share, found.blocked.share) == (0.5, 0.5, 0.25)
    assert found.tiers == {"1": 4, "2": 0, "3": 0}


def test_toxicity_takes_the_larger_of_toxicity_and_bias() -> None:
    assert _outcome(1, "log", {"bias": 0.4, "toxicity": 0.1, "pii_leak": 0.9}).score == 0.4
    assert _outcome(0, "log", {"bias": 0.4, "pii_leak": 0.9}, task="benign").score == 0.9
    assert _outcome(1, "log", {"secret_leak": 0.7}, task="secret").score == 0.7


def test_a_broken_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    good = {"id": "1", "task": "benign", "label": 0, "role": "prompt", "text": "hello", "meta": {"any": 1}}
    path.write_bytes(gzip.compress((json.dumps(good) + "\n{oops\n").encode()))
    rows = read_rows(path)
    assert next(rows).text == "hello"
    with pytest.raises(ValueError, match=r"rows.jsonl.gz, line 2"):
        next(rows)
