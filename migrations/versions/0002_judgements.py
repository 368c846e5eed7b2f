"""What the judge has decided already, shared by all replicas.

Revision: 0002, after 0001. 2026-11-23
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "judgements",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_judgements"),
    )
    op.create_index("ix_judgements_expires_at", "judgements", ["expires_at"])


def downgrade() -> None:
    op.drop_table("judgements")
