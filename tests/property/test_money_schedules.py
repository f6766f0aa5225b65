"""Whatever happens in whatever order: every session settles, nobody is paid twice, no stream stays open."""

from typing import Any

import pytest

from events import money_policies, payment, session, stream
from projections.changes import Batch
from projections.read_model import fold
from projections.tables import KEYS
from tests.money import OPERATORS
from tests.money_world import CAP, CLOSE_BY_S, UNITS, World

SCHEDULES = 5_000
PARTS = 4
STEP_S = 20
WEIGHTS = (14, 10, 3, 5, 8, 1, 2, 1, 14, 12, 3, 14)


def run(seed: int) -> World:
    """Random starts, stops, cancels, crashes, late and repeated receipts, RPC errors and reorgs."""
    world = World(seed)
    draw = world.draw
    for _ in range(draw.randrange(30, 110)):
        session_id = draw.choice(world.ids)
        match draw.choices(range(len(WEIGHTS)), WEIGHTS)[0]:
            case 0:
                world.start(session_id)
            case 1:
                world.end(session_id, draw.choice(("stop", "length", "cancelled")))
            case 2:
                world.crash()
            case 3:
                world.watch(partial=True)
            case 4:
                world.watch(duplicate=True)
            case 5:
                world.rpc_down = not world.rpc_down
            case 6:
                world.chain.reorg(draw.randrange(1, 5), keep=0.7)
            case 7:
                close: Any = payment.RequestClose("payer")
                world.handle("session", session_id, close, f"close:{session_id}:{len(world.log)}")
            case 8:
                world.orchestrate()
            case 9:
                world.send_due()
            case 10:
                world.tick()
            case _:
                world.chain.mine(draw.choice((0, 1, 1, 2, 5)))
    return world


def calm_down(world: World) -> None:
    """No more faults: everything is retried, until well after the closing time, or until nothing is open."""
    world.rpc_down = False
    for _ in range(2 * CLOSE_BY_S // STEP_S):
        world.orchestrate()
        world.tick()
        world.orchestrate()
        world.send_due()
        world.chain.mine(STEP_S)
        world.watch()
        world.orchestrate()
        open_still = (world.view.sessions, world.unfunded(), list(money_policies.due(world.view)))
        if not any(open_still):
            return


def check(world: World) -> None:
    rows = fold(world.log, Batch(KEYS, complete=True))
    for session_id in world.ids:
        state = world.states["session", session_id]
        escrow = world.chain.head.escrows[session_id]
        assert isinstance(state, session.Closed)
        assert state.settled is not None
        assert escrow.funded
        assert escrow.closed
        assert escrow.active == 0
        assert escrow.spent + escrow.refund == CAP
        assert int(state.settled.refund_wei) == escrow.refund
        entries = [row for (owner, *_), row in rows.rows("ledger").items() if owner == session_id]
        sums = {kind: _sum(entries, "kind", kind) for kind in ("voucher", "streamed", "refund", "penalty")}
        assert sums == {"voucher": CAP, "streamed": escrow.spent, "refund": escrow.refund, "penalty": 0}
        for account, units in zip(OPERATORS, UNITS, strict=True):
            assert _sum(entries, "account", account) == escrow.spent * units // sum(UNITS)
        transfers = [e for e in world.chain.entries(0) if e.funding and e.session_id == session_id]
        assert len(transfers) == 1
        assert world.states["stream", session_id].satisfied
        assert rows.rows("sessions")[session_id,]["status"] == "settled"
        history = [recorded.event for recorded in world.log if recorded.aggregate_id == session_id]
        settled = [event for event in history if isinstance(event, session.Settled)]
        reverted = [event for event in history if isinstance(event, stream.Reverted)]
        assert len(settled) <= 1 + len(reverted), "it settles once, unless a reorg undoes it"
    assert not world.view.sessions
    starts_follow_settlement(world)


def starts_follow_settlement(world: World) -> None:
    paid: dict[str, bool] = {}
    for recorded in world.log:
        match recorded.event:
            case payment.PaymentSettled():
                paid[recorded.aggregate_id] = True
            case payment.PaymentReverted():
                paid[recorded.aggregate_id] = False
            case session.RequestStarted():
                assert paid[recorded.aggregate_id]
            case stream.StartRequested():
                assert recorded.aggregate_id in paid


def _sum(entries: list[dict[str, Any]], column: str, value: str) -> int:
    return sum(int(row["amount_wei"]) for row in entries if row[column] == value)


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, PARTS))]
)
def test_money_comes_out_right_after_any_schedule(part: int) -> None:
    reverted = reconciled = 0
    for seed in range(part, SCHEDULES, PARTS):
        world = run(seed)
        calm_down(world)
        try:
            check(world)
        except AssertionError as wrong:
            raise AssertionError(f"seed {seed}") from wrong
        reverted += any(isinstance(recorded.event, stream.Reverted) for recorded in world.log)
        reconciled += any(isinstance(recorded.event, stream.Reconciled) for recorded in world.log)
    assert reverted > 50, "the schedules reach deep reorgs"
    assert reconciled > 5, "and closes by others"
