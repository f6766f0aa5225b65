"""The control tables as they are after the newest revision; knows nothing of who reads or writes them.

`alembic check` compares this with what the revisions build. Times are timestamptz, hashes lower-case hex.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
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

runner_workflows = Table(
    "runner_workflows",
    metadata,
    Column("workflow_id", Text, primary_key=True),
    Column("content_hash", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("definition", Text, nullable=False),
    Column("ensured_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
"""Every content that a workflow ever had: an execution goes on with the one it began with."""

runner_executions = Table(
    "runner_executions",
    metadata,
    Column("number", BigInteger, Identity(), nullable=False),
    Column("execution_id", Text, primary_key=True),
    Column("workflow_id", Text, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("input_hash", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("output", Text),
    Column("error", Text),
    Column("started_unix_ms", BigInteger, nullable=False),
    Column("ended_unix_ms", BigInteger),
    UniqueConstraint("workflow_id", "idempotency_key", name="runner_executions_key"),
    ForeignKeyConstraint(
        ["workflow_id", "content_hash"],
        ["runner_workflows.workflow_id", "runner_workflows.content_hash"],
        name="runner_executions_workflow",
    ),
    CheckConstraint(
        "status IN ('running', 'success', 'error', 'cancelled')", name="runner_executions_status"
    ),
    Index("runner_executions_running", "number", postgresql_where=text("status = 'running'")),
)
"""Executions by the embedded runner; JSON as text, whose keys keep their order."""

runner_nodes = Table(
    "runner_nodes",
    metadata,
    Column("number", BigInteger, Identity(), nullable=False),
    Column("execution_id", Text, ForeignKey("runner_executions.execution_id"), primary_key=True),
    Column("node_id", Text, primary_key=True),
    Column("iteration", Text, primary_key=True),
    Column("node_name", Text, nullable=False),
    Column("node_type", Text, nullable=False),
    Column("ending", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("output", Text),
    Column("error", Text),
    Column("transaction_hash", Text),
    Column("chain_id", BigInteger),
    Column("started_unix_ms", BigInteger, nullable=False),
    Column("ended_unix_ms", BigInteger, nullable=False),
    CheckConstraint("ending IN ('done', 'failed', 'threw')", name="runner_nodes_ending"),
)
"""What became of each node, written once: a node that stands here is not run again."""

runner_state = Table(
    "runner_state",
    metadata,
    Column("workflow_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("written_by", Text, nullable=False),
    Column("expires_unix_ms", BigInteger),
)
"""A workflow's own values (State Get, State Set); `written_by`: the step, whose repetition changes nothing.
"""

webhook_inbox = Table(
    "webhook_inbox",
    metadata,
    Column("number", BigInteger, Identity(), nullable=False),
    Column("proof", Text, primary_key=True),
    Column("delivery", Text, primary_key=True),
    Column("key_id", Text),
    Column("execution", Text, nullable=False),
    Column("run_key", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("transaction_hash", Text),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("outcome", Text),
    Column("marked_at", DateTime(timezone=True)),
    CheckConstraint(
        "outcome IN ('applied', 'stale', 'mismatch', 'unknown_run')", name="webhook_inbox_outcome"
    ),
    Index("webhook_inbox_open", "number", postgresql_where=text("outcome IS NULL")),
    Index("webhook_inbox_oldest", "received_at"),
)
"""Callbacks that proved who sends them, each once: `proof` is `signature` or a capability's nonce.

`outcome`: what the keeper made of it; null until it has looked.
"""

webhook_tokens = Table(
    "webhook_tokens",
    metadata,
    Column("nonce", Text, primary_key=True),
    Column("event", Text, primary_key=True),
    Column("burnt_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("webhook_tokens_oldest", "burnt_at"),
)
"""Capabilities that have told the truth about this event: they tell nothing about it any more."""

webhook_grants = Table(
    "webhook_grants",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("granted_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
"""Where each run calls back to and its capability, which lives for a quarter of an hour."""

seat_consents = Table(
    "seat_consents",
    metadata,
    Column("pool_id", Text, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("coalition", Text, primary_key=True),
    Column("node_id", Text, primary_key=True),
    Column("signed", Text, nullable=False),
    Column("given_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
"""Operators' consents to seats of plan `epoch`, as JSON (services.seat_signing.SignedSeat)."""

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("number", BigInteger, Identity(), nullable=False, unique=True),
    Column("delivery", Text, primary_key=True),
    Column("execution", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
"""What the embedded runner told a callback address, byte for byte."""

webhook_attempts = Table(
    "webhook_attempts",
    metadata,
    Column("delivery", Text, ForeignKey("webhook_deliveries.delivery"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("status", Integer),
    Column("error", Text),
    Column("ms", Integer, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
"""Every attempt of a delivery, from 1; `status` null: nobody answered."""
