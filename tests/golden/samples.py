"""At least one event of every type and current version, with every optional field both set and not set."""

from typing import Any

from events import claim, moves, node, payment, pool, session, slash, stream, workflow
from tests import slashing
from tests.aggregates import (
    digest,
    generation_ended,
    opened,
    proposed,
    registered,
    request_started,
    shard,
    ulid,
)
from tests.money import closed, ref, shares, started, stopped, terms, verified

TERMS = terms()
SENT = workflow.RunTransaction("open", "0x" + "cd" * 32, 31337)
SHARDS = (shard(1, 0, 5, 6250), shard(2, 5, 8, 3750))

_ALL: tuple[Any, ...] = (
    registered(1),
    node.CapabilitiesMeasured(8_000_000_000, 123.25, "NVIDIA GeForce RTX 3060", "2.15.0"),
    node.Drained("upgrade"),
    node.Lost(0),
    node.Recovered(1_700_000_000_123),
    node.Retired("sold"),
    proposed(),
    proposed(price_wei_per_s="1" + "0" * 18, deterministic=True, dtype="bfloat16"),
    pool.MemberAccepted(ulid(1), "ab" * 65),
    pool.Planned(1, SHARDS, "Layers in proportion to measured speed.\nTwo nodes – one ring."),
    pool.ShardReady(1, ulid(1), 5500),
    pool.ShardFailed(1, ulid(2), "out_of_memory"),
    pool.Activated(1),
    pool.Activated(1, gda_pool="0x" + "ab" * 20, inft_id="7"),
    pool.EpochChanged(2),
    pool.EpochChanged(2, gda_pool="0x" + "cd" * 20),
    pool.ShardReplaced(1, ulid(1), ulid(3), 2, 24_578),
    pool.ShardReplaced(1, ulid(1), None, 0, 0),
    pool.DrainBlocked(ulid(1), "no_successor", "no node outside the ring has accepted this pool"),
    pool.CoalitionOpened("0x" + "c0" * 20, 31337, 2, 1, "0x" + "cd" * 20, ref(9)),
    pool.CoalitionOpened("0x" + "c0" * 20, 31337, 2, 1, "0x" + "cd" * 20, ref(9), slashing.BREACH_TERMS),
    pool.CoalitionEnded("0x" + "c0" * 20, 1, ref(10)),
    pool.CoalitionEndReverted("0x" + "c0" * 20, 1, 2, "0x" + "cd" * 20, ref(10)),
    pool.CoalitionEndReverted("0x" + "c0" * 20, 1, None, None, ref(10)),
    pool.Retired("done"),
    opened(),
    opened(payer="0x" + "0a" * 20, single_request=True, price_wei_per_s="31709791983"),
    request_started(1),
    moves.RequestResumed(ulid(1), 2, ulid(3), 17),
    moves.KvMoved(ulid(1), 2, ulid(1), ulid(3), 33, 12_289, 9),
    generation_ended(1),
    generation_ended(1, receipts_root=digest(4), receipts_missing=(ulid(1),)),
    generation_ended(1, finish_reason="error", error_code="node_lost", output_commitment=None),
    session.Settled(1, "0", "0"),
    session.Expired(1_700_000_000_000),
    verified(),
    payment.PaymentSettled("2" + "0" * 18, ref(1)),
    payment.PaymentReverted("reorg", "2" + "0" * 18, ref(1)),
    payment.PaymentReverted("voucher_expired", "0"),
    payment.CloseRequested("budget"),
    stream.StartRequested(1, TERMS, 1, 2, 1_700_000_000_000),
    started(3),
    started(9, 6, active=2),
    stream.StopRequested(2, TERMS, True, "payer", 1_700_000_000_000),
    stopped(9, 6),
    closed(12, 3, spent_before=6),
    stream.StartFailed(1, "insufficient_balance"),
    stream.StopOverdue(2, 10_500),
    stream.Liquidated(shares(6), "5", ref(9)),
    stream.Reconciled("closed", 0, "0", 0, 0, shares(6), "0", "7", ref(9)),
    stream.Reverted(shares(6), "0", "7", ref(9)),
    workflow.Requested("stream-start", "stream", ulid(1), "1:open-1", 1, {"network": "31337", "active": "1"}),
    workflow.Accepted("embedded", "9w0h6x2k"),
    workflow.Confirmed((SENT, workflow.RunTransaction("bond", "0x" + "ab" * 32, 31337, 2))),
    workflow.Failed("nothing_left", "execution reverted: NothingLeft()", False, ()),
    workflow.Unconfirmed((SENT,)),
    slashing.reported(),
    slashing.probed(1),
    slashing.EVIDENCE,
    slashing.vote(1),
    slashing.dissent(2),
    slash.QuorumReached(slashing.breach(), tuple(map(slashing.signature, (1, 2, 3))), slashing.ATTESTORS[:3]),
    slash.ReportRejected("dissented"),
    slashing.claimed(),
    slashing.disputed(),
    claim.Upheld(1, True, ref(24)),
    slashing.executed(),
    claim.Cancelled(1, ref(26)),
    claim.Reverted("executed", 600_000, 300_000, ref(25)),
)

SAMPLES: dict[str, list[Any]] = {}
for _event in _ALL:
    SAMPLES.setdefault(str(_event.__struct_config__.tag), []).append(_event)
