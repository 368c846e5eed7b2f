"""The rows that we wrote ourselves: their form, and that training and test share nothing."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2] / "training/handwritten"
TRAIN, HELD_OUT, FITTED = ROOT / "train", ROOT / "held_out", ROOT / "fitted"
TWINS, PASSAGES = ROOT / "twins", ROOT / "passages"
EVERY_FILE = sorted(path for path in ROOT.rglob("*.jsonl") if path.parent not in {TWINS, PASSAGES})

# The classes with both labels, and the least number of rows of each of the two in train and held_out.
TWO_SIDED = {
    "overconfidence": (140, 40),
    "hedging_excessive": (120, 30),
    "tone_issue": (100, 30),
    "missing_grounding": (75, 30),
    "domain_mismatch": (60, 30),
}
# The files with one label only: that label, the task, and the least number of rows.
ONE_SIDED = {
    "planted_orders": (1, "prompt_injection", 370, 110),
    "clean_imperatives": (0, "prompt_injection", 370, 110),
    "trigger_benign": (0, "prompt_injection", 350, 100),
    "edgy_benign": (0, "dangerous_content", 330, 100),
}
# The same of files whose rows are asked and answered alike.
EITHER_ROLE = {"casual_sentences": (0, "plain", 110, 25), "innocent_words": (0, "toxicity", 110, 25)}
FORMS = {"email", "web", "table", "tool", "review", "code"}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plain(row: dict[str, Any]) -> str:
    """Question and text without case, punctuation and spacing, so that near copies count as copies.

    Payloads are all punctuation, so they stay as they are.
    """
    if row["task"] == "security_attack":
        return str(row["text"])
    return re.sub(r"\W+", " ", f"{row.get('query', '')} {row['text']}".lower()).strip()


@pytest.mark.parametrize("path", EVERY_FILE, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_row_has_the_form_that_training_reads(path: Path) -> None:
    for row in rows(path):
        assert {"id", "source", "task", "label", "role", "text"} <= row.keys(), row["id"]
        assert row.keys() <= {"id", "source", "task", "label", "role", "text", "query", "context", "meta"}
        assert row["source"] == "handwritten"
        assert row["label"] in (0, 1)
        assert row["role"] in ("prompt", "response")
        assert row["text"] == row["text"].strip() != ""


def test_ids_are_unique_over_all_files() -> None:
    seen = Counter(row["id"] for path in EVERY_FILE for row in rows(path))
    assert [name for name, times in seen.items() if times > 1] == []


@pytest.mark.parametrize("folder", [TRAIN, HELD_OUT, FITTED], ids=["train", "held_out", "fitted"])
def test_no_text_comes_twice_within_a_folder(folder: Path) -> None:
    seen = Counter(plain(row) for path in folder.glob("*.jsonl") for row in rows(path))
    assert [text for text, times in seen.items() if times > 1] == []


@pytest.mark.parametrize("path", sorted(TWINS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_planted_document_is_another_than_its_clean_twin(path: Path) -> None:
    found = rows(path)
    assert len(found) >= 200
    assert all(row.keys() == {"id", "clean", "planted", "form"} for row in found)
    assert all(row["clean"] and row["planted"] != row["clean"] for row in found)


@pytest.mark.parametrize("path", sorted(PASSAGES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_passages_come_with_claims_of_every_label(path: Path) -> None:
    labels: Counter[str] = Counter()
    for row in rows(path):
        assert row.keys() <= {"doc", "query", "claims", "kind"}
        assert row["doc"]
        labels.update(label for label, claim in row["claims"] if claim)
    assert set(labels) == {"s", "n", "c"}
    assert min(labels.values()) >= 0.2 * labels.total()


def test_no_held_out_document_is_learnt_from() -> None:
    learnt = {
        row[key] for path in TWINS.glob("*.jsonl") for row in rows(path) for key in ("clean", "planted")
    }
    learnt |= {row["doc"] for path in PASSAGES.glob("*.jsonl") for row in rows(path)}
    learnt |= {row["context"] for path in FITTED.glob("*.jsonl") for row in rows(path)}
    held = [
        row
        for name in ("planted_documents*", "grounded_answers*")
        for path in HELD_OUT.glob(f"{name}.jsonl")
        for row in rows(path)
    ]
    assert len(held) >= 1800
    assert learnt.isdisjoint({row.get("context", row["text"]) for row in held})


def test_train_and_held_out_share_no_text() -> None:
    held = {plain(row) for path in HELD_OUT.glob("*.jsonl") for row in rows(path)}
    paths = (*ROOT.glob("*.jsonl"), *TRAIN.glob("*.jsonl"), *FITTED.glob("*.jsonl"))
    trained = {plain(row) for path in paths for row in rows(path)}
    assert held
    assert held & trained == set()


@pytest.mark.parametrize("name", TWO_SIDED)
def test_classes_have_enough_rows_of_both_labels(name: str) -> None:
    for folder, least in zip((TRAIN, HELD_OUT), TWO_SIDED[name], strict=True):
        found = rows(folder / f"{name}.jsonl")
        assert {row["task"] for row in found} == {name}
        labels = Counter(row["label"] for row in found)
        assert min(labels[0], labels[1]) >= least, (folder.name, labels)


@pytest.mark.parametrize("name", ONE_SIDED)
def test_one_sided_files_keep_their_label(name: str) -> None:
    label, task, *least = ONE_SIDED[name]
    for folder, count in zip((TRAIN, HELD_OUT), least, strict=True):
        found = rows(folder / f"{name}.jsonl")
        assert {(row["label"], row["task"], row["role"]) for row in found} == {(label, task, "prompt")}
        assert len(found) >= count


@pytest.mark.parametrize("name", EITHER_ROLE)
def test_plain_remarks_stand_in_both_roles(name: str) -> None:
    label, task, *least = EITHER_ROLE[name]
    for folder, count in zip((TRAIN, HELD_OUT), least, strict=True):
        found = rows(folder / f"{name}.jsonl")
        assert {(row["label"], row["task"]) for row in found} == {(label, task)}
        assert {row["role"] for row in found} == {"prompt", "response"}
        assert len(found) >= count


def test_threats_come_with_sentences_that_only_sound_like_them() -> None:
    for folder, least in ((TRAIN, 30), (HELD_OUT, 8)):
        labels = Counter(row["label"] for row in rows(folder / "threats.jsonl"))
        assert min(labels[0], labels[1]) >= least, labels


def test_planted_orders_say_where_they_would_stand() -> None:
    for folder in (TRAIN, HELD_OUT):
        forms = Counter(row["meta"]["form"] for row in rows(folder / "planted_orders.jsonl"))
        assert set(forms) == FORMS


def test_answers_on_harmful_requests_are_clean_and_carry_the_request() -> None:
    found = rows(TRAIN / "harmful_answers.jsonl")
    assert len(found) >= 120
    assert {(row["label"], row["role"]) for row in found} == {(0, "response")}
    assert all(row["query"] for row in found)


@pytest.mark.parametrize("folder", [TRAIN, HELD_OUT], ids=["train", "held_out"])
def test_answers_that_miss_the_question_carry_it(folder: Path) -> None:
    assert all(row["query"] for row in rows(folder / "domain_mismatch.jsonl"))
