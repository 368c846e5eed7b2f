"""`llmobs erase`: take verdicts out of the database for good."""

import asyncio
import os
import sys

import click

from llmobs.access.registry import COMMAND_LINE
from llmobs.domain.access import EVERYTHING
from llmobs.settings import load_settings
from llmobs.store.database import Database
from llmobs.store.erasure import Erased, Erasure


@click.command()
@click.argument("request_ids", nargs=-1, required=True, metavar="REQUEST_ID...")
def erase(*, request_ids: tuple[str, ...]) -> None:
    """Erase verdicts with their text, feedback and idempotency keys; noted in the audit log.

    Exit status: 0 all erased, 1 some were not there.
    """
    found = asyncio.run(_erase(request_ids))
    for request_id, erased in zip(request_ids, found, strict=True):
        if erased is None:
            click.echo(f"{request_id}: no such verdict.")
        else:
            click.echo(
                f"{request_id}: erased, with {erased.feedback} feedback rows "
                f"and {erased.idempotency_keys} idempotency keys."
            )
    sys.exit(1 if None in found else 0)


async def _erase(request_ids: tuple[str, ...]) -> list[Erased | None]:
    database = Database(load_settings(os.environ))
    try:
        erasure = Erasure(database)
        return [await erasure.of_request(EVERYTHING, each, by=COMMAND_LINE) for each in request_ids]
    finally:
        await database.dispose()
