"""`llmobs erase`: take verdicts, or all of a person, out of the database for good."""

import asyncio
import os
import sys

import click
import msgspec

from llmobs.access.persons import person_keys_from
from llmobs.access.registry import COMMAND_LINE
from llmobs.domain.access import EVERYTHING
from llmobs.errors import SettingsInvalid
from llmobs.settings import Settings, load_settings
from llmobs.store.database import Database
from llmobs.store.erasure import Erased, ErasedPerson, Erasure


@click.command()
@click.argument("request_ids", nargs=-1, metavar="[REQUEST_ID...]")
@click.option(
    "--subject",
    metavar="ID",
    help="Erase all of the person whom requests named so in `context.subject_id`; `-` reads the id from standard input.",
)
def erase(*, request_ids: tuple[str, ...], subject: str | None) -> None:
    """Erase verdicts with their text, feedback and idempotency keys; noted in the audit log.

    Exit status: 0 all erased, 1 some were not there.
    """
    if bool(request_ids) == (subject is not None):
        raise click.UsageError("give request ids, or --subject.")
    if subject is not None:
        named = sys.stdin.read().strip() if subject == "-" else subject
        if not named:
            raise click.UsageError("the id is empty.")
        gone = asyncio.run(_erase_person(load_settings(os.environ), named))
        counts = ", ".join(
            f"{rows} {table.replace('_', ' ')}" for table, rows in msgspec.structs.asdict(gone).items()
        )
        click.echo(f"Erased: {counts}.")
        return
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


async def _erase_person(settings: Settings, subject_id: str) -> ErasedPerson:
    persons = person_keys_from(settings)
    if persons is None:
        raise SettingsInvalid("to erase a person, set LLMOBS_SUBJECT_PEPPER to what the service has")
    database = Database(settings)
    try:
        return await Erasure(database).of_person(EVERYTHING, persons.key_of(subject_id), by=COMMAND_LINE)
    finally:
        await database.dispose()


async def _erase(request_ids: tuple[str, ...]) -> list[Erased | None]:
    database = Database(load_settings(os.environ))
    try:
        erasure = Erasure(database)
        return [await erasure.of_request(EVERYTHING, each, by=COMMAND_LINE) for each in request_ids]
    finally:
        await database.dispose()
