"""Who asks, and what they may do and see."""

from datetime import datetime
from enum import StrEnum

import msgspec


class Scope(StrEnum):
    """What a credential lets its holder do."""

    DETECT = "detect"
    """Have texts screened."""
    LOGS_READ = "logs:read"
    """Read verdicts and statistics of its client, and of clients that were shared with it."""
    METRICS_READ = "metrics:read"
    """Read the whole service's metrics, which hold no text and name no client."""
    ADMIN = "admin"
    """Everything: clients, keys, and the rows of all clients."""


ALL_SCOPES = frozenset(Scope)


class Need(StrEnum):
    """What an endpoint asks of its caller. Every route declares one."""

    PUBLIC = "public"
    """Nothing: credentials are not even looked at."""
    KNOWN = "known"
    """Any good credential."""
    DETECT = "detect"
    LOGS_READ = "logs:read"
    METRICS_READ = "metrics:read"
    ADMIN = "admin"


class Role(StrEnum):
    """The names that identity providers give to people, and what each may do."""

    ADMIN = "admin"
    USER = "user"
    VIEWER = "viewer"

    @property
    def scopes(self) -> frozenset[Scope]:
        """The scopes of the role."""
        return _ROLE_SCOPES[self]


_ROLE_SCOPES = {
    Role.ADMIN: ALL_SCOPES,
    Role.USER: frozenset({Scope.DETECT, Scope.LOGS_READ}),
    Role.VIEWER: frozenset({Scope.LOGS_READ}),
}


class View(msgspec.Struct, frozen=True):
    """Whose rows may be seen: those of these clients, or everybody's where it is None."""

    clients: frozenset[str] | None


EVERYTHING = View(None)


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """One who calls: a team, a product, a customer. Rows, keys and limits belong to it."""

    id: str
    name: str
    tier: str = "free"
    """Name of the rate-limit tier."""
    policy: str | None = None
    """Decides where a request names no policy; None: the service's default."""
    readers: tuple[str, ...] = ()
    """Clients who may read this one's rows as well: an administrator's choice."""
    created_at: datetime
    disabled_at: datetime | None = None
    """From then on its credentials are refused; its rows stay."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as kept: what it may do, and never the key itself."""

    id: str
    """The part of the key that stands in the clear and is looked up by."""
    client_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    created_by: str
    """Who made it: a client id, or `command line`."""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    """To about a minute."""
    replaced_by: str | None = None
    """The key that a rotation put in its place; this one works on until it expires."""


class HeldKey(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to judge a key that someone shows."""

    key: Key
    digest: bytes
    client: Client
    sees: frozenset[str]
    """The clients whose rows its client may read: itself, and those that share with it."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, once that is known."""

    actor: str
    """For records of what was done: `key:ID`, `token:SUBJECT`, or `anyone` where nobody is asked."""
    client_id: str | None
    """None where nobody is asked for credentials."""
    scopes: frozenset[Scope]
    view: View
    tier: str | None = None
    policy: str | None = None
    key_id: str | None = None

    def may(self, need: Need) -> bool:
        """Whether the scopes meet the need."""
        if need in {Need.PUBLIC, Need.KNOWN} or Scope.ADMIN in self.scopes:
            return True
        return need.value in self.scopes


ANYONE = Principal(actor="anyone", client_id=None, scopes=ALL_SCOPES, view=EVERYTHING)
"""Every caller where `LLMOBS_AUTH_MODE` is `none`."""
