"""Stream events to rows of `streams`, `stream_facts` and `ledger`; knows no other aggregate."""

from collections.abc import Iterator
from typing import Any, assert_never

from events import stream
from events.chain import ChainRef
from events.envelope import Recorded
from projections import ledger
from projections.changes import Append, Change, Put


def changes_of(recorded: Recorded, event: stream.StreamEvent) -> tuple[Change, ...]:
    """Row changes of one stream event."""
    seen = {"changed_unix_ms": recorded.time_unix_ms, "position": recorded.position}

    def put(**values: object) -> Put:
        return Put("streams", (recorded.aggregate_id,), values | seen)

    match event:
        case stream.StartRequested():
            wanted: dict[str, Any] = {
                "change": event.change,
                "wanted_active": event.active,
                "wanted_final": False,
                "stop_reason": None,
                "status": "starting",
                "overdue": False,
                "error_code": None,
            }
            return (_asked(recorded, event, wanted | seen),)
        case stream.StopRequested():
            wanted = {
                "change": event.change,
                "wanted_active": 0,
                "wanted_final": event.final,
                "stop_reason": event.reason,
                "status": "stopping",
                "overdue": False,
                "error_code": None,
            }
            return (_asked(recorded, event, wanted | seen),)
        case stream.StartFailed(_, code):
            return (put(status="failed", error_code=code),)
        case stream.StopOverdue():
            return (put(overdue=True),)
        case stream.Started() | stream.Stopped() | stream.Liquidated() | stream.Reconciled():
            return (*_fact(recorded, event), put(status=_status(event)))
        case stream.Reverted(paid, penalty_wei, refund_wei, at):
            taken = ledger.entries(recorded, at, -1, paid, penalty_wei, refund_wei)
            return (_fact_row(recorded, "reverted", -1, at), *taken, put(status="reverted"))
        case _:
            assert_never(event)


def _asked(
    recorded: Recorded, event: stream.StartRequested | stream.StopRequested, values: dict[str, Any]
) -> Change:
    """The first thing that is asked makes the row."""
    if event.change > 1:
        return Put("streams", (recorded.aggregate_id,), values)
    terms = event.terms
    made = {
        "id": recorded.aggregate_id,
        "pool_id": terms.pool_id,
        "chain_id": terms.chain_id,
        "escrow": terms.escrow,
        "payer": terms.payer,
        "rate_wei_per_s": terms.rate_wei_per_s,
        "cap_wei": terms.cap_wei,
        "created_position": recorded.position,
    }
    return Append("streams", made | values)


def _status(event: stream.Fact) -> str:
    match event:
        case stream.Started():
            return "flowing"
        case stream.Stopped(_, _, closed):
            return "closed" if closed else "stopped"
        case stream.Liquidated():
            return "liquidated"
        case stream.Reconciled(found):
            return "flowing" if found == "running" else found
        case _:
            assert_never(event)


def _fact(recorded: Recorded, event: stream.Fact) -> Iterator[Change]:
    match event:
        case stream.Started():
            flow = {"active": event.active, "rate_wei_per_s": event.rate_wei_per_s, "epoch": event.epoch}
            more = {"gda_pool": event.gda_pool, "hard_stop_unix_s": event.hard_stop_unix_s}
            yield _fact_row(recorded, "started", 1, event.at, **flow, **more)
            yield from ledger.entries(recorded, event.at, 1, event.paid)
        case stream.Stopped():
            yield _fact_row(recorded, "stopped", 1, event.at, closed=event.closed)
            yield from ledger.entries(recorded, event.at, 1, event.paid, refund_wei=event.refund_wei)
        case stream.Liquidated():
            yield _fact_row(recorded, "liquidated", 1, event.at)
            yield from ledger.entries(recorded, event.at, 1, event.paid, event.penalty_wei)
        case stream.Reconciled():
            flow = {"active": event.active, "rate_wei_per_s": event.rate_wei_per_s, "epoch": event.epoch}
            more = {"hard_stop_unix_s": event.hard_stop_unix_s, "closed": event.found == "closed"}
            yield _fact_row(recorded, "reconciled", 1, event.at, **flow, **more)
            yield from ledger.entries(recorded, event.at, 1, event.paid, refund_wei=event.refund_wei)
        case _:
            assert_never(event)


def _fact_row(recorded: Recorded, fact: str, sign: int, at: ChainRef, **values: object) -> Append:
    row: dict[str, object] = {
        "session_id": recorded.aggregate_id,
        "position": recorded.position,
        "fact": fact,
        "fact_key": at.key,
        "sign": sign,
        "active": 0,
        "rate_wei_per_s": "0",
        "epoch": None,
        "gda_pool": None,
        "hard_stop_unix_s": None,
        "closed": False,
        "tx": at.tx,
        "block_number": at.block_number,
        "log_index": at.log_index,
        "block_unix_s": at.block_unix_s,
    }
    return Append("stream_facts", row | values)
