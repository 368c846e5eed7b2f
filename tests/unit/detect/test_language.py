"""Which texts read as another language than English."""

import pytest

from llmobs.detect.tier2_encoder.language import LOOKED_AT, is_foreign


@pytest.mark.parametrize(
    "text",
    [
        "El ajo se pica fino y se sofríe con aceite de oliva.",
        "Die Bibliothek öffnet um neun Uhr und schließt um sechs.",
        "La bibliothèque ouvre à neuf heures et ferme à dix-huit heures.",
        "Biblioteka jest otwarta od dziewiątej do osiemnastej.",
        "Библиотека открывается в девять и закрывается в шесть.",
        "图书馆九点开门，六点关门。",
        "도서관은 아홉 시에 열고 여섯 시에 닫습니다.",
        "تفتح المكتبة في التاسعة وتغلق في السادسة.",
        "Die Bibliothek ist heute geschlossen. " * 60 + "The library is closed today. " * 200,
    ],
)
def test_other_languages_are_told(text: str) -> None:
    assert is_foreign(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42 + 17 = 59 🙂",
        "Reset password instructions",
        "Garlic is chopped finely and fried in olive oil.",
        "We drove from Los Angeles to San Francisco and on to La Paz.",
        "Dr. Müller's café in Zürich is open, and the crème brûlée there is good.",
        "Sticks and stones may break my bones, but the die is cast.",
        "def area(width, height):\n    return width * height",
        "The library is closed today. " * (LOOKED_AT // 20) + "Die Bibliothek ist heute geschlossen. " * 200,
    ],
)
def test_english_code_and_numbers_are_not(text: str) -> None:
    assert not is_foreign(text)
