"""Which tokens let their holders in. Run with `-s` to see the table."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from rich.console import Console
from rich.table import Table

from llmobs.access import jwks
from llmobs.access.jwks import KeySet
from llmobs.access.tokens import Tokens
from llmobs.domain.access import ALL_SCOPES, EVERYTHING, Client, Scope, View
from llmobs.errors import CredentialsUnchecked, SettingsInvalid, Unauthenticated
from llmobs.settings import Settings

ISSUER, AUDIENCE = "https://id.example/realms/main", "llmobs"
RSA = {name: rsa.generate_private_key(65537, 2048) for name in ("one", "two", "stranger")}
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


def public(kid: str, key: Any, **more: str) -> dict[str, Any]:
    maker = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
    }
    kind = next((maker[k] for k in maker if isinstance(key, k)), jwt.algorithms.OKPAlgorithm)
    return json.loads(kind.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"} | more


def jwks_of(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


ONE = jwks_of(public("one", RSA["one"]), public("ec", EC), public("ed", ED))


def claims(**changed: Any) -> dict[str, Any]:
    now = time.time()
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "client_id": "shop",
        "scope": "openid detect",
        "iat": now,
        "exp": now + 300,
    }
    return {name: value for name, value in (made | changed).items() if value is not None}


def signed(
    key: Any = RSA["one"], algorithm: str = "RS256", kid: str | None = "one", typ: str = "JWT", **changed: Any
) -> str:
    headers = {"typ": typ} | ({} if kid is None else {"kid": kid})
    return jwt.encode(claims(**changed), key, algorithm=algorithm, headers=headers)


def part(value: Any) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def unsigned(alg: str) -> str:
    return (part({"alg": alg, "typ": "JWT", "kid": "one"}) + b"." + part(claims()) + b".").decode()


def confused() -> str:
    """HS256 with the public key's PEM as the secret: what a naive library takes for a signature."""
    pem = (
        RSA["one"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    head = part({"alg": "HS256", "typ": "JWT", "kid": "one"}) + b"." + part(claims())
    mac = base64.urlsafe_b64encode(hmac.digest(pem, head, hashlib.sha256)).rstrip(b"=")
    return (head + b"." + mac).decode()


def tampered() -> str:
    head, _, signature = signed().split(".")
    return f"{head}.{part(claims(scope='admin')).decode()}.{signature}"


def own_key() -> str:
    """A key of the attacker's own in the header (`jwk`), which a checker must not use."""
    headers = {"kid": "one", "jwk": public("one", RSA["stranger"])}
    return jwt.encode(claims(), RSA["stranger"], algorithm="RS256", headers=headers)


NOW = time.time()
CASES: list[tuple[str, Callable[[], str], bool]] = [
    ("right, RS256", signed, True),
    ("right, ES256", lambda: signed(EC, "ES256", "ec"), True),
    ("right, EdDSA", lambda: signed(ED, "EdDSA", "ed"), True),
    ("right, type at+jwt", lambda: signed(typ="at+jwt"), True),
    ("right, several audiences", lambda: signed(aud=["other", AUDIENCE]), True),
    ("none-alg", lambda: unsigned("none"), False),
    ("NoNe-alg", lambda: unsigned("NoNe"), False),
    ("HS256 with the RSA public key", confused, False),
    ("wrong alg: RS512, not on the list", lambda: signed(algorithm="RS512"), False),
    ("wrong alg: ES256 under an RSA key's id", lambda: signed(EC, "ES256", "one"), False),
    ("wrong key", lambda: signed(RSA["stranger"]), False),
    ("key in the token's own header", own_key, False),
    ("claims changed after signing", tampered, False),
    ("expired", lambda: signed(exp=NOW - 60), False),
    ("expired within the leeway", lambda: signed(exp=time.time() - 5), True),
    ("no expiry", lambda: signed(exp=None), False),
    ("not yet", lambda: signed(nbf=time.time() + 120), False),
    ("issued in the future", lambda: signed(iat=time.time() + 120), False),
    ("wrong aud", lambda: signed(aud="billing"), False),
    ("no aud", lambda: signed(aud=None), False),
    ("wrong iss", lambda: signed(iss="https://id.example/realms/other"), False),
    ("no iss", lambda: signed(iss=None), False),
    ("missing kid", lambda: signed(kid=None), False),
    ("unknown kid", lambda: signed(RSA["two"], kid="two"), False),
    ("another type of token", lambda: signed(typ="logout+jwt"), False),
    ("client unknown here", lambda: signed(client_id="nobody"), False),
    ("no client", lambda: signed(client_id=None), False),
    ("client disabled", lambda: signed(client_id="closed"), False),
    ("not a JWT", lambda: "abc.def", False),
    ("over-long", lambda: "a" * 20_000, False),
]


async def clients(client_id: str) -> tuple[Client, frozenset[str]] | None:
    now = datetime.now(UTC)
    known = {"shop": None, "closed": now}
    if client_id not in known:
        return None
    made = Client(id=client_id, name=client_id, tier="pro", created_at=now, disabled_at=known[client_id])
    return made, frozenset({client_id})


def settings(**more: Any) -> Settings:
    return Settings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, **more)


@pytest.fixture
def keys(tmp_path: Path) -> KeySet:
    path = tmp_path / "jwks.json"
    path.write_bytes(ONE)
    return KeySet(str(path))


async def test_the_table_of_tokens(keys: KeySet) -> None:
    shown = Table("token", "should be", "is", "told", title="Bearer tokens")
    surprises = []
    for name, make, good in CASES:
        tokens = Tokens(settings(), keys, clients)
        told, let_in = "", True
        try:
            await tokens.principal(make().encode())
        except Unauthenticated as problem:
            told, let_in = str(problem), False
        shown.add_row(name, *("accepted" if state else "refused" for state in (good, let_in)), told)
        if let_in is not good:
            surprises.append(name)
    Console(width=140).print(shown, f"{len(CASES)} tokens, {len(surprises)} surprises")
    assert surprises == []


async def test_a_rotated_key_is_fetched_when_a_token_names_it_and_the_old_one_is_out() -> None:
    served, asked, clock = [ONE], [0], [100.0]

    def answer(_: httpx.Request) -> httpx.Response:
        asked[0] += 1
        return httpx.Response(200, content=served[0])

    keys = KeySet("https://id.example/jwks", now=lambda: clock[0], transport=httpx.MockTransport(answer))
    tokens = Tokens(settings(auth_cache_seconds=0.0), keys, clients)
    old, new = signed().encode(), signed(RSA["two"], kid="two").encode()
    await tokens.principal(old)
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await tokens.principal(new)
    assert asked[0] == 1, "unknown keys make no flood of questions"
    served[0] = jwks_of(public("two", RSA["two"]))
    clock[0] += jwks.LEAST_PAUSE
    await tokens.principal(new)
    assert asked[0] == 2
    with pytest.raises(Unauthenticated):
        await tokens.principal(old)
    clock[0] += 301
    await tokens.principal(new)
    assert asked[0] == 3


async def test_the_last_keys_stay_good_while_the_provider_is_away_and_none_is_503() -> None:
    clock, up = [100.0], [True]

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=ONE) if up[0] else httpx.Response(500)

    def fresh() -> Tokens:
        keys = KeySet("https://id.example/jwks", now=lambda: clock[0], transport=httpx.MockTransport(answer))
        return Tokens(settings(auth_cache_seconds=0.0), keys, clients)

    tokens = fresh()
    await tokens.principal(signed().encode())
    up[0] = False
    clock[0] += 1000
    await tokens.principal(signed().encode())
    with pytest.raises(CredentialsUnchecked):
        await fresh().principal(signed().encode())


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "oct", "kid": "one", "k": "AAAA"}]}']
)
def test_a_file_without_public_keys_is_refused_at_the_start(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(body)
    with pytest.raises(SettingsInvalid, match="LLMOBS_JWT_JWKS"):
        KeySet(str(path))


@pytest.mark.parametrize("source", ["http://id.example/jwks", "ftp://127.0.0.1/x", "/nowhere/at/all"])
def test_keys_come_over_https_or_from_a_file_that_is_there(source: str) -> None:
    with pytest.raises(SettingsInvalid, match="LLMOBS_JWT_JWKS"):
        KeySet(source)
    assert KeySet("http://127.0.0.1:9/jwks")


@pytest.mark.parametrize(
    "more",
    [
        {"jwt_algorithms": "HS256"},
        {"jwt_algorithms": "RS256,none"},
        {"jwt_algorithms": ","},
        {"jwt_issuer": ""},
        {"jwt_audience": ""},
    ],
)
def test_settings_that_would_trust_too_much_are_refused(keys: KeySet, more: dict[str, str]) -> None:
    made = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE} | more
    with pytest.raises(SettingsInvalid):
        Tokens(Settings(**made), keys, clients)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "scopes", "view"),
    [
        ({"scope": "detect logs:read other"}, {Scope.DETECT, Scope.LOGS_READ}, View(frozenset({"shop"}))),
        ({"scope": ["detect"]}, {Scope.DETECT}, View(frozenset({"shop"}))),
        ({"scope": None, "roles": ["viewer"]}, {Scope.LOGS_READ}, View(frozenset({"shop"}))),
        ({"scope": None, "roles": "user"}, {Scope.DETECT, Scope.LOGS_READ}, View(frozenset({"shop"}))),
        ({"scope": None, "roles": ["admin"]}, ALL_SCOPES, EVERYTHING),
        ({"scope": None, "roles": ["admin"], "client_id": None}, ALL_SCOPES, EVERYTHING),
        ({"scope": None, "roles": {"admin": True}}, set(), View(frozenset({"shop"}))),
    ],
)
async def test_scopes_come_from_scopes_and_roles(
    keys: KeySet, changed: dict[str, Any], scopes: set[Scope], view: View
) -> None:
    who = await Tokens(settings(), keys, clients).principal(signed(**changed).encode())
    assert (who.scopes, who.view) == (scopes, view)
    assert who.actor == "token:ada"


async def test_claims_may_lie_deep_or_have_dots_in_their_names(keys: KeySet) -> None:
    chosen = settings(jwt_roles_claim="realm_access.roles", jwt_client_claim="https://llmobs.example/client")
    token = signed(
        scope=None,
        realm_access={"roles": ["user"]},
        **{"https://llmobs.example/client": "shop", "client_id": "x"},
    )
    who = await Tokens(chosen, keys, clients).principal(token.encode())
    assert (who.client_id, who.tier, who.scopes) == ("shop", "pro", {Scope.DETECT, Scope.LOGS_READ})


async def test_a_token_is_checked_once_in_its_time_and_not_past_its_expiry(
    keys: KeySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(settings(jwt_leeway_seconds=0.0), keys, clients)
    token = signed(exp=int(time.time()) + 2).encode()
    counted = [0]
    decode = jwt.decode

    def counting(*given: Any, **named: Any) -> Any:
        counted[0] += 1
        return decode(*given, **named)

    monkeypatch.setattr(jwt, "decode", counting)
    for _ in range(5):
        await tokens.principal(token)
    assert counted[0] == 1
    monkeypatch.setattr("llmobs.access.tokens.time", lambda: NOW + 3600)  # past what is remembered
    monkeypatch.setattr(jwt, "decode", _expired)
    with pytest.raises(Unauthenticated, match="expired"):
        await tokens.principal(token)


def _expired(*_: Any, **__: Any) -> Any:
    raise jwt.ExpiredSignatureError
