"""A service that asks for keys, and keys for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from llmobs.access.keys import Pepper
from llmobs.access.registry import Registry
from llmobs.access.tiers import load_tiers
from llmobs.settings import AuthMode, Settings
from llmobs.store.database import Database

R = TypeVar("R")
PEPPER = "a pepper that only the tests know, long enough"


def keyed(settings: Settings, **more: object) -> Settings:
    """The settings with keys asked for."""
    asked = {"auth_mode": AuthMode.KEYS, "key_pepper": PEPPER, "subject_pepper": PEPPER} | more
    return msgspec.structs.replace(settings, **asked)


async def in_registry(settings: Settings, work: Callable[[Registry], Awaitable[R]]) -> R:
    """Do something with clients and keys from outside the service, as the command line does."""
    database = Database(settings)
    try:
        return await work(Registry(database, Pepper(PEPPER), tiers=load_tiers(settings.tiers_path)))
    finally:
        await database.dispose()


def in_registry_now(settings: Settings, work: Callable[[Registry], Awaitable[R]]) -> R:
    """The same where no loop runs."""
    return asyncio.run(in_registry(settings, work))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
