"""Several services that count one client together, and many requests to them at once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.access import PEPPER, in_registry_now
from support.postgres import Server, new_database
from support.service import Service
from support.valkey import running_valkey

from llmobs.access.registry import Registry
from llmobs.domain.access import Scope
from llmobs.settings import Settings

LIMIT, CALLS, SERVICES = 500, 2000, 3
BODY = b'{"llm_response": "Hello"}'


@contextmanager
def services_with_a_limit(store: str, server: Server, folder: Path) -> Iterator[tuple[list[Service], str]]:
    """The services over one database, counting in it or in Valkey, and the client's key."""
    database = new_database(server)
    tiers = folder / "tiers.toml"
    tiers.write_text(f"[five]\nrequests = {LIMIT}\n")
    with ExitStack() as stack:
        counted_in = stack.enter_context(running_valkey()) if store == "valkey" else "database"
        more = {
            "LLMOBS_AUTH_MODE": "keys",
            "LLMOBS_KEY_PEPPER": PEPPER,
            "LLMOBS_TIERS_FILE": str(tiers),
            "LLMOBS_RATE_STORE": counted_in,
            "LLMOBS_ENCODER": "false",
            "LLMOBS_CANARY_SECONDS": "0",
            # Limits are counted here. Two thousand at once are also an overload, which would tell some
            # of those beyond the limit 503 before they are counted (tests of admission see to that).
            "LLMOBS_QUEUE_MS": "60000",
            "LLMOBS_JOURNAL_MAX_WAIT_MS": "60000",
            "LOG_LEVEL": "error",
        }
        services = [Service(folder, database, more, name=f"{store}{n}") for n in range(SERVICES)]
        services[0].migrate()

        async def furnish(registry: Registry) -> str:
            await registry.create_client("shop", tier="five")
            return (await registry.create_key("shop", name="", scopes=[Scope.DETECT], by="test")).shown

        key = in_registry_now(Settings(database_url=database, tiers_file=str(tiers)), furnish)
        for service in services:
            stack.callback(service.kill)
            service.launch()
        for service in services:
            service.wait_ready("/health/live")
        yield services, key


async def _call(port: int, key: str, start: asyncio.Event) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await start.wait()
        head = (
            f"POST /v1/detect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        writer.write(head.encode() + BODY)
        answer = await reader.read()
        return int(answer.split(b" ", 2)[1])
    finally:
        writer.close()


def asked_at_once(services: list[Service], key: str) -> Counter[int]:
    """How many of the CALLS got which status."""

    async def run() -> list[int]:
        start = asyncio.Event()
        calls = [asyncio.ensure_future(_call(services[n % SERVICES].port, key, start)) for n in range(CALLS)]
        await asyncio.sleep(2)  # all connections open, then all requests at once
        start.set()
        return await asyncio.gather(*calls)

    return Counter(asyncio.run(run()))
