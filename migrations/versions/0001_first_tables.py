"""Verdicts, idempotency keys and snapshots of the figures.

Revision: 0001, the first. 2026-11-23
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _id() -> sa.Column:
    return sa.Column(
        "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True
    )


def _json(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=nullable)


def _time(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def upgrade() -> None:
    op.create_table(
        "detection_logs",
        _id(),
        sa.Column("request_id", sa.Text(), nullable=False),
        _time("created_at"),
        sa.Column("llm_response", sa.Text(), nullable=False),
        _json("context", nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("blocked", sa.Boolean(), nullable=False),
        sa.Column("tier_used", sa.SmallInteger(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("processing_time_ms", sa.Float(), nullable=False),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("severity", sa.Text(), nullable=True),
        sa.Column("explanation", sa.Text(), nullable=False),
        _json("scores"),
        _json("evidence"),
        _json("coverage"),
        sa.Column("degraded", sa.Boolean(), nullable=False),
        sa.Column("policy_id", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.UniqueConstraint("request_id", name="uq_detection_logs_request_id"),
        sa.PrimaryKeyConstraint("id", name="pk_detection_logs"),
        sqlite_autoincrement=True,
    )
    for name in ("action", "tier_used", "blocked", "failure_class", "created_at"):
        op.create_index(f"ix_detection_logs_{name}", "detection_logs", [name])
    op.create_table(
        "idempotency_keys",
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("client_id", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "system_metrics",
        _id(),
        _time("recorded_at"),
        sa.Column("total_detections", sa.BigInteger(), nullable=False),
        sa.Column("tier1_count", sa.BigInteger(), nullable=False),
        sa.Column("tier2_count", sa.BigInteger(), nullable=False),
        sa.Column("tier3_count", sa.BigInteger(), nullable=False),
        sa.Column("tier1_pct", sa.Float(), nullable=False),
        sa.Column("tier2_pct", sa.Float(), nullable=False),
        sa.Column("tier3_pct", sa.Float(), nullable=False),
        sa.Column("is_healthy", sa.Boolean(), nullable=False),
        sa.Column("health_message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_system_metrics"),
    )
    for name in ("recorded_at", "is_healthy"):
        op.create_index(f"ix_system_metrics_{name}", "system_metrics", [name])


def downgrade() -> None:
    op.drop_table("system_metrics")
    op.drop_table("idempotency_keys")
    op.drop_table("detection_logs")
