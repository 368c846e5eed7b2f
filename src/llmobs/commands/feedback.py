"""`llmobs feedback`: labelled texts out of the database, in the form that `eval` and `calibrate` read."""

import asyncio
import os
from pathlib import Path

import click
import msgspec

from llmobs.access.registry import COMMAND_LINE
from llmobs.domain.access import EVERYTHING
from llmobs.domain.audit import deed
from llmobs.evaluation import row_of
from llmobs.settings import load_settings
from llmobs.store.audit import Audit
from llmobs.store.database import Database
from llmobs.store.feedback import OpinionFilter, Opinions


@click.group()
def feedback() -> None:
    """What people said of verdicts."""


@feedback.command("export")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the rows (.jsonl).",
)
@click.option("--harmless/--harmful", "harmless", default=None, help="Only harmless texts, or only others.")
@click.option("--client", "client_id", default=None, help="Only this client's verdicts.")
def export(*, out: Path, harmless: bool | None, client_id: str | None) -> None:
    """Write the texts that feedback labels, one row a line.

    Texts that are gone, or were kept only as a hash, are left out.
    """
    filters = OpinionFilter(harmless=harmless, client_id=client_id)
    click.echo(f"{asyncio.run(_export(out, filters))} rows written to {out}.")


async def _export(out: Path, filters: OpinionFilter) -> int:
    database = Database(load_settings(os.environ))
    rows = 0
    try:
        told = {"harmless": filters.harmless, "client_id": filters.client_id}
        await Audit(database).tell(deed(COMMAND_LINE, "feedback.export", "", **told))
        with out.open("wb") as sink:
            async for texts in Opinions(database).labelled(EVERYTHING, filters):
                rows += len(texts)
                sink.write(b"".join(msgspec.json.encode(row_of(text)) + b"\n" for text in texts))
    finally:
        await database.dispose()
    return rows
