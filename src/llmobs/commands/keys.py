"""`llmobs clients` and `llmobs keys`: who may call, from the command line of a machine that holds the pepper."""

import asyncio
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table

from llmobs.access.registry import ClientChange, Made, Registry
from llmobs.access.setup import installed_pepper
from llmobs.access.tiers import load_tiers
from llmobs.domain.access import EVERYTHING, Key, Scope
from llmobs.errors import EntryUnknown
from llmobs.settings import load_settings
from llmobs.store.database import Database

R = TypeVar("R")

BY = "command line"
_SPAN = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Span(click.ParamType[timedelta]):
    """A span of time such as `30s`, `15m`, `12h`, `90d`."""

    name = "span"

    def convert(
        self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """The span, or click's error."""
        if isinstance(value, timedelta):
            return value
        match = _SPAN.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no span such as 30s, 15m, 12h or 90d", param, ctx)
        return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


SPAN = Span()
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def keys() -> None:
    """API keys."""


@keys.command("pepper")
def print_pepper() -> None:
    """Print a fresh secret for LLMOBS_KEY_PEPPER or its file."""
    click.echo(secrets.token_urlsafe(48))


@keys.command("create")
@click.argument("client_id")
@click.option("--name", default="", help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    default=[Scope.DETECT.value],
    show_default=True,
    help="What it may do; may be given several times.",
)
@click.option("--expires", type=SPAN, default="365d", show_default=True, help="How long it works.")
@click.option("--never-expires", is_flag=True, help="It works until it is revoked.")
@click.option("--new-client", is_flag=True, help="Add the client when there is none of that id.")
@as_json
def create(
    *,
    client_id: str,
    name: str,
    scopes: tuple[str, ...],
    expires: timedelta,
    never_expires: bool,
    new_client: bool,
    as_json: bool,
) -> None:
    """Make a key for CLIENT_ID and print it. It cannot be shown again."""

    async def work(registry: Registry) -> Made:
        if new_client:
            try:
                await registry.client(client_id)
            except EntryUnknown:
                await registry.create_client(client_id)
        return await registry.create_key(
            client_id,
            name=name,
            scopes=[Scope(scope) for scope in scopes],
            by=BY,
            expires_at=None if never_expires else datetime.now(UTC) + expires,
        )

    _tell(_run(work), as_json=as_json)


@keys.command("list")
@click.option("--client", "client_id", default=None, help="Only this client's.")
@as_json
def list_keys(*, client_id: str | None, as_json: bool) -> None:
    """Keys as kept, never the keys themselves."""
    found = _run(lambda registry: registry.keys(EVERYTHING, client_id))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    table = Table("id", "client", "name", "scopes", "made", "expires", "last used", "state")
    for key in found:
        times = (key.created_at, key.expires_at, key.last_used_at)
        table.add_row(
            key.id,
            key.client_id,
            key.name,
            " ".join(key.scopes),
            *("never" if time is None else f"{time:%Y-%m-%d %H:%M}" for time in times),
            _state(key),
        )
    Console().print(table)


@keys.command("rotate")
@click.argument("key_id")
@click.option("--overlap", type=SPAN, default="1d", show_default=True, help="How long the old key works on.")
@as_json
def rotate(*, key_id: str, overlap: timedelta, as_json: bool) -> None:
    """Make a key like KEY_ID and print it; KEY_ID works on for the overlap."""
    _tell(
        _run(lambda registry: registry.rotate_key(EVERYTHING, key_id, overlap=overlap, by=BY)),
        as_json=as_json,
    )


@keys.command("revoke")
@click.argument("key_id")
def revoke(*, key_id: str) -> None:
    """Void KEY_ID for good. Running services refuse it within LLMOBS_AUTH_CACHE_SECONDS."""
    key = _run(lambda registry: registry.revoke_key(EVERYTHING, key_id))
    click.echo(f"Key {key.id} of {key.client_id} is revoked.")


@click.group()
def clients() -> None:
    """Clients: whose keys, rows and limits they are."""


@clients.command("create")
@click.argument("client_id")
@click.option("--name", default="", help="For people.")
@click.option("--tier", default="free", show_default=True, help="Rate-limit tier.")
@click.option("--policy", default=None, help="Policy where a request names none.")
@click.option("--reader", "readers", multiple=True, help="Client that may read this one's rows as well.")
def create_client(
    *, client_id: str, name: str, tier: str, policy: str | None, readers: tuple[str, ...]
) -> None:
    """Add a client."""
    made = _run(
        lambda registry: registry.create_client(
            client_id, name=name, tier=tier, policy=policy, readers=readers
        )
    )
    click.echo(f"Client {made.id} is there.")


@clients.command("list")
@as_json
def list_clients(*, as_json: bool) -> None:
    """All clients."""
    found = _run(lambda registry: registry.clients())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    table = Table("id", "name", "tier", "policy", "read by", "disabled")
    for client in found:
        disabled = "" if client.disabled_at is None else f"{client.disabled_at:%Y-%m-%d %H:%M}"
        table.add_row(
            client.id, client.name, client.tier, client.policy or "", " ".join(client.readers), disabled
        )
    Console().print(table)


@clients.command("change")
@click.argument("client_id")
@click.option("--name", default=None, help="For people.")
@click.option("--tier", default=None, help="Rate-limit tier.")
@click.option(
    "--policy", default=None, help="Policy where a request names none; empty: the service's default."
)
@click.option(
    "--reader", "readers", multiple=True, help="Clients that may read this one's rows, all of them."
)
@click.option("--unshare", is_flag=True, help="Nobody else may read this one's rows.")
@click.option("--disable/--enable", "disabled", default=None, help="Refuse its keys, or take them again.")
def change_client(
    *,
    client_id: str,
    name: str | None,
    tier: str | None,
    policy: str | None,
    readers: tuple[str, ...],
    unshare: bool,
    disabled: bool | None,
) -> None:
    """Change, share or disable CLIENT_ID."""
    unset = msgspec.UNSET
    change = ClientChange(
        name=unset if name is None else name,
        tier=unset if tier is None else tier,
        policy=unset if policy is None else policy or None,
        readers=readers if readers or unshare else unset,
        disabled=unset if disabled is None else disabled,
    )
    changed = _run(lambda registry: registry.change_client(client_id, change))
    click.echo(f"Client {changed.id} is changed.")


def _run(work: Callable[[Registry], Awaitable[R]]) -> R:
    settings = load_settings(os.environ)

    async def run() -> R:
        database = Database(settings)
        try:
            registry = Registry(database, installed_pepper(settings), tiers=load_tiers(settings.tiers_path))
            return await work(registry)
        finally:
            await database.dispose()

    return asyncio.run(run())


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        return "expired"
    return "rotated" if key.replaced_by is not None else "good"


def _tell(made: Made, *, as_json: bool) -> None:
    if as_json:
        told = {"key": made.shown, "entry": made.key}
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    click.echo(made.shown)
    until = (
        "until it is revoked"
        if made.key.expires_at is None
        else f"until {made.key.expires_at:%Y-%m-%d %H:%M} UTC"
    )
    click.echo(
        f"Key {made.key.id} of {made.key.client_id} may {', '.join(made.key.scopes)} {until}. "
        "Keep it now: it cannot be shown again.",
        err=True,
    )
