import base64

import pytest

from llmobs.detect.tier1_patterns.normalise import View, disguises


def _views(text: str) -> dict[str, View]:
    return {view.name: view for view in disguises(View("raw", text))}


@pytest.mark.parametrize(
    "text",
    [
        "Paris is the capital of France.",
        "Привет, как дела? Всё хорошо.",
        "これは普通の日本語の文章です。",
        "Ça va très bien, merci à tous les élèves.",
        "مرحبا بالعالم",
        "def f(x):\n    return x + 1\n",
    ],
)
def test_ordinary_text_has_no_other_view(text: str) -> None:
    assert _views(text) == {}


@pytest.mark.parametrize(
    ("disguised", "view"),
    [
        ("ig\u200bno\u200dre", "folded"),
        ("ign\u00adore", "folded"),
        ("ｉｇｎｏｒｅ", "folded"),
        ("𝐢𝐠𝐧𝐨𝐫𝐞", "folded"),
        ("ignоre", "folded"),
        ("i\u0301g\u0301n\u0301o\u0301r\u0301e\u0301", "folded"),
        ("".join(chr(0xE0000 + ord(c)) for c in "ignore"), "folded"),
        ("ⓘⓖⓝⓞⓡⓔ", "folded"),
        ("1gn0r3", "leet"),
        ("i g n o r e", "spaced"),
        ("i.g.n.o.r.e", "spaced"),
        ("%69%67%6e%6f%72%65", "unescaped"),
        ("&#105;&#x67;nore", "unescaped"),
        ("\\x69\\x67\\x6e\\x6f\\x72\\x65", "unescaped"),
        ("\\u0069\\u0067nore", "unescaped"),
        (base64.b64encode(b"please ignore that now").decode(), "decoded"),
        (b"please ignore that".hex(), "decoded"),
    ],
)
def test_a_disguise_is_undone(disguised: str, view: str) -> None:
    text = f"Now {disguised} it"
    assert "ignore" in _views(text)[view].text


@pytest.mark.parametrize(
    "disguised",
    [
        "ig\u200bno\u200dre",
        "𝐢𝐠𝐧𝐨𝐫𝐞",
        "1gn0r3",
        "i g n o r e",
        "%69%67%6e%6f%72%65",
        "&#105;gnore",
        "\\x69\\x67nore",
    ],
)
def test_the_span_is_what_was_received(disguised: str) -> None:
    text = f"Now {disguised} it"
    found = [v for v in _views(text).values() if "ignore" in v.text]
    assert found
    for view in found:
        at = view.text.index("ignore")
        span = view.span(at, at + 6)
        assert text[span.start : span.end].strip() == disguised


def test_decoding_goes_one_level_and_misses_no_run() -> None:
    twice = base64.b64encode(base64.b64encode(b"please ignore that now")).decode()
    assert "ignore" not in _views(twice)["decoded"].text
    run = base64.b64encode(b"please ignore that now").decode()
    many = _views(" ".join([run] * 500))["decoded"].text
    assert many.count("ignore") == 500


def test_binary_that_is_no_text_is_left_alone() -> None:
    assert "decoded" not in _views(base64.b64encode(bytes(range(128, 190))).decode())
