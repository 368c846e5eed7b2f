"""`llmobs config`: the settings."""

import os

import click
import msgspec

from llmobs.settings import effective


@click.group()
def config() -> None:
    """The settings."""


@config.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_config(*, as_json: bool) -> None:
    """Every setting as it is in force and where it comes from, secrets masked."""
    found = effective(os.environ)
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for each in found:
        click.echo(f"{each.name}={each.value}  ({each.source})")
