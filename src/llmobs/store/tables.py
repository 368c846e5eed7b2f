"""The tables. Only Alembic makes them; a test holds the migrations to this page."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC times on both databases; SQLite has no time zones, so it keeps plain UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; a naive time is refused, for nobody knows what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _id() -> Column[Any]:
    # SQLite counts up by itself only in a column called INTEGER.
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _json(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(
        name, JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql"), nullable=nullable
    )


def _of_persons(table: str) -> Index:
    """Only rows that name a person are in it, so all others are written at no cost."""
    named = text("subject_key IS NOT NULL")
    return Index(f"ix_{table}_subject_key", "subject_key", postgresql_where=named, sqlite_where=named)


detection_logs = Table(
    "detection_logs",
    metadata,
    _id(),
    Column("request_id", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("llm_response", Text, nullable=False),
    _json("context", nullable=True),
    Column("kind", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("blocked", Boolean, nullable=False),
    Column("tier_used", SmallInteger, nullable=False),
    Column("method", Text, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("processing_time_ms", Float, nullable=False),
    Column("failure_class", Text, nullable=True),
    Column("severity", Text, nullable=True),
    Column("explanation", Text, nullable=False),
    _json("scores"),
    _json("evidence"),
    _json("coverage"),
    Column("degraded", Boolean, nullable=False),
    Column("policy_id", Text, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("client_id", Text, nullable=True),
    Column("subject_key", Text, nullable=True),  # keyed hash of the person named, to erase by
    UniqueConstraint("request_id"),
    Index(None, "client_id", "id"),  # a client's own rows, newest first
    *(Index(None, name) for name in ("action", "blocked")),
    Index(None, "tier_used", "client_id"),  # all or one client's are counted by it alone
    Index(None, "created_at", "id"),  # which rows before a time came late is seen by it alone
    Index(None, "failure_class", "created_at"),  # what is kept for how long depends on the class
    _of_persons("detection_logs"),
    sqlite_autoincrement=True,  # no id is given twice, or a cursor could lead to another row
)

traffic_buckets = Table(
    "traffic_buckets",
    metadata,
    Column("bucket", Integer, nullable=False, autoincrement=False),
    Column("client_id", Text, nullable=False),  # '' where nobody is known
    Column("action", Text, nullable=False),
    Column("failure_class", Text, nullable=False),  # '' where none was found
    Column("tier_used", SmallInteger, nullable=False),
    Column("latency", SmallInteger, nullable=False),
    Column("verdicts", BigInteger, nullable=False),
    PrimaryKeyConstraint("bucket", "client_id", "action", "failure_class", "tier_used", "latency"),
)

rolled_buckets = Table(
    "rolled_buckets",
    metadata,
    Column("bucket", Integer, nullable=False, autoincrement=False),
    PrimaryKeyConstraint("bucket"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("client_id", Text, nullable=False),  # '' where nobody is known
    Column("key", Text, nullable=False),
    Column("body_sha256", LargeBinary, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("client_id", "key"),
    Index(None, "created_at"),
    Index(None, "request_id"),  # it goes with its verdict
)

system_metrics = Table(
    "system_metrics",
    metadata,
    _id(),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("total_detections", BigInteger, nullable=False),
    *(Column(f"tier{tier}_count", BigInteger, nullable=False) for tier in (1, 2, 3)),
    *(Column(f"tier{tier}_pct", Float, nullable=False) for tier in (1, 2, 3)),
    Column("is_healthy", Boolean, nullable=False),
    Column("health_message", Text, nullable=False),
    Index(None, "recorded_at"),
    Index(None, "is_healthy"),
)

judgements = Table(
    "judgements",
    metadata,
    Column("key", Text, primary_key=True),  # digest of question, prompt and model
    Column("value", LargeBinary, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("subject_key", Text, nullable=True),  # of the request that it was first made for
    Index(None, "expires_at"),
    _of_persons("judgements"),
)

feedback = Table(
    "feedback",
    metadata,
    _id(),
    Column("request_id", Text, nullable=False),
    Column("client_id", Text, nullable=True),  # of the verdict
    Column("created_at", UtcDateTime, nullable=False),
    Column("given_by", Text, nullable=False),
    Column("correct", Boolean, nullable=False),
    Column("true_class", Text, nullable=True),  # null: harmless
    Column("note", Text, nullable=False),
    # The verdict as it was, so that precision can be told without a join.
    Column("action", Text, nullable=False),
    Column("failure_class", Text, nullable=True),
    Column("subject_key", Text, nullable=True),  # of the verdict, which may be gone sooner
    UniqueConstraint("request_id"),
    Index(None, "client_id", "id"),
    Index(None, "created_at"),
    _of_persons("feedback"),
    sqlite_autoincrement=True,
)

erased_subjects = Table(
    "erased_subjects",
    metadata,
    _id(),
    Column("subject_key", Text, nullable=False),
    Column("client_id", Text, nullable=True),  # null: the rows of all clients
    Column("erased_at", UtcDateTime, nullable=False),  # what was made until then is not written any more
    Index(None, "subject_key"),
    Index(None, "erased_at"),
    sqlite_autoincrement=True,
)

audit_log = Table(
    "audit_log",
    metadata,
    # Counted by us, without gaps. Triggers refuse every change and deletion.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Index(None, "action", "target"),
)

clients = Table(
    "clients",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("policy", Text, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("disabled_at", UtcDateTime, nullable=True),
)

client_readers = Table(
    "client_readers",
    metadata,
    Column("client_id", Text, ForeignKey("clients.id"), nullable=False),  # whose rows
    Column("reader_id", Text, ForeignKey("clients.id"), nullable=False),  # may be read by whom as well
    PrimaryKeyConstraint("client_id", "reader_id"),
    Index(None, "reader_id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),  # stands in the key in the clear
    Column("client_id", Text, ForeignKey("clients.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),  # keyed with a pepper that is not in the database
    _json("scopes"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
    Column("revoked_at", UtcDateTime, nullable=True),
    Column("last_used_at", UtcDateTime, nullable=True),
    Column("replaced_by", Text, nullable=True),
    Index(None, "client_id"),
)

rate_windows = Table(
    "rate_windows",
    metadata,
    Column("client_id", Text, nullable=False),
    Column("meter", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),  # microseconds since 1970
    Column("used", BigInteger, nullable=False),
    Column("burst_at", BigInteger, nullable=False),
    Column("burst_used", BigInteger, nullable=False),
    Column("granted", BigInteger, nullable=False),  # by the last statement, which reads it back
    PrimaryKeyConstraint("client_id", "meter"),
)
