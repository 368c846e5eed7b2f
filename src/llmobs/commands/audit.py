"""`llmobs audit`: look at the record of what administrators did, and whether it is whole."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmobs.domain.audit import Entry, Verified
from llmobs.settings import load_settings
from llmobs.store.audit import Audit
from llmobs.store.database import Database

R = TypeVar("R")


@click.group()
def audit() -> None:
    """The record of what administrators did."""


@audit.command("verify")
@click.option("--entries", type=click.IntRange(min=1), help="How many entries there were at an earlier look.")
@click.option("--head", help="The last digest of that look.")
def verify(*, entries: int | None, head: str | None) -> None:
    """Look at every entry; name the first that is not as it was written.

    Exit status: 0 whole, 1 not. An end that was cut off, and a chain written anew from the start, show
    only beside the number and the digest that an earlier look printed.
    """

    async def look(log: Audit) -> tuple[Verified, Entry | None]:
        return await log.verify(), None if entries is None else await log.entry(entries)

    found, then = _run(look)
    if found.broken_at is not None:
        click.echo(f"Entry {found.broken_at} is broken: {found.reason}. {found.entries} before it are whole.")
        sys.exit(1)
    if entries is not None and then is None:
        click.echo(f"Only {found.entries} entries are left of {entries}: the end was cut off.")
        sys.exit(1)
    if head is not None and head != (found.head if then is None else then.digest).hex():
        click.echo(
            f"Entry {entries or found.entries} has another digest than then: the chain was written anew."
        )
        sys.exit(1)
    click.echo(f"{found.entries} entries, all as they were written. Last digest: {found.head.hex()}")


@audit.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
def list_entries(*, limit: int) -> None:
    """The newest entries, newest first."""
    found, _ = _run(lambda log: log.page(None, limit))
    table = Table("id", "at", "actor", "action", "target", "details")
    for entry in found:
        table.add_row(
            str(entry.id),
            *(Text(part) for part in (entry.at[:19], entry.actor, entry.action, entry.target, entry.details)),
        )
    Console().print(table)


def _run(work: Callable[[Audit], Awaitable[R]]) -> R:
    async def run() -> R:
        database = Database(load_settings(os.environ))
        try:
            return await work(Audit(database))
        finally:
            await database.dispose()

    return asyncio.run(run())
