"""The read model's tables, as SQLAlchemy metadata of one generation's schema; knows no connection, no event.

Columns ending in `_unix_ms` are milliseconds since 1970 UTC; `position` is sequence * 1024 + index in the
log. Sums and amounts of wei are numeric, so that no reported number can overflow them.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
)
from sqlalchemy.types import TypeEngine


def _required(name: str, kind: type[TypeEngine[Any]] | TypeEngine[Any], *, key: bool = False) -> Column[Any]:
    return Column(name, kind, nullable=False, primary_key=key, autoincrement=False)


def metadata_of(schema: str) -> MetaData:
    """Tables and secondary indexes of the generation that lives in `schema`."""
    metadata = MetaData(schema=schema)
    Table(
        "events",
        metadata,
        _required("position", BigInteger, key=True),
        _required("kind", Text),
        _required("aggregate_id", Text),
        _required("version", BigInteger),
        _required("type", Text),
        _required("time_unix_ms", BigInteger),
        _required("event_id", Text),
        _required("correlation_id", Text),
        Index("events_by_aggregate", "kind", "aggregate_id", "position"),
    )
    Table(
        "nodes",
        metadata,
        _required("id", Text, key=True),
        _required("label", Text),
        _required("mesh_key", Text),
        _required("nats_key", Text),
        _required("receipt_key", Text),
        _required("seal_key", Text),
        _required("payout_wallet", Text),
        _required("chain_id", BigInteger),
        Column("device", Text),
        Column("memory_bytes", BigInteger),
        Column("matmul_gflops", Double),
        Column("runtime_version", Text),
        _required("reachable", Boolean),
        _required("draining", Boolean),
        _required("retired", Boolean),
        Column("reason", Text),
        _required("registered_unix_ms", BigInteger),
        _required("changed_unix_ms", BigInteger),
        _required("created_position", BigInteger),
        _required("position", BigInteger),
        Index("nodes_newest", "created_position", unique=True),
    )
    Table(
        "pools",
        metadata,
        _required("id", Text, key=True),
        _required("name", Text),
        _required("model", Text),
        _required("revision", Text),
        _required("weights_digest", Text),
        _required("architecture", Text),
        _required("num_layers", BigInteger),
        _required("layer_bytes", BigInteger),
        _required("embedding_bytes", BigInteger),
        _required("head_bytes", BigInteger),
        _required("dtype", Text),
        _required("context_length", BigInteger),
        _required("kv_slots", BigInteger),
        _required("price_wei_per_s", Numeric(78, 0)),
        _required("deterministic", Boolean),
        Column("planned_epoch", BigInteger),
        Column("plan_explanation", Text),
        Column("drain_blocked", Text),
        Column("serving_epoch", BigInteger),
        Column("coalition", Text),
        Column("gda_pool", Text),
        Column("paid_epoch", BigInteger),
        Column("chain_epoch", BigInteger),
        Column("inft_id", Text),
        _required("retired", Boolean),
        Column("reason", Text),
        _required("proposed_unix_ms", BigInteger),
        _required("changed_unix_ms", BigInteger),
        _required("created_position", BigInteger),
        _required("position", BigInteger),
        Index("pools_newest", "created_position", unique=True),
        Index("pools_by_name", "name", postgresql_using="hash"),
    )
    Table(
        "pool_members",
        metadata,
        _required("pool_id", Text, key=True),
        _required("node_id", Text, key=True),
        _required("signature", Text),
        _required("accepted_unix_ms", BigInteger),
        _required("position", BigInteger),
        Index("pool_members_by_node", "node_id"),
    )
    Table(
        "pool_shards",
        metadata,
        _required("pool_id", Text, key=True),
        _required("epoch", BigInteger, key=True),
        _required("node_id", Text, key=True),
        _required("ring_index", Integer),
        _required("mesh_key", Text),
        _required("first_layer", BigInteger),
        _required("end_layer", BigInteger),
        _required("units", BigInteger),
        _required("state", Text),
        Column("slice_bytes", BigInteger),
        Column("error_code", Text),
        _required("changed_unix_ms", BigInteger),
        _required("position", BigInteger),
        Index("pool_shards_by_node", "node_id"),
    )
    Table(
        "sessions",
        metadata,
        _required("id", Text, key=True),
        _required("pool_id", Text),
        _required("payer", Text),
        _required("price_wei_per_s", Numeric(78, 0)),
        _required("single_request", Boolean),
        _required("close_by_unix_ms", BigInteger),
        _required("status", Text),
        _required("requests", BigInteger),
        _required("running", BigInteger),
        _required("prompt_tokens", Numeric()),
        _required("completion_tokens", Numeric()),
        Column("paid_wei", Numeric(78, 0)),
        Column("refund_wei", Numeric(78, 0)),
        Column("escrow", Text),
        Column("cap_wei", Numeric(78, 0)),
        Column("settlement_tx", Text),
        Column("close_reason", Text),
        _required("opened_unix_ms", BigInteger),
        Column("closed_unix_ms", BigInteger),
        _required("created_position", BigInteger),
        _required("position", BigInteger),
        Index("sessions_newest", "created_position", unique=True),
        Index("sessions_of_pool", "pool_id", "created_position"),
        Index("sessions_of_payer", "payer", postgresql_using="hash"),
    )
    Table(
        "requests",
        metadata,
        _required("session_id", Text, key=True),
        _required("id", Text, key=True),
        _required("epoch", BigInteger),
        _required("entry_node_id", Text),
        _required("seed", Text),
        _required("prompt_commitment", Text),
        _required("prompt_tokens", BigInteger),
        _required("max_tokens", BigInteger),
        _required("deadline_unix_ms", BigInteger),
        _required("status", Text),
        Column("finish_reason", Text),
        Column("completion_tokens", BigInteger),
        Column("output_commitment", Text),
        Column("error_code", Text),
        Column("receipts_root", Text),
        _required("started_unix_ms", BigInteger),
        Column("ended_unix_ms", BigInteger),
        _required("created_position", BigInteger),
        _required("position", BigInteger),
        Index("requests_of_session", "session_id", "created_position"),
    )
    Table(
        "kv_moves",
        metadata,
        _required("session_id", Text, key=True),
        _required("request_id", Text, key=True),
        _required("epoch", BigInteger, key=True),
        _required("from_node_id", Text, key=True),
        _required("to_node_id", Text),
        _required("tokens", BigInteger),
        _required("kv_bytes", BigInteger),
        _required("move_ms", BigInteger),
        _required("moved_unix_ms", BigInteger),
        _required("position", BigInteger),
    )
    _add_money(metadata)
    _add_workflows(metadata)
    return metadata


def _add_workflows(metadata: MetaData) -> None:
    """Runs of keeper workflows, and the transactions they sent."""
    Table(
        "workflows",
        metadata,
        _required("id", Text, key=True),
        _required("workflow", Text),
        _required("subject_kind", Text),
        _required("subject_id", Text),
        _required("step", Text),
        _required("attempt", BigInteger),
        _required("idempotency_key", Text),
        _required("status", Text),
        Column("backend", Text),
        Column("execution_id", Text),
        Column("error_code", Text),
        Column("error_detail", Text),
        Column("retryable", Boolean),
        _required("requested_unix_ms", BigInteger),
        _required("changed_unix_ms", BigInteger),
        _required("created_position", BigInteger),
        _required("position", BigInteger),
        Index("workflows_newest", "created_position", unique=True),
        Index("workflows_by_subject", "subject_id", "created_position"),
    )
    Table(
        "workflow_transactions",
        metadata,
        _required("run_id", Text, key=True),
        _required("number", Integer, key=True),
        _required("node_id", Text),
        Column("iteration", BigInteger),
        _required("chain_id", BigInteger),
        _required("tx", Text),
    )


def _add_money(metadata: MetaData) -> None:
    """Streams, what the chain says of them, and who paid and received what."""
    Table(
        "streams",
        metadata,
        _required("id", Text, key=True),
        _required("pool_id", Text),
        _required("chain_id", BigInteger),
        _required("escrow", Text),
        _required("payer", Text),
        _required("rate_wei_per_s", Numeric(78, 0)),
        _required("cap_wei", Numeric(78, 0)),
        _required("change", BigInteger),
        _required("wanted_active", BigInteger),
        _required("wanted_final", Boolean),
        Column("stop_reason", Text),
        _required("status", Text),
        _required("overdue", Boolean),
        Column("error_code", Text),
        _required("changed_unix_ms", BigInteger),
        _required("created_position", BigInteger),
        _required("position", BigInteger),
        Index("streams_newest", "created_position", unique=True),
        Index("streams_by_escrow", "escrow", postgresql_using="hash"),
    )
    Table(
        "stream_facts",
        metadata,
        _required("session_id", Text, key=True),
        _required("position", BigInteger, key=True),
        _required("fact", Text),
        _required("fact_key", Text),
        _required("sign", Integer),
        _required("active", BigInteger),
        _required("rate_wei_per_s", Numeric(78, 0)),
        Column("epoch", BigInteger),
        Column("gda_pool", Text),
        Column("hard_stop_unix_s", BigInteger),
        _required("closed", Boolean),
        _required("tx", Text),
        _required("block_number", BigInteger),
        _required("log_index", BigInteger),
        _required("block_unix_s", BigInteger),
    )
    Table(
        "ledger",
        metadata,
        _required("session_id", Text, key=True),
        _required("position", BigInteger, key=True),
        _required("entry", Integer, key=True),
        _required("kind", Text),
        Column("account", Text),
        _required("amount_wei", Numeric(79, 0)),
        _required("chain_id", BigInteger),
        _required("tx", Text),
        _required("block_number", BigInteger),
        _required("log_index", BigInteger),
        _required("block_unix_s", BigInteger),
        Index("ledger_by_account", "account", "position"),
    )


KEYS: dict[str, tuple[str, ...]] = {
    table.name: tuple(column.name for column in table.primary_key) for table in metadata_of("_").sorted_tables
}
"""The key columns of every table."""
