"""Searching the log for a text, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest
from support.store import make_record

from llmobs.domain.access import EVERYTHING, View
from llmobs.domain.record import Record
from llmobs.domain.risk import Action
from llmobs.store import records
from llmobs.store import store as store_module
from llmobs.store.database import Database
from llmobs.store.records import LogFilter, id_of
from llmobs.store.store import Store

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


async def _insert(database: Database, *rows: Record) -> None:
    async with database.transaction() as connection:
        await records.insert_records(connection, rows)


async def _texts(store: Store, word: str, view: View = EVERYTHING, **more: object) -> list[str]:
    found, _ = await store.page(view, LogFilter(text=word, **more), None, 50)  # type: ignore[arg-type]
    return [row.llm_response for row in found]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("zebra", ["A ZEBRA!", "the zebrafinch"]),
        ("100%", ["it is 100% sure"]),
        ("a_b", ["a_b"]),
        ("c:\\d", ["C:\\d"]),
        ("o'clock", ["nine o'clock"]),
        ("größe", ["die Größe zählt"]),
        ("🦆", ["a 🦆"]),
        ("absent", []),
        ("\x00", ["nul \u2400 here"]),
        ("/", ["a/b"]),
    ],
)
async def test_a_text_is_found_letter_for_letter(
    database: Database, store: Store, word: str, found: list[str]
) -> None:
    texts = (
        "the zebrafinch", "A ZEBRA!", "it is 100% sure", "it is 1000 sure", "a_b", "axb", "C:\\d",
        "nine o'clock", "die Größe zählt", "a 🦆", "nul \x00 here", "a/b",
    )  # fmt: skip
    await _insert(database, *(make_record(llm_response=text) for text in texts))
    assert await _texts(store, word) == found


async def test_other_filters_and_the_callers_view_hold_too(database: Database, store: Store) -> None:
    await _insert(
        database,
        make_record(llm_response="zebra one", client_id="ours", action=Action.BLOCK, created_at=NOW),
        make_record(llm_response="zebra two", client_id="theirs", action=Action.BLOCK, created_at=NOW),
        make_record(
            llm_response="zebra three",
            client_id="ours",
            action=Action.ALLOW,
            created_at=NOW - timedelta(days=2),
        ),
    )
    ours = View(frozenset({"ours"}))
    assert await _texts(store, "zebra", ours) == ["zebra three", "zebra one"]
    assert await _texts(store, "zebra", ours, action=Action.BLOCK) == ["zebra one"]
    assert await _texts(store, "zebra", ours, client_id="theirs") == []
    assert await _texts(store, "zebra", until=NOW - timedelta(days=1)) == ["zebra three"]


async def test_pages_and_exports_of_a_search_hold_every_match_once(
    database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "SEARCH_ROWS", 40)
    wanted = [f"{'zebra' if n % 7 == 0 else 'horse'} {n}" for n in range(300)]
    await _insert(database, *(make_record(llm_response=text) for text in wanted))
    matches = [text for text in reversed(wanted) if text.startswith("zebra")]
    seen: list[str] = []
    before: int | None = None
    while True:
        rows, cursor = await store.page(EVERYTHING, LogFilter(text="zebra"), before, 4)
        assert len(rows) <= 4
        seen += [row.llm_response for row in rows]
        if cursor is None:
            break
        before = id_of(cursor)
    assert seen == matches
    exported = [
        row.llm_response async for chunk in store.export(EVERYTHING, LogFilter(text="zebra")) for row in chunk
    ]
    assert exported == matches


async def test_a_search_that_takes_long_answers_with_where_to_go_on(
    database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "SEARCH_ROWS", 10)
    monkeypatch.setattr(store_module, "SEARCH_SECONDS", 0.0)
    texts = ["the zebrafinch", *(f"horse {n}" for n in range(25))]
    await _insert(database, *(make_record(llm_response=text) for text in texts))
    found, cursor = await store.page(EVERYTHING, LogFilter(text="zebra"), None, 50)
    assert found == []
    assert cursor is not None
    found, cursor = await store.page(EVERYTHING, LogFilter(text="zebra"), id_of(cursor), 50)
    assert found == []
    assert cursor is not None
    [row], cursor = await store.page(EVERYTHING, LogFilter(text="zebra"), id_of(cursor), 50)
    assert (row.llm_response, cursor) == ("the zebrafinch", None)


async def test_a_full_last_page_has_no_cursor(database: Database, store: Store) -> None:
    await _insert(database, *(make_record(llm_response=f"zebra {n}") for n in range(3)))
    found, cursor = await store.page(EVERYTHING, LogFilter(text="zebra"), None, 3)
    assert ([row.llm_response for row in found], cursor) == (["zebra 2", "zebra 1", "zebra 0"], None)
