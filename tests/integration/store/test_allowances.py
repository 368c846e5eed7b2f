"""All stores of allowances keep the same rule, and keep it when many ask at once."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from support.postgres import Server, new_database
from support.valkey import missing, running_valkey

from llmobs.access.limits import Allowances, MemoryAllowances
from llmobs.access.valkey import ValkeyAllowances
from llmobs.domain.allowance import BURST, HOUR, Ask, Meter, Window, settle
from llmobs.errors import StoreUnavailable
from llmobs.settings import Settings
from llmobs.store.allowances import DatabaseAllowances
from llmobs.store.database import Database
from llmobs.store.migrate import upgrade


class Kept:
    """A store, and a way to make its windows older than they are."""

    def __init__(self, store: Allowances, database: Database | None = None) -> None:
        self.store = store
        self._database = database

    async def age(self, by: int) -> None:
        match self.store:
            case MemoryAllowances():
                for key, window in self.store._windows.items():
                    self.store._windows[key] = older(window, by)
            case ValkeyAllowances():
                client = self.store._client
                async for key in client.scan_iter("llmobs:rate:*"):
                    for field in ("s", "b"):
                        await client.hset(key, field, int(await client.hget(key, field)) - by)
            case _:
                assert self._database is not None
                async with self._database.transaction() as connection:
                    await connection.execute(
                        text(
                            "UPDATE rate_windows SET started_at = started_at - :by, burst_at = burst_at - :by"
                        ),
                        {"by": by},
                    )


def older(window: Window, by: int) -> Window:
    return msgspec.structs.replace(window, started_at=window.started_at - by, burst_at=window.burst_at - by)


@pytest.fixture(params=["memory", "sqlite", "postgresql", "valkey"])
async def kept(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[Kept]:
    if request.param == "memory":
        yield Kept(MemoryAllowances())
    elif request.param == "valkey":
        if missing():
            pytest.skip(missing())
        with running_valkey() as url:
            store = ValkeyAllowances(url, seconds=5.0)
            yield Kept(store)
            await store.close()
    else:
        url = f"sqlite:///{tmp_path}/llmobs.db"
        if request.param == "postgresql":
            server: Server = request.getfixturevalue("postgres")
            url = new_database(server)
        chosen = Settings(database_url=url)
        await asyncio.to_thread(upgrade, chosen, "head")
        database = Database(chosen)
        yield Kept(DatabaseAllowances(database), database)
        await database.dispose()


async def test_every_store_follows_the_one_rule(kept: Kept) -> None:
    chance = random.Random(7)
    expected: dict[str, Window] = {}
    for _ in range(150):
        client = chance.choice(["a", "b"])
        window = expected.get(client)
        ask = Ask(
            client_id=client,
            meter=Meter.REQUESTS,
            allowed=chance.choice([0, 40, 100, 1000]),
            burst=chance.choice([10, 30, 500]),
            wanted=chance.choice([0, 1, 3, 50]),
            ahead=chance.choice([0, 5, 20]),
            returned=chance.choice([0, 0, 2, 7]),
            started_at=0 if window is None else window.started_at - chance.choice([0, 0, 1]),
            burst_at=0 if window is None else window.burst_at - chance.choice([0, 0, 1]),
        )
        grant = await kept.store.take(ask)
        wanted = settle(window, ask, grant.now)
        assert grant == wanted
        expected[client] = grant.window
        if chance.random() < 0.15:
            by = chance.choice([BURST, HOUR // 2, HOUR])
            await kept.age(by)
            expected = {name: older(known, by) for name, known in expected.items()}


async def test_what_is_given_to_many_at_once_is_the_limit_exactly(kept: Kept) -> None:
    async def one(_: int) -> int:
        ask = Ask(client_id="a", meter=Meter.TIER3, allowed=100, wanted=3)
        return (await kept.store.take(ask)).granted

    given: list[int] = []
    for _ in range(10):
        given += await asyncio.gather(*(one(n) for n in range(4)))
    assert sum(given) == 100
    assert given.count(3) == 33


async def test_a_server_that_is_away_is_told_as_such() -> None:
    store = ValkeyAllowances("valkey://127.0.0.1:9/0", seconds=1.0)
    with pytest.raises(StoreUnavailable):
        await store.take(Ask(client_id="a", meter=Meter.REQUESTS, allowed=1, wanted=1))
    await store.close()
