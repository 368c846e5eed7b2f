"""Sentences, passages and what can be compared without a model."""

from hypothesis import given, settings
from hypothesis import strategies as st

from llmobs.detect.tier2_encoder.evidence import (
    BUDGET_CHARS,
    PLAIN,
    Passages,
    plain_features,
    sentences,
)

TOWER = "The tower was built in 1889. It is 330 metres tall and stands in Paris. Dr. Weiss painted it twice."


def cut(text: str) -> list[str]:
    return [text[p.start : p.end] for p in sentences(text)]


def said(claim: str, *documents: str, query: str | None = None) -> dict[str, float]:
    passages = Passages(documents)
    values = plain_features(claim, query, passages, passages.nearest(claim, query or ""))
    return dict(zip(PLAIN, values, strict=True))


def test_sentences_do_not_end_at_titles_and_initials() -> None:
    assert cut(TOWER) == [
        "The tower was built in 1889.",
        "It is 330 metres tall and stands in Paris.",
        "Dr. Weiss painted it twice.",
    ]


def test_sentences_end_at_line_breaks_and_full_width_stops() -> None:
    assert cut("One line\nanother line\n\n第一句。第二句。") == [
        "One line",
        "another line",
        "第一句。",
        "第二句。",
    ]


@settings(deadline=None)
@given(st.text(max_size=2000))
def test_sentences_are_ordered_stripped_and_lose_nothing_but_space(text: str) -> None:
    pieces = sentences(text)
    ends = [0, *(p.end for p in pieces)]
    assert all(p.start >= end for p, end in zip(pieces, ends, strict=False))
    kept = "".join(text[p.start : p.end] for p in pieces)
    assert "".join(kept.split()).replace("\x1c", "") == "".join(text.split()).replace("\x1c", "") or any(
        mark in text for mark in "\"')]"
    )
    assert all(p.end - p.start <= 320 for p in pieces)


def test_the_nearest_passage_is_found_in_a_long_context() -> None:
    filler = " ".join(f"Paragraph {n} speaks of bread, butter and the weather." for n in range(2000))
    found = Passages([filler, TOWER, filler]).nearest("How tall is the tower in metres?")
    assert "330 metres" in found
    assert len(found) <= BUDGET_CHARS + 1


def test_a_borne_out_claim_misses_nothing() -> None:
    values = said("It is 330 metres tall.", TOWER)
    assert values["numbers_missing"] == values["words_missing"] == values["pairs_missing"] == 0.0


def test_a_changed_number_is_missed_in_every_spelling() -> None:
    assert said("It is 331 metres tall.", TOWER)["numbers_missing"] == 0.5
    assert said("It cost 1,200.50 francs.", "The price was 1200.5 francs.")["numbers_missing"] == 0.0
    assert said("Two towers stand there.", "There are 2 towers.")["numbers_missing"] == 0.0


RESULTS = """{"events": [
  {"name": "spring_concert", "date": "2019-03-08", "starts": "18:30"},
  {"name": "jazz_evening", "date": "2019-03-12", "starts": "20:00"}]}"""


def test_what_structured_documents_write_differently_is_not_missed() -> None:
    for claim in (
        "There are 2 events.",
        "I found two events.",
        "The jazz evening is on March 12th.",
        "The spring concert starts at 6:30 on the 8th of March.",
    ):
        assert said(claim, RESULTS)["numbers_missing"] == 0.0, claim
    assert said("The jazz evening is in March.", RESULTS)["names_missing"] == 0.0


def test_a_wrong_count_or_date_of_structured_documents_is_missed() -> None:
    for claim in (
        "There are 7 events.",
        "The jazz evening is on March 13th.",
        "The spring concert starts at 5:30.",
    ):
        assert said(claim, RESULTS)["numbers_missing"] > 0.0, claim
    assert said("The jazz evening is in April.", RESULTS)["names_missing"] > 0.0


def test_documents_that_only_look_like_json_are_read_as_text() -> None:
    for document in ("[1] The tower has 3 floors.", "{" * 5000, "[" * 100_000, '{"a": NaN, "b": [1, 2'):
        assert said("It has 44 floors.", document)["numbers_missing"] > 0.0


def test_a_new_name_and_new_words_are_missed() -> None:
    values = said("The tower stands in London among palaces.", TOWER)
    assert values["names_missing"] == 1.0 or values["names_missing"] == 0.5
    assert values["rare_missing"] == 1.0


def test_a_negation_on_one_side_shows() -> None:
    assert said("The tower was not built in 1889.", TOWER)["negation_differs"] == 1.0


def test_words_of_the_question_are_no_news() -> None:
    with_query = said(
        "The architect of the tower is Weiss.", TOWER, query="Who is the architect of the tower?"
    )
    assert with_query["words_missing"] == 0.0
    assert said("The architect of the tower is Weiss.", TOWER)["words_missing"] > 0.0


@settings(deadline=None)
@given(st.text(max_size=300), st.lists(st.text(max_size=300), max_size=3))
def test_every_feature_lies_between_0_and_1(claim: str, documents: list[str]) -> None:
    assert all(0.0 <= value <= 1.0 for value in said(claim, *documents).values())
