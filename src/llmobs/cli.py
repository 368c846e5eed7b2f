"""The `llmobs` command."""

import sys
from importlib import import_module

import click

from llmobs import __version__
from llmobs.errors import LlmobsError

COMMANDS = {
    "audit": ("audit", "audit"),
    "calibrate": ("calibrate", "calibrate_command"),
    "clients": ("keys", "clients"),
    "config": ("config", "config"),
    "detect": ("detect", "detect"),
    "erase": ("erase", "erase"),
    "eval": ("evaluate", "evaluate"),
    "feedback": ("feedback", "feedback"),
    "judge": ("judge", "judge"),
    "keys": ("keys", "keys"),
    "migrate": ("serve", "migrate"),
    "policy": ("books", "policy"),
    "rules": ("books", "rules"),
    "serve": ("serve", "serve"),
}
"""Module of `llmobs.commands` and the command in it. Loaded when asked for: all of them take a second."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f"llmobs.commands.{module}"), name)
        return found


def main() -> None:
    """Run the command; what we expect to go wrong is told in one line."""
    try:
        cli()
    except LlmobsError as error:
        click.echo(f"llmobs: {error}", err=True)
        sys.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmobs")
def cli() -> None:
    """Inspects what language models say, before people read it, and keeps the record."""
