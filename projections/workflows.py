"""Workflow events to rows of `workflows` and `workflow_transactions`; knows no other aggregate."""

from collections.abc import Iterator
from typing import assert_never

from events import workflow
from events.envelope import Recorded
from projections.changes import Append, Change, Put


def changes_of(recorded: Recorded, event: workflow.WorkflowEvent) -> tuple[Change, ...]:
    """Row changes of one workflow event."""
    seen = {"changed_unix_ms": recorded.time_unix_ms, "position": recorded.position}

    def put(**values: object) -> Put:
        return Put("workflows", (recorded.aggregate_id,), values | seen)

    match event:
        case workflow.Requested():
            made = {
                "id": recorded.aggregate_id,
                "workflow": event.workflow,
                "subject_kind": event.subject_kind,
                "subject_id": event.subject_id,
                "step": event.step,
                "attempt": event.attempt,
                "idempotency_key": recorded.event_id,
                "status": "requested",
                "backend": None,
                "execution_id": None,
                "error_code": None,
                "error_detail": None,
                "retryable": None,
                "requested_unix_ms": recorded.time_unix_ms,
                "created_position": recorded.position,
            }
            return (Append("workflows", made | seen),)
        case workflow.Accepted(backend, execution_id):
            return (put(status="accepted", backend=backend, execution_id=execution_id),)
        case workflow.Confirmed(transactions):
            return (*_sent(recorded, transactions), put(status="confirmed"))
        case workflow.Failed(code, detail, retryable, transactions):
            ended = put(status="failed", error_code=code, error_detail=detail, retryable=retryable)
            return (*_sent(recorded, transactions), ended)
        case workflow.Unconfirmed():
            return (put(status="unconfirmed"),)
        case _:
            assert_never(event)


def _sent(recorded: Recorded, transactions: tuple[workflow.RunTransaction, ...]) -> Iterator[Change]:
    for number, sent in enumerate(transactions):
        row = {
            "run_id": recorded.aggregate_id,
            "number": number,
            "node_id": sent.node_id,
            "iteration": sent.iteration,
            "chain_id": sent.chain_id,
            "tx": sent.hash,
        }
        yield Append("workflow_transactions", row)
