"""The control tables as they are after the newest revision; knows nothing of who reads or writes them.

`alembic check` compares this with what the revisions build. Times are timestamptz, hashes lower-case hex.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

projection_generations = Table(
    "projection_generations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("schema_name", Text, nullable=False, unique=True),
    Column("fingerprint", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False, server_default=text("0")),
    Column("leaf", LargeBinary),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("status IN ('building', 'live', 'retired')", name="projection_generations_status"),
    Index("projection_generations_one_live", "name", unique=True, postgresql_where=text("status = 'live'")),
)
"""The projections' checkpoints: `sequence` of the last message applied, `leaf` its leaf hash (null at 0)."""

credentials = Table(
    "credentials",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("revoked_at", DateTime(timezone=True)),
    CheckConstraint("kind IN ('operator', 'api_key')", name="credentials_kind"),
)
"""Tokens by the SHA-256 of what their holder has."""

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("body_hash", Text, nullable=False),
    Column("status", Integer),
    Column("response", JSONB),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("idempotency_keys_oldest", "created_at"),
)
"""What a repeated request is answered with; `status` is null while the first one is in flight."""

registration_challenges = Table(
    "registration_challenges",
    metadata,
    Column("challenge", Text, primary_key=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("used_at", DateTime(timezone=True)),
    Index("registration_challenges_oldest", "expires_at"),
)
"""Drawn by the gateway, signed by a node's keys once."""

_LIVE = text("state IN ('signed', 'mined')")
chain_transactions = Table(
    "chain_transactions",
    metadata,
    Column("intent", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("sender", Text, nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("to_address", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("value_wei", Numeric(78, 0), nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("hash", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("state IN ('signed', 'mined', 'refused', 'lost')", name="chain_transactions_state"),
    Index("chain_transactions_one_live_per_intent", "intent", unique=True, postgresql_where=_LIVE),
    Index(
        "chain_transactions_one_live_per_nonce",
        "chain_id",
        "sender",
        "nonce",
        unique=True,
        postgresql_where=_LIVE,
    ),
)
"""What was signed for which intent; of its attempts only one may be signed (its fate open) or mined."""

vouchers = Table(
    "vouchers",
    metadata,
    Column("chain_id", BigInteger, primary_key=True, autoincrement=False),
    Column("asset", Text, primary_key=True),
    Column("payer", Text, primary_key=True),
    Column("nonce", Text, primary_key=True),
    Column("session_id", Text, nullable=False, unique=True),
    Column("pool_id", Text, nullable=False),
    Column("escrow", Text, nullable=False),
    Column("terms", JSONB, nullable=False),
    Column("voucher", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("state IN ('claimed', 'settled', 'failed')", name="vouchers_state"),
)
"""Every voucher that was taken: by whom, for which session, and what its escrow is made of."""
