"""Rows can be found by the person whom the request named, and deleted by class and age.

Revision: 0007, after 0006. 2026-11-23
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NAMED = ("detection_logs", "feedback", "judgements")
"""Tables whose rows may be of a person."""


def upgrade() -> None:
    where = sa.text("subject_key IS NOT NULL")
    for table in NAMED:
        op.add_column(table, sa.Column("subject_key", sa.Text(), nullable=True))
        op.create_index(
            f"ix_{table}_subject_key", table, ["subject_key"], postgresql_where=where, sqlite_where=where
        )
    op.create_index("ix_feedback_created_at", "feedback", ["created_at"])
    op.create_index("ix_idempotency_keys_request_id", "idempotency_keys", ["request_id"])
    op.create_index(
        "ix_detection_logs_failure_class_created_at", "detection_logs", ["failure_class", "created_at"]
    )
    op.drop_index("ix_detection_logs_failure_class", "detection_logs")
    op.create_table(
        "erased_subjects",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("subject_key", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_erased_subjects"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_erased_subjects_subject_key", "erased_subjects", ["subject_key"])
    op.create_index("ix_erased_subjects_erased_at", "erased_subjects", ["erased_at"])


def downgrade() -> None:
    op.drop_table("erased_subjects")
    op.create_index("ix_detection_logs_failure_class", "detection_logs", ["failure_class"])
    op.drop_index("ix_detection_logs_failure_class_created_at", "detection_logs")
    op.drop_index("ix_idempotency_keys_request_id", "idempotency_keys")
    op.drop_index("ix_feedback_created_at", "feedback")
    for table in NAMED:
        op.drop_index(f"ix_{table}_subject_key", table)
        op.drop_column(table, "subject_key")
