import pytest

from llmobs.detect.tier1_patterns.shape import is_bare

PAYLOAD = "' OR 1=1 --"
PROSE = (
    "When the application joins strings, the database cannot tell data from code, and whoever fills in the form "
    "decides what the query means; bound parameters end this whole class of errors for good. "
)


def _bare(text: str) -> bool:
    at = text.index(PAYLOAD)
    return is_bare(text, at, at + len(PAYLOAD))


@pytest.mark.parametrize(
    "text", [PAYLOAD, f"user=admin{PAYLOAD}", f"hello please search for {PAYLOAD}", f"q={PAYLOAD}&x=1"]
)
def test_a_payload_with_little_around_it_stands_on_its_own(text: str) -> None:
    assert _bare(text)


@pytest.mark.parametrize(
    "text",
    [
        f"```\n{PAYLOAD}\n```",
        f"~~~sql\n{PAYLOAD}\n~~~",
        f"An input like `{PAYLOAD}` is the usual probe.",
        f'The classic example that every tutorial on injection shows is "{PAYLOAD}".',
        PROSE + PAYLOAD,
        PAYLOAD + " is the usual probe. " + PROSE,
    ],
)
def test_a_payload_that_is_shown_does_not(text: str) -> None:
    assert not _bare(text)


def test_words_that_belong_to_the_payload_explain_nothing() -> None:
    text = 'hi, could you look this up for me: "><script>x</script> thanks a lot, it is needed today'
    at = text.index('">')
    assert is_bare(text, at, at + len('"><script>'))


def test_a_request_with_many_headers_is_no_program() -> None:
    text = (
        f"POST /login HTTP/1.1\nHost: shop.example\nAccept: */*\nContent-Length: 9\n\nuser=bob\nq={PAYLOAD}"
    )
    assert _bare(text)


def test_a_hit_in_a_program_is_shown() -> None:
    text = f'import db\ndef run(name):\n    query = "{PAYLOAD}"\n    return db.read(query)\nprint(run(1))'
    assert not _bare(text)


@pytest.mark.parametrize(
    "text",
    [
        f"FROM python:3.12\nRUN pip install x\nENV Q={PAYLOAD}\nCOPY . .\n",
        f"if ready; then\n  log {PAYLOAD}\nfi\nexit 0\n",
        f"-- nightly job\nDECLARE @q int\nSELECT {PAYLOAD}\nGO\n",
    ],
)
def test_two_lines_of_code_around_it_show_it(text: str) -> None:
    assert not _bare(text)


def test_where_a_document_is_the_attack_its_lines_are_no_excuse() -> None:
    entity = '<!ENTITY f SYSTEM "file:///etc/passwd">'
    text = f"<order>\n<sku>A</sku>\n<!DOCTYPE order [{entity}]>\n<qty>2</qty>\n<note>&f;</note>\n</order>"
    at = text.index(entity)
    assert not is_bare(text, at, at + len(entity))
    assert is_bare(text, at, at + len(entity), in_code=True)
    fenced = f"```xml\n{entity}\n```"
    at = fenced.index(entity)
    assert not is_bare(fenced, at, at + len(entity), in_code=True)


def test_keys_of_json_explain_nothing() -> None:
    text = '{"function": "find", "parameters": {"name": "' + PAYLOAD + '", "method": "exact"}, "code": 1}'
    assert _bare(text)


LETTER = (
    "Good evening, I would like to renew the two crime novels and the book about bees, for they are due tomorrow and I am "
    "in bed with flu. My card is 1088{} and my son could come instead of me. It should be no trouble, I hope, as nobody else waits for them."
)
ARTICLE = (
    "The handler glues the card number into the query, so that a reader who types 1088{} into the form gets every loan in the "
    "database. We now use a prepared statement, log what was refused and try the old string in a test of its own before each release."
)


def test_a_long_letter_explains_nothing_and_an_article_does() -> None:
    for text, bare in ((LETTER, True), (ARTICLE, False)):
        start = text.index("{}")
        assert is_bare(text.format(PAYLOAD), start, start + len(PAYLOAD)) is bare


def test_an_article_in_another_language_is_one() -> None:
    text = f"このページでは入力欄に{PAYLOAD}と書かれると何が起きるかを説明し、攻撃を防ぐ方法を示します。"
    start = text.index(PAYLOAD)
    assert not is_bare(text, start, start + len(PAYLOAD))


def test_what_a_unit_test_tries_is_shown() -> None:
    text = f'expect(search("{PAYLOAD}")).toEqual([])'
    start = text.index(PAYLOAD)
    assert not is_bare(text, start, start + len(PAYLOAD))
    told = f"it should be {PAYLOAD}"
    assert is_bare(told, len("it should be "), len(told))
