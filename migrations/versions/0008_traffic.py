"""Verdicts are counted by stretches of time, so that an overview of a month costs no walk through the log.

Revision: 0008, after 0007. 2026-11-23
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "traffic_buckets",
        sa.Column("bucket", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("failure_class", sa.Text(), nullable=False),
        sa.Column("tier_used", sa.SmallInteger(), nullable=False),
        sa.Column("latency", sa.SmallInteger(), nullable=False),
        sa.Column("verdicts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "bucket",
            "client_id",
            "action",
            "failure_class",
            "tier_used",
            "latency",
            name="pk_traffic_buckets",
        ),
    )
    op.create_table(
        "rolled_buckets",
        sa.Column("bucket", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("bucket", name="pk_rolled_buckets"),
    )
    op.create_index("ix_detection_logs_tier_used_client_id", "detection_logs", ["tier_used", "client_id"])
    op.create_index("ix_detection_logs_created_at_id", "detection_logs", ["created_at", "id"])
    op.drop_index("ix_detection_logs_tier_used", "detection_logs")
    op.drop_index("ix_detection_logs_created_at", "detection_logs")


def downgrade() -> None:
    op.create_index("ix_detection_logs_created_at", "detection_logs", ["created_at"])
    op.create_index("ix_detection_logs_tier_used", "detection_logs", ["tier_used"])
    op.drop_index("ix_detection_logs_created_at_id", "detection_logs")
    op.drop_index("ix_detection_logs_tier_used_client_id", "detection_logs")
    op.drop_table("rolled_buckets")
    op.drop_table("traffic_buckets")
