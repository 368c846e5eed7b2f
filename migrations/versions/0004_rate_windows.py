"""What clients have used of their allowances, counted by all processes together.

Revision: 0004, after 0003. 2026-11-23
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rate_windows",
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("burst_at", sa.BigInteger(), nullable=False),
        sa.Column("burst_used", sa.BigInteger(), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("client_id", "meter", name="pk_rate_windows"),
    )


def downgrade() -> None:
    op.drop_table("rate_windows")
