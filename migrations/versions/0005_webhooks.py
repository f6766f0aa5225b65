"""Callbacks that came in, capabilities that are used up, and what was told to callback addresses.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhook_inbox",
        sa.Column("number", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("proof", sa.Text, primary_key=True),
        sa.Column("delivery", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text),
        sa.Column("execution", sa.Text, nullable=False),
        sa.Column("run_key", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("transaction_hash", sa.Text),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("outcome", sa.Text),
        sa.Column("marked_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "outcome IN ('applied', 'stale', 'mismatch', 'unknown_run')", name="webhook_inbox_outcome"
        ),
    )
    op.create_index(
        "webhook_inbox_open", "webhook_inbox", ["number"], postgresql_where=sa.text("outcome IS NULL")
    )
    op.create_index("webhook_inbox_oldest", "webhook_inbox", ["received_at"])
    op.create_table(
        "webhook_tokens",
        sa.Column("nonce", sa.Text, primary_key=True),
        sa.Column("event", sa.Text, primary_key=True),
        sa.Column("burnt_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_index("webhook_tokens_oldest", "webhook_tokens", ["burnt_at"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("number", sa.BigInteger, sa.Identity(), nullable=False, unique=True),
        sa.Column("delivery", sa.Text, primary_key=True),
        sa.Column("execution", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "webhook_attempts",
        sa.Column("delivery", sa.Text, sa.ForeignKey("webhook_deliveries.delivery"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("ms", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )


def downgrade() -> None:
    op.drop_table("webhook_attempts")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhook_tokens")
    op.drop_table("webhook_inbox")
