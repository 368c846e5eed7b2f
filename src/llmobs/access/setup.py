"""The gate as the settings want it."""

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from llmobs.access.gate import Gate, Lookup
from llmobs.access.keys import Pepper, pepper_from
from llmobs.access.limits import Allowances, Limiter, MemoryAllowances
from llmobs.access.registry import Registry
from llmobs.access.sessions import Sessions
from llmobs.access.tiers import Tiers, load_tiers
from llmobs.errors import SettingsInvalid
from llmobs.settings import AuthMode, Settings
from llmobs.store.allowances import DatabaseAllowances
from llmobs.store.database import Database
from llmobs.store.store import Store

if TYPE_CHECKING:
    from llmobs.access.tokens import ClientLookup, Tokens

Count = Callable[[str, tuple[str, ...]], None]
SCHEMES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")
LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain"})


def installed_pepper(settings: Settings) -> Pepper | None:
    """The pepper where keys are taken, or where one is set for the administrators' endpoints to use."""
    if settings.auth_mode.takes_keys or settings.key_pepper or settings.key_pepper_file:
        return pepper_from(settings)
    return None


def installed_tokens(settings: Settings, clients: "ClientLookup") -> "Tokens | None":
    """What checks bearer tokens, where they are taken; SettingsInvalid when a setting is missing or unfit."""
    if not settings.auth_mode.takes_tokens:
        return None
    if not settings.jwt_jwks:
        raise SettingsInvalid("tokens need LLMOBS_JWT_JWKS")
    from llmobs.access.jwks import KeySet  # noqa: PLC0415  # cryptography and an HTTP client cost others their start
    from llmobs.access.tokens import Tokens  # noqa: PLC0415  # as above

    return Tokens(settings, KeySet(settings.jwt_jwks, seconds=settings.jwt_jwks_seconds), clients)


def installed_sessions(settings: Settings, pepper: Pepper | None) -> Sessions | None:
    """What keeps people signed in to the web page; None where there is no pepper to seal with, or it is off."""
    if pepper is None or settings.auth_mode is AuthMode.NONE or not settings.session_seconds:
        return None
    return Sessions(pepper, settings.session_seconds)


def installed_gate(
    settings: Settings, pepper: Pepper | None, lookup: Lookup, clients: "ClientLookup"
) -> Gate:
    """The gate; SettingsInvalid where the settings would leave the service open to strangers."""
    refuse_open_door(settings)
    return Gate(
        pepper=pepper if settings.auth_mode.takes_keys else None,
        lookup=lookup,
        tokens=installed_tokens(settings, clients),
        sessions=installed_sessions(settings, pepper),
        cache_seconds=settings.auth_cache_seconds,
        outage_seconds=settings.auth_outage_seconds,
        open_metrics=settings.metrics_open,
    )


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between callers and the service."""

    gate: Gate
    limiter: Limiter
    registry: Registry
    sessions: Sessions | None


def installed_access(settings: Settings, store: Store, count: Count = lambda *_: None) -> Access:
    """The parts as the settings want them; SettingsInvalid when they cannot be had. `count` counts a metric."""
    pepper = installed_pepper(settings)
    gate = installed_gate(settings, pepper, store.held_key, store.client_and_view)
    tiers = load_tiers(settings.tiers_path)
    return Access(
        gate=gate,
        limiter=installed_limiter(settings, store.database, tiers, count),
        registry=Registry(store.database, pepper, tiers=tiers, changed=gate.forget),
        sessions=installed_sessions(settings, pepper),
    )


def installed_limiter(
    settings: Settings, database: Database, tiers: Tiers, count: Count = lambda *_: None
) -> Limiter:
    """What holds clients to their tiers; it knows of none where limits are switched off."""
    if not settings.rate_limits:
        return Limiter(MemoryAllowances(), {})
    return Limiter(_allowances(settings, database), tiers, count=count)


def _allowances(settings: Settings, database: Database) -> Allowances:
    wanted = settings.rate_store
    if wanted.startswith(SCHEMES):
        from llmobs.access.valkey import ValkeyAllowances  # noqa: PLC0415  # its client costs others their start

        return ValkeyAllowances(wanted, seconds=min(1.0, settings.database_timeout_seconds))
    if wanted not in {"", "memory", "database"}:
        raise SettingsInvalid(
            "LLMOBS_RATE_STORE is memory, database, or a URL such as redis://127.0.0.1:6379/0"
        )
    alone = settings.api_workers == 1 and database.engine.dialect.name == "sqlite"
    if wanted == "memory" or (not wanted and alone):
        return MemoryAllowances()
    return DatabaseAllowances(database)


def check_access(settings: Settings) -> None:
    """SettingsInvalid for whatever would keep `installed_gate` from being built, before any worker tries."""

    async def nobody(_: str) -> None:
        return None

    load_tiers(settings.tiers_path)
    installed_gate(settings, installed_pepper(settings), nobody, nobody)


def refuse_open_door(settings: Settings) -> None:
    """SettingsInvalid when everybody could call from elsewhere and nobody has said that this is wanted."""
    if (
        settings.auth_mode is not AuthMode.NONE
        or settings.auth_none_anywhere
        or is_loopback(settings.api_host)
    ):
        return
    raise SettingsInvalid(
        f"API_HOST={settings.api_host} can be reached from other machines and LLMOBS_AUTH_MODE is none: set "
        "LLMOBS_AUTH_MODE=keys (docs/access.md), or LLMOBS_AUTH_NONE_ANYWHERE=true if the network keeps others out"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in LOOPBACK_NAMES
