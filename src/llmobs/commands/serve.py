"""`llmobs serve` and `llmobs migrate`: the service and its database."""

import os

import click

from llmobs.settings import load_settings


@click.command()
@click.option("--migrate", is_flag=True, help="Bring the database to the newest schema first.")
def serve(*, migrate: bool) -> None:
    """Serve the HTTP API. Settings come from the environment; docs/settings.md lists them."""
    from llmobs.serve import run  # noqa: PLC0415  # the server's imports cost the other commands half a second

    run(load_settings(os.environ), migrate=migrate)


@click.command()
@click.option(
    "--revision", default="head", show_default=True, help="Revision to go to; `base` is the empty schema."
)
@click.option("--down", is_flag=True, help="Go down to the revision instead of up.")
def migrate(*, revision: str, down: bool) -> None:
    """Bring the database of DATABASE_URL to a schema revision."""
    from llmobs.store.migrate import current, downgrade, upgrade  # noqa: PLC0415  # as above
    from llmobs.store.revision import head, serves  # noqa: PLC0415  # as above

    settings = load_settings(os.environ)
    (downgrade if down else upgrade)(settings, revision)
    found = current(settings)
    later = found != head() and serves(found, head())
    click.echo(
        f"The database is at {found or 'the empty schema'}"
        + (
            f", which a later release made: this one knows {head()} and works on it as it is."
            if later
            else "."
        )
    )
