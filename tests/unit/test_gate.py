"""Letting callers in: what is looked up, what is remembered, and for how long."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from llmobs.access.gate import REFUSED_SECONDS, Gate
from llmobs.access.keys import Pepper, id_of, matches, new_key
from llmobs.access.setup import is_loopback, refuse_open_door
from llmobs.domain.access import ALL_SCOPES, ANYONE, Client, HeldKey, Key, Need, Role, Scope
from llmobs.errors import CredentialsUnchecked, Forbidden, SettingsInvalid, StoreUnavailable, Unauthenticated
from llmobs.settings import AuthMode, Settings

NOW = datetime.now(UTC)
PEPPER = Pepper("pepper" * 8)


class Shelf:
    """Keys as a database holds them, counting how often it is asked."""

    def __init__(self) -> None:
        self.held: dict[str, HeldKey] = {}
        self.asked = 0
        self.away = False
        self.clock = 1000.0

    def add(self, *scopes: Scope, **more: object) -> str:
        key_id, shown = new_key()
        self.held[key_id] = HeldKey(
            key=Key(id=key_id, client_id="c", name="", scopes=scopes, created_at=NOW, created_by="t", **more),  # type: ignore[arg-type]
            digest=PEPPER.digest(shown.encode()),
            client=Client(id="c", name="c", created_at=NOW),
            sees=frozenset({"c"}),
        )
        return shown

    async def lookup(self, key_id: str) -> HeldKey | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("away")
        return self.held.get(key_id)

    def gate(self, **more: float) -> Gate:
        return Gate(pepper=PEPPER, lookup=self.lookup, now=lambda: self.clock, **more)  # type: ignore[arg-type]


def shown(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"accept", b"*/*"), (b"authorization", b"Bearer " + key.encode())]


async def test_a_good_key_is_looked_up_once_in_its_time() -> None:
    shelf = Shelf()
    gate, key = shelf.gate(cache_seconds=30), shelf.add(Scope.DETECT)
    callers = await asyncio.gather(*(gate.admit(shown(key), Need.DETECT) for _ in range(20)))
    assert {caller.client_id for caller in callers} == {"c"}
    assert shelf.asked == 1
    shelf.clock += 29
    await gate.admit([(b"x-api-key", key.encode())], Need.DETECT)
    assert shelf.asked == 1
    shelf.clock += 2
    await gate.admit(shown(key), Need.DETECT)
    assert shelf.asked == 2


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Basic dTpw")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer nothing of ours")],
        [(b"authorization", "Bearer llmobs_äöü".encode())],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"llmobs_" + b"a" * 12 + b"_" + b"b" * 43)],
    ],
)
async def test_anything_but_a_good_key_is_401(headers: list[tuple[bytes, bytes]]) -> None:
    gate = Shelf().gate()
    with pytest.raises(Unauthenticated):
        await gate.admit(headers, Need.DETECT)


async def test_two_credentials_are_refused_rather_than_one_chosen() -> None:
    shelf = Shelf()
    key = shelf.add(Scope.DETECT)
    with pytest.raises(Unauthenticated, match="more than one"):
        await shelf.gate().admit([*shown(key), (b"x-api-key", key.encode())], Need.DETECT)


async def test_the_secret_half_counts_not_the_id() -> None:
    shelf = Shelf()
    key = shelf.add(Scope.DETECT)
    forged = key[:-1] + ("A" if key[-1] != "A" else "B")
    with pytest.raises(Unauthenticated):
        await shelf.gate().admit(shown(forged), Need.DETECT)


async def test_a_flood_of_one_wrong_key_asks_the_database_once() -> None:
    shelf = Shelf()
    gate, (_, wrong) = shelf.gate(), new_key()
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await gate.admit(shown(wrong), Need.DETECT)
    assert shelf.asked == 1
    shelf.clock += REFUSED_SECONDS + 1
    with pytest.raises(Unauthenticated):
        await gate.admit(shown(wrong), Need.DETECT)
    assert shelf.asked == 2


async def test_a_key_expires_while_it_is_remembered() -> None:
    shelf = Shelf()
    key = shelf.add(Scope.DETECT, expires_at=datetime.now(UTC) + timedelta(milliseconds=50))
    gate = shelf.gate()
    await gate.admit(shown(key), Need.DETECT)
    await asyncio.sleep(0.06)
    with pytest.raises(Unauthenticated, match="expired"):
        await gate.admit(shown(key), Need.DETECT)


async def test_known_keys_outlive_an_outage_for_a_while_and_unknown_ones_do_not_get_in() -> None:
    shelf = Shelf()
    gate = shelf.gate(cache_seconds=30, outage_seconds=600)
    known, unknown = shelf.add(Scope.DETECT), shelf.add(Scope.DETECT)
    await gate.admit(shown(known), Need.DETECT)
    shelf.away = True
    shelf.clock += 500
    await gate.admit(shown(known), Need.DETECT)
    with pytest.raises(CredentialsUnchecked):
        await gate.admit(shown(unknown), Need.DETECT)
    shelf.clock += 101
    with pytest.raises(CredentialsUnchecked):
        await gate.admit(shown(known), Need.DETECT)


async def test_what_is_revoked_during_a_lookup_is_not_remembered() -> None:
    shelf = Shelf()
    gate, key = shelf.gate(), shelf.add(Scope.DETECT)
    admitted = asyncio.ensure_future(gate.admit(shown(key), Need.DETECT))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert shelf.asked == 1
    gate.forget(id_of(key.encode()))
    await admitted
    await gate.admit(shown(key), Need.DETECT)
    assert shelf.asked == 2


async def test_a_scope_that_is_not_there_is_403_and_admin_has_all() -> None:
    shelf = Shelf()
    reader, admin = shelf.add(Scope.LOGS_READ), shelf.add(Scope.ADMIN)
    gate = shelf.gate()
    with pytest.raises(Forbidden) as refused:
        await gate.admit(shown(reader), Need.DETECT)
    assert b'scope="detect"' in refused.value.headers[0][1]
    for need in Need:
        await gate.admit(shown(admin), need)


async def test_public_endpoints_look_at_no_credential() -> None:
    shelf = Shelf()
    assert await shelf.gate().admit(shown("rubbish"), Need.PUBLIC) is ANYONE
    assert shelf.asked == 0
    assert await Gate().admit([], Need.ADMIN) is ANYONE
    assert await Gate(pepper=PEPPER, lookup=shelf.lookup, open_metrics=True).admit([], Need.METRICS_READ)


def test_the_digest_needs_the_pepper_and_is_compared_whole() -> None:
    _, key = new_key()
    digest = PEPPER.digest(key.encode())
    assert matches(digest, PEPPER.digest(key.encode()))
    assert not matches(digest, Pepper("another" * 8).digest(key.encode()))
    assert not matches(digest, digest[:-1])
    assert key not in repr(PEPPER)
    assert "pepper" not in repr(PEPPER)


def test_roles_widen_from_viewer_to_admin() -> None:
    assert Role.VIEWER.scopes < Role.USER.scopes < Role.ADMIN.scopes == ALL_SCOPES


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_no_credentials_are_asked_for_on_loopback_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    if loopback:
        refuse_open_door(Settings(api_host=host))
    else:
        with pytest.raises(SettingsInvalid, match="LLMOBS_AUTH_NONE_ANYWHERE"):
            refuse_open_door(Settings(api_host=host))
    refuse_open_door(Settings(api_host=host, auth_none_anywhere=True))
    refuse_open_door(Settings(api_host=host, auth_mode=AuthMode.KEYS))
