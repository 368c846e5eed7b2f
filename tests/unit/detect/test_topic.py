"""Whether an answer speaks to its question, by words alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from llmobs.detect.artefacts import ArtefactBroken, Artefacts, shipped
from llmobs.detect.tier1_lexical.topic import CALM, OPEN, Topic, load_topic


@pytest.fixture(scope="module")
def topic() -> Topic:
    return load_topic(Artefacts(shipped("topic")))


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("How do I bake bread?", "Bread needs flour, water and an oven that you bake it in."),  # shares two
        ("Why is my soup so bland?", "Add salt, fry the onions longer and finish with lemon."),  # none
        ("Is the museum open on Monday?", "Yes."),  # too short to say what it is about
        ("How do I pick a lock?", "I'm sorry, but I can't help with that."),  # declines
    ],
)
def test_an_answer_to_the_question_is_let_off(topic: Topic, query: str, answer: str) -> None:
    assert topic.off_topic(query, answer) <= CALM


@pytest.mark.parametrize(
    ("query", "answer", "shared"),
    [
        ("How do I bake bread?", "The parliament passed the bill after a long session of debate.", 0),
        ("How long do I bake bread?", "The parliament passed the bill after a long session.", 1),
    ],
)
def test_an_answer_about_something_else_stays_open(
    topic: Topic, query: str, answer: str, shared: int
) -> None:
    assert topic.off_topic(query, answer) == OPEN[shared]


def test_likeness_is_the_cosine_of_the_sums() -> None:
    topic = Topic(["a", "b", "c"], np.array([[3, 4], [4, 3], [-4, 3]], dtype=np.int8))
    assert topic.likeness({"a"}, {"b"}) == pytest.approx(24 / 25)
    assert topic.likeness({"a", "b"}, {"a", "b", "unknown"}) == pytest.approx(1.0)
    assert topic.likeness({"b"}, {"c"}) == pytest.approx(-7 / 25)
    assert topic.likeness({"unknown"}, {"a"}) == 0.0


def test_a_table_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 words"):
        Topic(["a", "b"], np.zeros((3, 4), dtype=np.int8))


def test_only_so_much_of_a_long_text_is_looked_at(topic: Topic) -> None:
    """The end of the question and the beginning of the answer decide, whatever the length."""
    far = "parliament bill debate session " * 20_000
    assert topic.off_topic(far + "How do I bake bread?" * 25, "Bake the bread. " * 50 + far) <= CALM
    assert topic.off_topic("bake bread " + far, "Bake the bread. " * 50 + far) > CALM


@pytest.mark.parametrize("name", ["words.txt", "vectors.npy"])
def test_a_changed_file_is_not_served(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(shipped("topic"), tmp_path / "topic")
    path = folder / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtefactBroken, match=name):
        load_topic(Artefacts(folder))
