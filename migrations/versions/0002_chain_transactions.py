"""The journal of transactions: what was signed for which intent, and what became of it.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LIVE = sa.text("state IN ('signed', 'mined')")


def upgrade() -> None:
    op.create_table(
        "chain_transactions",
        sa.Column("intent", sa.Text, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("chain_id", sa.BigInteger, nullable=False),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("nonce", sa.BigInteger, nullable=False),
        sa.Column("to_address", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("value_wei", sa.Numeric(78, 0), nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint(
            "state IN ('signed', 'mined', 'refused', 'lost')", name="chain_transactions_state"
        ),
    )
    op.create_index(
        "chain_transactions_one_live_per_intent",
        "chain_transactions",
        ["intent"],
        unique=True,
        postgresql_where=LIVE,
    )
    op.create_index(
        "chain_transactions_one_live_per_nonce",
        "chain_transactions",
        ["chain_id", "sender", "nonce"],
        unique=True,
        postgresql_where=LIVE,
    )


def downgrade() -> None:
    op.drop_table("chain_transactions")
