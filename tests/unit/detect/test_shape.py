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
