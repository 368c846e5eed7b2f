"""The environment, read once. Every setting is declared here, with its meaning, and nowhere else."""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_type_hints

import msgspec
from msgspec import Meta

from llmobs.errors import SettingsInvalid


class StoreText(StrEnum):
    """How much of the examined text is kept."""

    REDACTED = "redacted"
    FULL = "full"
    HASH = "hash"


class AuthMode(StrEnum):
    """Which credentials callers must show."""

    NONE = "none"
    KEYS = "keys"
    JWT = "jwt"
    KEYS_JWT = "keys+jwt"

    @property
    def takes_keys(self) -> bool:
        """Whether API keys let callers in."""
        return self in {AuthMode.KEYS, AuthMode.KEYS_JWT}

    @property
    def takes_tokens(self) -> bool:
        """Whether bearer tokens of an identity provider let callers in."""
        return self in {AuthMode.JWT, AuthMode.KEYS_JWT}


class StoreOnFailure(StrEnum):
    """What happens to a verdict that the database does not take."""

    SPOOL = "spool"
    REFUSE = "refuse"
    ANSWER = "answer"


class Synchronous(StrEnum):
    """SQLite's `synchronous` in WAL mode."""

    FULL = "full"
    NORMAL = "normal"


Positive = Meta(gt=0)

# The names of long standing carry no prefix; all others start with LLMOBS_.
UNPREFIXED = frozenset(
    {
        "database_url",
        "api_host",
        "api_port",
        "api_workers",
        "log_level",
        "log_format",
        "max_text_chars",
        "store_text",
        "store_on_failure",
        "groq_api_key",
        "ollama_base_url",
        "judge_base_url",
        "judge_api_key",
        "judge_model",
    }
)
# Read by the tests and the data tools, not by the service.
SECRETS = frozenset({"database_url", "rate_store", "groq_api_key", "judge_api_key", "subject_pepper"})
"""Settings that are a secret or may hold one. Each can come from a file; the pepper's is a setting itself."""
MASKED = "***"
FOREIGN = ("LLMOBS_TEST_", "LLMOBS_DATA")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings with their defaults."""

    database_url: Annotated[
        str, Meta(description="Database: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`.")
    ] = "sqlite:///var/llmobs.db"
    api_host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    api_port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on.")] = 8000
    api_workers: Annotated[int, Meta(ge=1, le=64, description="Worker processes.")] = 1
    drain_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="After SIGTERM, how long `/health/ready` answers 503 while requests are still taken, so that "
            "balancers send them elsewhere; then what is under way is answered. SIGINT or a second SIGTERM: no wait.",
        ),
    ] = 5.0
    recycle_requests: Annotated[
        int,
        Meta(
            ge=0,
            description="Requests after which a worker is replaced by a new one (a tenth more or less, so that "
            "workers take turns); 0: never.",
        ),
    ] = 0
    recycle_megabytes: Annotated[
        float,
        Meta(
            ge=0,
            description="Resident memory, in 10^6 bytes, past which a worker is replaced; there is room to be for two "
            "meanwhile. 0: never.",
        ),
    ] = 0.0
    log_level: Annotated[
        str, Meta(pattern="^(debug|info|warning|error)$", description="`debug`, `info`, `warning`, `error`.")
    ] = "info"
    log_format: Annotated[str, Meta(pattern="^(json|console)$", description="`json` or `console`.")] = "json"
    max_text_chars: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Longest `llm_response`, in code points; longer is 413.")
    ] = 50_000
    store_text: Annotated[
        StoreText,
        Meta(
            description="How texts are kept: `redacted` (secrets and personal data masked), `full`, "
            "`hash` (SHA-256 only)."
        ),
    ] = StoreText.REDACTED
    store_on_failure: Annotated[
        StoreOnFailure,
        Meta(
            description="When the database takes no rows: `spool` (keep in a durable local file, drain later), "
            "`refuse` (503), `answer` (answer with `recorded` false)."
        ),
    ] = StoreOnFailure.SPOOL
    max_context_bytes: Annotated[
        int, Meta(ge=2, le=16_777_216, description="Largest `context`, in bytes of JSON; larger is 413.")
    ] = 65_536
    auth_mode: Annotated[
        AuthMode,
        Meta(description="Credentials that callers must show: `none`, `keys`, `jwt`, `keys+jwt`."),
    ] = AuthMode.NONE
    auth_none_anywhere: Annotated[
        bool,
        Meta(
            description="Let the service listen beyond this machine with `LLMOBS_AUTH_MODE=none`: whoever reaches the "
            "port may then do everything. For networks that keep others out by themselves."
        ),
    ] = False
    auth_cache_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long a key that was found good is believed without another look. A revocation takes at "
            "most that long to reach every process.",
        ),
    ] = 30.0
    auth_outage_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="How long it is believed at most while the database does not answer.",
        ),
    ] = 600.0
    session_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=2_592_000,
            description="How long somebody stays signed in to the web page at most; 0: nobody signs in, and a key "
            "lives in the page's memory. Sessions need LLMOBS_KEY_PEPPER.",
        ),
    ] = 28_800.0
    key_pepper: Annotated[
        str,
        Meta(
            description="Secret of at least 32 characters that API keys are hashed with, the same in every process. "
            "Change it and all keys are void."
        ),
    ] = ""
    key_pepper_file: Annotated[str, Meta(description="File that holds that secret instead.")] = ""
    subject_pepper: Annotated[
        str,
        Meta(
            description="Secret of at least 32 characters that `context.subject_id` is hashed with, the same in every "
            "process, so that a person's rows can be erased. Change it and earlier rows are not found any more. "
            "Empty: ids are dropped and nobody can be erased by them."
        ),
    ] = ""
    jwt_jwks: Annotated[
        str,
        Meta(
            description="Keys of the identity provider (JWKS): a file, or an `https://` URL (`http://` on loopback only)."
        ),
    ] = ""
    jwt_issuer: Annotated[str, Meta(description="`iss` that tokens must have.")] = ""
    jwt_audience: Annotated[
        str, Meta(description="Comma-separated `aud` values; a token must have one of them.")
    ] = ""
    jwt_algorithms: Annotated[
        str,
        Meta(description="Comma-separated signature algorithms that are taken; only asymmetric ones can be."),
    ] = "RS256,ES256,EdDSA"
    jwt_client_claim: Annotated[
        str, Meta(description="Claim that names the client; dots lead into objects.")
    ] = "client_id"
    jwt_scopes_claim: Annotated[
        str,
        Meta(description="Claim with scopes, as a list or parted by spaces; others than ours are ignored."),
    ] = "scope"
    jwt_roles_claim: Annotated[
        str,
        Meta(
            description="Claim with roles (`admin`, `user`, `viewer`), likewise, for example `realm_access.roles`."
        ),
    ] = "roles"
    jwt_leeway_seconds: Annotated[
        float, Meta(ge=0, le=600, description="How far the provider's clock may be off.")
    ] = 30.0
    jwt_jwks_seconds: Annotated[
        float,
        Meta(
            ge=1, description="How long the keys are kept; a token with an unknown key asks for them sooner."
        ),
    ] = 300.0
    rate_limits: Annotated[bool, Meta(description="Hold known clients to the allowances of their tiers.")] = (
        True
    )
    rate_store: Annotated[
        str,
        Meta(
            description="Where allowances are counted: `memory` (one process), `database`, or `redis://HOST:6379/0` for "
            "Valkey or Redis. Empty: in memory for one worker on SQLite, else in the database."
        ),
    ] = ""
    tiers_file: Annotated[
        str, Meta(description="TOML file of your own rate-limit tiers, in place of the built-in ones.")
    ] = ""
    metrics_open: Annotated[
        bool,
        Meta(description="Answer `/metrics` without credentials, whatever `LLMOBS_AUTH_MODE` is."),
    ] = False
    cors_origins: Annotated[
        str, Meta(description="Comma-separated origins that browsers may call from. Empty: CORS is off.")
    ] = ""
    rules_dir: Annotated[
        str, Meta(description="Folder of your own rule packs (`*.toml`), loaded beside the built-in ones.")
    ] = ""
    rules_exclude: Annotated[
        str,
        Meta(
            description="Comma-separated rule ids that are not to run here; a trailing `*` matches the rest."
        ),
    ] = ""
    policies_dir: Annotated[
        str, Meta(description="Folder of your own policies (`*.toml`); one with a built-in's id replaces it.")
    ] = ""
    default_policy: Annotated[str, Meta(description="Policy for requests that name none.")] = "default"
    strict_mode: Annotated[
        bool, Meta(description="Block where the policy would warn about a class of medium severity.")
    ] = False
    reload_seconds: Annotated[
        float, Meta(ge=0, description="How often rule and policy folders are looked at; 0: only on SIGHUP.")
    ] = 2.0
    retention_days: Annotated[
        int, Meta(ge=0, description="Days that `detection_logs` rows are kept; 0: for ever.")
    ] = 90
    retention_classes: Annotated[
        str,
        Meta(
            description="Days for verdicts of single classes instead, comma-separated: `secret_leak=7,pii_leak=7,none=30`; "
            "`none`: no class was found."
        ),
    ] = ""
    retention_feedback_days: Annotated[
        int, Meta(ge=0, description="Days that `feedback` rows are kept; 0: for ever.")
    ] = 365
    snapshot_seconds: Annotated[
        float, Meta(ge=0, description="How often a row goes to `system_metrics`; 0: never.")
    ] = 60.0
    journal_linger_ms: Annotated[
        float,
        Meta(ge=0, le=1000, description="How long a busy journal gathers verdicts before it writes them."),
    ] = 2.0
    journal_max_pending: Annotated[
        int, Meta(ge=1, description="Verdicts that may wait for the database; past that requests get 503.")
    ] = 4096
    journal_max_chars: Annotated[
        int,
        Meta(ge=1024, description="Characters of text that these may hold together, likewise."),
    ] = 67_108_864
    journal_max_wait_ms: Annotated[
        float,
        Meta(
            gt=0,
            description="While more than 64 verdicts wait for their transaction, and the first has waited "
            "longer than this, requests get 503.",
        ),
    ] = 100.0
    max_in_flight: Annotated[
        int, Meta(ge=1, description="Requests of one text inside at a time, of one process; past that 503.")
    ] = 1024
    queue_ms: Annotated[
        float,
        Meta(
            gt=0,
            description="How long a text may be expected to wait for examination, and the first in the queue have waited, before new "
            "requests get 503.",
        ),
    ] = 50.0
    body_timeout_seconds: Annotated[
        float, Meta(gt=0, description="How long the body of a request may take to come; longer is 408.")
    ] = 10.0
    request_timeout_seconds: Annotated[
        float, Meta(gt=0, description="Deadline of a whole request; past that it is answered 503.")
    ] = 30.0
    spool_dir: Annotated[str, Meta(description="Folder of the spool file.")] = "var/spool"
    spool_max_bytes: Annotated[
        int, Meta(ge=4096, description="Largest spool file; past that requests get 503.")
    ] = 268_435_456
    database_pool_size: Annotated[
        int, Meta(ge=1, le=100, description="Connections a process opens to PostgreSQL.")
    ] = 5
    database_timeout_seconds: Annotated[
        float, Meta(gt=0, description="Longest wait for a connection or a commit.")
    ] = 5.0
    sqlite_synchronous: Annotated[
        Synchronous,
        Meta(
            description="`full`: an acknowledged verdict survives a power cut; `normal`: it survives the death of "
            "the process only, and commits cost less."
        ),
    ] = Synchronous.FULL
    encoder: Annotated[
        bool, Meta(description="Use the trained detectors: the lexical classifier and all of tier 2.")
    ] = True
    encoder_threads: Annotated[
        int, Meta(ge=0, le=64, description="Threads that run the encoder; 0: one a core, at most four.")
    ] = 0
    heads_dir: Annotated[
        str, Meta(description="Folder of trained files to use in place of those in the package.")
    ] = ""
    result_cache_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Memory of a process for verdicts on texts that come again (same text, context, policy "
            "and client); 0: every text is examined.",
        ),
    ] = 16_777_216
    tier2_timeout_ms: Annotated[float, Meta(gt=0, description="Deadline of tier 2 for one request.")] = 1000.0
    tier2_queue_ms: Annotated[
        float,
        Meta(
            gt=0,
            description="How long a single text may be expected to wait for a thread of the encoder; past that "
            "tier 2 reports a failure at once, and the policy's `on_failure` decides.",
        ),
    ] = 150.0
    tier3_timeout_ms: Annotated[float, Meta(gt=0, description="Deadline of tier 3 for one request.")] = (
        10_000.0
    )
    canary_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="How often known samples are sent through tiers 1 and 2 of each process; 0: never.",
        ),
    ] = 60.0
    canary_judge_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="How often one known sample is sent to the judge, all processes of this service "
            "together: each is a paid call; 0: never.",
        ),
    ] = 300.0
    canary_required: Annotated[
        bool, Meta(description="Whether `/health/ready` fails while a canary of tier 1 or 2 fails.")
    ] = False

    groq_api_key: Annotated[str, Meta(description="Key of Groq. Empty: Groq is not asked.")] = ""
    groq_model: Annotated[str, Meta(description="Model at Groq.")] = "openai/gpt-oss-20b"
    groq_base_url: Annotated[str, Meta(description="Where Groq's API lives.")] = (
        "https://api.groq.com/openai/v1"
    )
    judge_base_url: Annotated[
        str, Meta(description="Any server with the OpenAI chat API, for example `http://host:8080/v1`.")
    ] = ""
    judge_api_key: Annotated[str, Meta(description="Key of that server, where it wants one.")] = ""
    judge_model: Annotated[str, Meta(description="Model at `JUDGE_BASE_URL`; needed with it.")] = ""
    ollama_base_url: Annotated[
        str, Meta(description="Ollama, for example `http://127.0.0.1:11434`. Empty: it is not asked.")
    ] = ""
    ollama_model: Annotated[str, Meta(description="Model at Ollama.")] = "llama3.1:8b"
    judge_order: Annotated[
        str,
        Meta(description="Which of `groq`, `openai` (`JUDGE_BASE_URL`), `ollama` are asked, in this order."),
    ] = "groq,openai,ollama"
    judge_required: Annotated[
        bool, Meta(description="Whether `/health/ready` fails while no provider of the judge is there.")
    ] = False
    judge_probe_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            description="How often the judge's providers are looked at, for `/health/ready` and "
            "`detection_tier_ready`; no completion is asked for.",
        ),
    ] = 15.0
    judge_call_timeout_ms: Annotated[float, Meta(gt=0, description="Deadline of one call to a provider.")] = (
        4000.0
    )
    judge_hedge: Annotated[
        bool, Meta(description="Start the next provider when one takes longer than its 95th percentile.")
    ] = False
    judge_concurrency: Annotated[
        int, Meta(ge=1, le=1000, description="Calls to providers at a time, of one process.")
    ] = 8
    judge_queue: Annotated[
        int, Meta(ge=0, description="Calls that may wait for their turn; past that the judge fails at once.")
    ] = 64
    judge_calls_per_minute: Annotated[
        int, Meta(ge=0, description="Calls a minute, all processes of this service together; 0: no limit.")
    ] = 600
    judge_tokens_per_minute: Annotated[
        int, Meta(ge=0, description="Tokens a minute, likewise; 0: no limit.")
    ] = 0
    judge_client_calls_per_minute: Annotated[
        int, Meta(ge=0, description="Calls a minute for one client; 0: no limit.")
    ] = 0
    judge_client_tokens_per_minute: Annotated[
        int, Meta(ge=0, description="Tokens a minute for one client; 0: no limit.")
    ] = 0
    judge_prices: Annotated[
        str,
        Meta(
            description="US dollars for a million tokens in and out, by model, comma-separated: "
            "`llama3.1:8b=0/0,openai/gpt-oss-20b=0.1/0.5`. A model without a price has no cost in the record."
        ),
    ] = ""
    judge_votes: Annotated[
        int, Meta(ge=1, le=9, description="How often each question is put; the mean of the answers counts.")
    ] = 1
    judge_vote_temperature: Annotated[
        float, Meta(ge=0, le=2, description="Temperature where there are several votes; one vote has 0.")
    ] = 0.7
    judge_max_chars: Annotated[
        int, Meta(ge=500, le=200_000, description="Most characters of a text, and of its context, shown.")
    ] = 8000
    judge_redact: Annotated[
        bool, Meta(description="Mask secrets and personal data in what the judge is shown.")
    ] = True
    judge_cache_size: Annotated[
        int, Meta(ge=0, description="Judgements kept in memory, of one process; 0: none.")
    ] = 10_000
    judge_cache_seconds: Annotated[
        float,
        Meta(ge=0, description="How long a judgement holds, in memory and in the database; 0: none is kept."),
    ] = 86_400.0
    judge_prompts_dir: Annotated[
        str, Meta(description="Folder of your own prompt families (`*.md`), beside the built-in ones.")
    ] = ""
    judge_calibration: Annotated[
        str, Meta(description="File that `llmobs judge check --calibrate` wrote.")
    ] = ""
    judge_breaker_failures: Annotated[
        int, Meta(ge=1, description="Failures in a row that open a provider's breaker.")
    ] = 5
    judge_breaker_seconds: Annotated[
        float, Meta(gt=0, description="How long an open breaker rests; doubled after each failed trial.")
    ] = 5.0
    judge_drain_seconds: Annotated[
        float, Meta(ge=0, description="How long the shutdown waits for calls that are under way.")
    ] = 5.0

    @property
    def cors(self) -> tuple[str, ...]:
        """The allowed origins."""
        return _listed(self.cors_origins)

    @property
    def excluded_rules(self) -> tuple[str, ...]:
        """The ids, or prefixes with a trailing `*`, of rules that do not run here."""
        return _listed(self.rules_exclude)

    @property
    def audiences(self) -> tuple[str, ...]:
        """The `aud` values that are taken."""
        return _listed(self.jwt_audience)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The signature algorithms that are taken."""
        return _listed(self.jwt_algorithms)

    @property
    def tiers_path(self) -> Path | None:
        """The operator's rate-limit tiers."""
        return Path(self.tiers_file) if self.tiers_file else None

    @property
    def rules_path(self) -> Path | None:
        """The operator's rule folder."""
        return Path(self.rules_dir) if self.rules_dir else None

    @property
    def heads_path(self) -> Path | None:
        """The operator's trained files."""
        return Path(self.heads_dir) if self.heads_dir else None

    @property
    def policies_path(self) -> Path | None:
        """The operator's policy folder."""
        return Path(self.policies_dir) if self.policies_dir else None


def _listed(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def env_name(field: str) -> str:
    """The environment variable of a setting."""
    return field.upper() if field in UNPREFIXED else f"LLMOBS_{field.upper()}"


def file_name(field: str) -> str:
    """The environment variable that names a file with the value of a secret setting."""
    return f"{env_name(field)}_FILE"


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings; an unknown `LLMOBS_*` name or a bad value raises SettingsInvalid."""
    hints = get_type_hints(Settings, include_extras=True)
    names = {env_name(field): field for field in Settings.__struct_fields__}
    files = {file_name(field) for field in SECRETS}
    for name in environ:
        if name.startswith("LLMOBS_") and name not in {*names, *files} and not name.startswith(FOREIGN):
            raise SettingsInvalid(f"{name} is no setting; docs/settings.md lists them")
    values: dict[str, object] = {}
    for name, field in names.items():
        given = _given(environ, field)
        if not given:
            continue
        if hints[field].__origin__ is bool:
            given = given.lower()
        if field in {"log_level", "log_format"}:
            given = given.lower()
        try:
            values[field] = msgspec.convert(given, hints[field], strict=False)
        except msgspec.ValidationError as error:
            raise SettingsInvalid(f"{name}: {error}") from None
    return Settings(**values)  # type: ignore[arg-type]  # each value was converted to its field's type


def _given(environ: Mapping[str, str], field: str) -> str:
    """What the environment says of a setting, itself or by a file; empty: nothing."""
    name = env_name(field)
    given, path = environ.get(name, ""), _path_of(environ, field)
    if not path:
        return given
    if given:
        raise SettingsInvalid(f"{name} and {name}_FILE are both set; one is enough")
    try:
        found = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{name}_FILE cannot be read: {type(error).__name__}") from None
    if not found:
        raise SettingsInvalid(f"{name}_FILE names an empty file")
    return found


def _path_of(environ: Mapping[str, str], field: str) -> str:
    return environ.get(file_name(field), "") if field in SECRETS else ""


class Effective(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as it is in force, fit to be shown."""

    name: str
    value: str
    """Without secrets, and without the credentials in an address."""
    source: str
    """`default`, `environment`, or `file PATH`."""


def effective(environ: Mapping[str, str]) -> tuple[Effective, ...]:
    """Every setting with its source, secrets masked. Raises SettingsInvalid like `load_settings`."""
    settings = load_settings(environ)
    found = []
    for field in Settings.__struct_fields__:
        path = _path_of(environ, field)
        source = "environment" if environ.get(env_name(field)) else "default"
        found.append(
            Effective(
                name=env_name(field),
                value=_shown(field, msgspec.to_builtins(getattr(settings, field))),
                source=f"file {path}" if path else source,
            )
        )
    return tuple(found)


def _shown(field: str, value: object) -> str:
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    if "://" not in shown:
        return MASKED if field in SECRETS | {"key_pepper"} and shown else shown
    # To the last @, for a password may hold one; a query may hold a password as well.
    shown = re.sub(r"://.*@", f"://{MASKED}@", shown, flags=re.DOTALL)
    return re.sub(r"\?.*", f"?{MASKED}", shown, flags=re.DOTALL)
