"""What the embedded runner keeps: workflows, executions, what became of each node, and workflows' own
state.

Values are JSON in text columns: jsonb would change the order of keys, and so what templates write into
calldata.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "runner_workflows",
        sa.Column("workflow_id", sa.Text, primary_key=True),
        sa.Column("content_hash", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("ensured_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "runner_executions",
        sa.Column("number", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("execution_id", sa.Text, primary_key=True),
        sa.Column("workflow_id", sa.Text, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("input_hash", sa.Text, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("output", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("started_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_unix_ms", sa.BigInteger),
        sa.UniqueConstraint("workflow_id", "idempotency_key", name="runner_executions_key"),
        sa.ForeignKeyConstraint(
            ["workflow_id", "content_hash"],
            ["runner_workflows.workflow_id", "runner_workflows.content_hash"],
            name="runner_executions_workflow",
        ),
        sa.CheckConstraint(
            "status IN ('running', 'success', 'error', 'cancelled')", name="runner_executions_status"
        ),
    )
    op.create_index(
        "runner_executions_running",
        "runner_executions",
        ["number"],
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "runner_nodes",
        sa.Column("number", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("execution_id", sa.Text, sa.ForeignKey("runner_executions.execution_id"), primary_key=True),
        sa.Column("node_id", sa.Text, primary_key=True),
        sa.Column("iteration", sa.Text, primary_key=True),
        sa.Column("node_name", sa.Text, nullable=False),
        sa.Column("node_type", sa.Text, nullable=False),
        sa.Column("ending", sa.Text, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("output", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("transaction_hash", sa.Text),
        sa.Column("chain_id", sa.BigInteger),
        sa.Column("started_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_unix_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint("ending IN ('done', 'failed', 'threw')", name="runner_nodes_ending"),
    )
    op.create_table(
        "runner_state",
        sa.Column("workflow_id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("written_by", sa.Text, nullable=False),
        sa.Column("expires_unix_ms", sa.BigInteger),
    )


def downgrade() -> None:
    op.drop_table("runner_state")
    op.drop_table("runner_nodes")
    op.drop_table("runner_executions")
    op.drop_table("runner_workflows")
