"""Sessions of the web page: what is sealed comes back, and nothing else is taken."""

import pytest

from llmobs.access.keys import Pepper
from llmobs.access.sessions import COOKIE, MOST_BYTES, SECURE_COOKIE, Sessions, cookie_in
from llmobs.errors import Unauthenticated

PEPPER = Pepper("a pepper that only the tests know, long enough")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_credential_comes_back_until_the_session_ends() -> None:
    clock = Clock()
    sessions = Sessions(PEPPER, 60, now=clock)
    value, ends = sessions.sealed(b"llmobs_key")
    assert ends.timestamp() == clock.now + 60
    assert "llmobs_key" not in value
    assert sessions.opened(value.encode()) == b"llmobs_key"
    clock.now += 59
    assert sessions.opened(value.encode()) == b"llmobs_key"
    clock.now += 1
    with pytest.raises(Unauthenticated, match="has ended"):
        sessions.opened(value.encode())


def test_the_same_credential_never_looks_the_same() -> None:
    sessions = Sessions(PEPPER, 60)
    assert len({sessions.sealed(b"llmobs_key")[0] for _ in range(50)}) == 50


def test_every_changed_letter_is_noticed() -> None:
    sessions = Sessions(PEPPER, 60)
    value = sessions.sealed(b"llmobs_key")[0].encode()
    for at in range(len(value) - 1):  # the last letter may hold two bits that say nothing
        other = b"A" if value[at : at + 1] != b"A" else b"B"
        with pytest.raises(Unauthenticated):
            sessions.opened(value[:at] + other + value[at + 1 :])


@pytest.mark.parametrize(
    "value", [b"", b"x", b"!!!!", b"A" * 15, b"A" * 16, b"A" * 4000, "ä".encode(), b"a=b"]
)
def test_what_is_no_session_is_refused(value: bytes) -> None:
    with pytest.raises(Unauthenticated):
        Sessions(PEPPER, 60).opened(value)


def test_another_pepper_opens_nothing() -> None:
    value = Sessions(PEPPER, 60).sealed(b"llmobs_key")[0]
    with pytest.raises(Unauthenticated):
        Sessions(Pepper("another pepper, which is just as long as it"), 60).opened(value.encode())


@pytest.mark.parametrize("credential", [b"", b"a b", b"a\r\nb", "ä".encode(), b"a" * (MOST_BYTES + 1)])
def test_what_cannot_be_a_credential_is_not_sealed(credential: bytes) -> None:
    with pytest.raises(Unauthenticated):
        Sessions(PEPPER, 60).sealed(credential)


def test_the_largest_credential_fits_into_a_cookie() -> None:
    value = Sessions(PEPPER, 60).sealed(b"a" * MOST_BYTES)[0]
    assert len(f"{SECURE_COOKIE}={value}") <= 4096


def test_the_cookie_that_only_tls_can_set_counts_first() -> None:
    both = f"{COOKIE}=planted; theme=dark; {SECURE_COOKIE}=own".encode()
    assert cookie_in(both) == b"own"
    assert cookie_in(f"{COOKIE}=one".encode()) == b"one"
    assert cookie_in(b"theme=dark; llmobs") is None
    assert cookie_in(b"") is None
