"""Who may call: clients, their API keys, and who reads whose rows.

Revision: 0003, after 0002. 2026-11-23
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    when = sa.DateTime(timezone=True)
    json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    op.create_table(
        "clients",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("created_at", when, nullable=False),
        sa.Column("disabled_at", when, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_clients"),
    )
    op.create_table(
        "client_readers",
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("reader_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_client_readers_client_id_clients"),
        sa.ForeignKeyConstraint(["reader_id"], ["clients.id"], name="fk_client_readers_reader_id_clients"),
        sa.PrimaryKeyConstraint("client_id", "reader_id", name="pk_client_readers"),
    )
    op.create_index("ix_client_readers_reader_id", "client_readers", ["reader_id"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", json, nullable=False),
        sa.Column("created_at", when, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", when, nullable=True),
        sa.Column("revoked_at", when, nullable=True),
        sa.Column("last_used_at", when, nullable=True),
        sa.Column("replaced_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_api_keys_client_id_clients"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_client_id", "api_keys", ["client_id"])
    op.create_index("ix_detection_logs_client_id_id", "detection_logs", ["client_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_detection_logs_client_id_id", "detection_logs")
    op.drop_table("api_keys")
    op.drop_table("client_readers")
    op.drop_table("clients")
