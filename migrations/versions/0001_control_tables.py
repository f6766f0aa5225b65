"""Generations and checkpoints, credentials, idempotency keys, registration challenges.

Revision ID: 0001
Revises:
"""

from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    default = None if nullable else sa.func.now()
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def upgrade() -> None:
    op.create_table(
        "projection_generations",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("schema_name", sa.Text, nullable=False, unique=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("leaf", sa.LargeBinary),
        _moment("created_at"),
        _moment("moved_at"),
        sa.CheckConstraint("status IN ('building', 'live', 'retired')", name="projection_generations_status"),
    )
    op.create_index(
        "projection_generations_one_live",
        "projection_generations",
        ["name"],
        unique=True,
        postgresql_where=sa.text("status = 'live'"),
    )
    op.create_table(
        "credentials",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False, unique=True),
        _moment("created_at"),
        _moment("revoked_at", nullable=True),
        sa.CheckConstraint("kind IN ('operator', 'api_key')", name="credentials_kind"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("body_hash", sa.Text, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("response", JSONB),
        _moment("created_at"),
    )
    op.create_index("idempotency_keys_oldest", "idempotency_keys", ["created_at"])
    op.create_table(
        "registration_challenges",
        sa.Column("challenge", sa.Text, primary_key=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        _moment("used_at", nullable=True),
    )
    op.create_index("registration_challenges_oldest", "registration_challenges", ["expires_at"])


def downgrade() -> None:
    """Also forgets the projections' checkpoints; the generations' schemas stay until dropped by hand."""
    op.drop_table("registration_challenges")
    op.drop_table("idempotency_keys")
    op.drop_table("credentials")
    op.drop_table("projection_generations")
