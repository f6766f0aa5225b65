"""Session events to rows of `sessions`, `requests`, `kv_moves` and `ledger`; knows no other aggregate."""

from typing import assert_never

from events import moves, payment, session
from events.envelope import Recorded
from projections import ledger
from projections.changes import Add, Append, Change, Put


def changes_of(recorded: Recorded, event: session.SessionEvent) -> tuple[Change, ...]:
    """Row changes of one session event."""
    key = (recorded.aggregate_id,)
    seen = {"position": recorded.position}
    match event:
        case session.Opened() if event.price_wei_per_s == "0":
            return (Append("sessions", _opened(recorded, event)),)
        case session.Opened():
            return (Put("sessions", key, {"status": "open", **seen}),)
        case payment.PaymentVerified():
            return (Append("sessions", _verified(recorded, event)),)
        case payment.PaymentSettled(amount_wei, at):
            entry = ledger.entry(recorded, 0, "voucher", None, int(amount_wei), at)
            return (entry, Put("sessions", key, {"settlement_tx": at.tx, **seen}))
        case payment.PaymentReverted():
            return _reverted(recorded, event)
        case payment.CloseRequested(reason):
            return (Put("sessions", key, {"status": "closing", "close_reason": reason, **seen}),)
        case session.RequestStarted():
            return (
                Append("requests", _started(recorded, event)),
                Add("sessions", key, {"requests": 1, "running": 1}),
                Put("sessions", key, seen),
            )
        case moves.RequestResumed(request_id, epoch, entry_node_id):
            goes_on = {"epoch": epoch, "entry_node_id": entry_node_id}
            return (Put("requests", (*key, request_id), goes_on | seen), Put("sessions", key, seen))
        case moves.KvMoved():
            return (Append("kv_moves", _moved(recorded, event)), Put("sessions", key, seen))
        case session.GenerationEnded():
            ended = {
                "status": "ended",
                "finish_reason": event.finish_reason,
                "prompt_tokens": event.prompt_tokens,
                "completion_tokens": event.completion_tokens,
                "output_commitment": event.output_commitment,
                "error_code": event.error_code,
                "receipts_root": event.receipts_root,
                "ended_unix_ms": recorded.time_unix_ms,
            }
            used = {"prompt_tokens": event.prompt_tokens, "completion_tokens": event.completion_tokens}
            return (
                Put("requests", (*key, event.request_id), ended | seen),
                Add("sessions", key, {"running": -1, **used}),
                Put("sessions", key, seen),
            )
        case session.Settled(_, paid_wei, refund_wei):
            closed = {"status": "settled", "closed_unix_ms": recorded.time_unix_ms}
            return (Put("sessions", key, {**closed, "paid_wei": paid_wei, "refund_wei": refund_wei, **seen}),)
        case session.Expired():
            closed = {"status": "expired", "closed_unix_ms": recorded.time_unix_ms}
            return (Put("sessions", key, closed | seen),)
        case _:
            assert_never(event)


def _reverted(recorded: Recorded, event: payment.PaymentReverted) -> tuple[Change, ...]:
    key, seen = (recorded.aggregate_id,), {"position": recorded.position}
    if event.at is None:
        closed = {"status": "unpaid", "close_reason": event.code, "closed_unix_ms": recorded.time_unix_ms}
        return (Put("sessions", key, closed | seen),)
    entry = ledger.entry(recorded, 0, "voucher", None, -int(event.amount_wei), event.at)
    return (entry, Put("sessions", key, {"settlement_tx": None, "close_reason": "payment_reverted", **seen}))


def _opened(recorded: Recorded, event: session.Opened) -> dict[str, object]:
    return {
        "id": recorded.aggregate_id,
        "pool_id": event.pool_id,
        "payer": event.payer,
        "price_wei_per_s": event.price_wei_per_s,
        "single_request": event.single_request,
        "close_by_unix_ms": event.close_by_unix_ms,
        "status": "open",
        "requests": 0,
        "running": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "paid_wei": None,
        "refund_wei": None,
        "escrow": None,
        "cap_wei": None,
        "settlement_tx": None,
        "close_reason": None,
        "opened_unix_ms": recorded.time_unix_ms,
        "closed_unix_ms": None,
        "created_position": recorded.position,
        "position": recorded.position,
    }


def _verified(recorded: Recorded, event: payment.PaymentVerified) -> dict[str, object]:
    terms, close_by = event.terms, event.close_by_unix_ms
    price, single = terms.rate_wei_per_s, event.single_request
    opened = session.Opened(terms.pool_id, terms.payer, price, single, close_by)
    paid = {"status": "paying", "escrow": terms.escrow, "cap_wei": terms.cap_wei}
    return _opened(recorded, opened) | paid


def _moved(recorded: Recorded, event: moves.KvMoved) -> dict[str, object]:
    return {
        "session_id": recorded.aggregate_id,
        "request_id": event.request_id,
        "epoch": event.epoch,
        "from_node_id": event.from_node_id,
        "to_node_id": event.to_node_id,
        "tokens": event.tokens,
        "kv_bytes": event.kv_bytes,
        "move_ms": event.move_ms,
        "moved_unix_ms": recorded.time_unix_ms,
        "position": recorded.position,
    }


def _started(recorded: Recorded, event: session.RequestStarted) -> dict[str, object]:
    return {
        "session_id": recorded.aggregate_id,
        "id": event.request_id,
        "epoch": event.epoch,
        "entry_node_id": event.entry_node_id,
        "seed": event.seed,
        "prompt_commitment": event.prompt_commitment,
        "prompt_tokens": event.prompt_tokens,
        "max_tokens": event.max_tokens,
        "deadline_unix_ms": event.deadline_unix_ms,
        "status": "running",
        "finish_reason": None,
        "completion_tokens": None,
        "output_commitment": None,
        "error_code": None,
        "receipts_root": None,
        "started_unix_ms": recorded.time_unix_ms,
        "ended_unix_ms": None,
        "created_position": recorded.position,
        "position": recorded.position,
    }
