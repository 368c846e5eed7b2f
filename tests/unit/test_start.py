"""What a start does before any worker: it waits for a database that is away, and not for ever."""

import pytest

from llmobs import serve
from llmobs.errors import StoreUnavailable
from llmobs.settings import Settings


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> list[bool | str]:
    """What the database says, one after the other; a string is why it does not answer, the last one repeats."""
    coming: list[bool | str] = []

    def ask(_: Settings) -> bool:
        found = coming.pop(0) if len(coming) > 1 else coming[0]
        if isinstance(found, str):
            raise StoreUnavailable(found)
        return found

    monkeypatch.setattr(serve, "is_current", ask)
    return coming


@pytest.mark.parametrize("current", [True, False])
def test_a_start_waits_for_the_database_and_says_so_once(
    database: list[bool | str], capsys: pytest.CaptureFixture[str], current: bool
) -> None:
    database += ["refused", "refused", current]
    assert serve._is_current_soon(Settings()) is current
    assert capsys.readouterr().err.splitlines() == [
        "llmobs: the database does not answer (refused); asking again for 15 s"
    ]


def test_a_start_gives_up_on_a_database_that_stays_away(
    database: list[bool | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "DATABASE_SECONDS", 0.3)
    database += ["ConnectionRefusedError"]
    with pytest.raises(StoreUnavailable, match="does not answer: ConnectionRefusedError"):
        serve._is_current_soon(Settings())
