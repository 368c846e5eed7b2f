"""The identity provider's public keys: from a file or a URL, kept for a while, fetched anew when they rotate."""

import asyncio
import ipaddress
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec
import structlog

from llmobs.errors import LlmobsError, SettingsInvalid

log = structlog.get_logger("llmobs.access")

FETCH_SECONDS = 5.0
MOST_BYTES = 1_000_000
LEAST_PAUSE = 10.0
"""Seconds between two fetches, however many tokens name keys that we do not know."""

FAMILIES = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "EC": frozenset({"ES256", "ES384", "ES512"}),
    "OKP": frozenset({"EdDSA"}),
}
"""The algorithms that a kind of key may be used with. There is no symmetric one: a public key is no secret."""
ALGORITHMS = frozenset[str]().union(*FAMILIES.values())

Jwk = dict[str, Any]


class KeysUnavailable(LlmobsError):
    """The provider's keys cannot be had now."""


class KeySet:
    """Public keys by id. Safe for concurrent use."""

    def __init__(
        self,
        source: str,
        *,
        seconds: float = 300.0,
        now: Callable[[], float] = monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`source` is a file, read at once, or a URL, asked when the first token comes.

        SettingsInvalid when it is neither, or the file does not hold keys.
        """
        self._source = source
        self._seconds = seconds
        self._now = now
        self._transport = transport
        self._keys: dict[str, Jwk] = {}
        self._ready: dict[tuple[str, str], jwt.PyJWK] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._lock = asyncio.Lock()
        self._is_url = "://" in source
        if self._is_url:
            _check_url(source)
        else:
            try:
                self._take(Path(source).read_bytes())
            except (OSError, KeysUnavailable) as error:
                raise SettingsInvalid(f"LLMOBS_JWT_JWKS: {error}") from None

    async def key(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        """The key with that id, fit for the algorithm; None when there is none.

        A key that is not known is asked for once more: the provider may have rotated. KeysUnavailable
        when nothing was ever read; when the source fails later, the last keys read stay good.
        """
        if self._is_stale():
            await self._refresh()
        found = self._keys.get(kid)
        if found is None and self._may_try():
            await self._refresh()
            found = self._keys.get(kid)
        if found is None:
            if self._read_at is None:
                raise KeysUnavailable("the provider's keys could not be read yet")
            return None
        return self._fit(kid, found, algorithm)

    def _is_stale(self) -> bool:
        if self._read_at is not None and self._now() - self._read_at < self._seconds:
            return False
        return self._may_try()

    def _may_try(self) -> bool:
        return self._tried_at is None or self._now() - self._tried_at >= LEAST_PAUSE

    async def _refresh(self) -> None:
        asked_at = self._now()
        async with self._lock:
            if self._tried_at is not None and self._tried_at >= asked_at:
                return  # another caller did it while this one waited
            self._tried_at = self._now()
            try:
                self._take(await self._read())
            except (OSError, httpx.HTTPError, KeysUnavailable) as error:
                log.warning("JWKS not read", reason=type(error).__name__)

    async def _read(self) -> bytes:
        if not self._is_url:
            return await asyncio.to_thread(Path(self._source).read_bytes)
        body = bytearray()
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx.AsyncClient(transport=self._transport, timeout=FETCH_SECONDS) as client,
            client.stream("GET", self._source, headers={"accept": "application/json"}) as answer,
        ):
            answer.raise_for_status()
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise KeysUnavailable(f"the answer has more than {MOST_BYTES} bytes")
        return bytes(body)

    def _take(self, body: bytes) -> None:
        try:
            given = msgspec.json.decode(body)
            keys = [key for key in given["keys"] if isinstance(key, dict)]
        except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
            raise KeysUnavailable("it holds no JWKS") from None
        usable = {
            key["kid"]: key
            for key in keys
            if isinstance(key.get("kid"), str)
            and key.get("kty") in FAMILIES
            and key.get("use", "sig") == "sig"
        }
        if not usable:
            raise KeysUnavailable("it holds no public key with an id that signatures can be checked with")
        self._keys = usable
        self._ready = {}
        self._read_at = self._tried_at = self._now()

    def _fit(self, kid: str, key: Jwk, algorithm: str) -> jwt.PyJWK | None:
        if algorithm not in FAMILIES[key["kty"]] or key.get("alg", algorithm) != algorithm:
            return None
        ready = self._ready.get((kid, algorithm))
        if ready is None:
            try:
                ready = self._ready[kid, algorithm] = jwt.PyJWK(key, algorithm=algorithm)
            except jwt.PyJWTError as error:
                log.warning("JWKS key not usable", reason=type(error).__name__)
                return None
        return ready


def _check_url(source: str) -> None:
    parts = urlsplit(source)
    host = parts.hostname or ""
    try:
        near = ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = host == "localhost"
    if parts.scheme != "https" and not (parts.scheme == "http" and near):
        raise SettingsInvalid(
            "LLMOBS_JWT_JWKS: whoever can change the answer can sign tokens, so it must be https"
        )
