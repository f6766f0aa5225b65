"""A stock node's one queue of a hundred is never overfilled by the ring it belongs to."""

import pytest

from shard_runtime.arrivals import OPEN
from shard_runtime.delivery import Delivery
from shard_runtime.messages import PlanMember
from shard_runtime.plan import Plan
from shard_runtime.signing import ReceiptKey
from shard_runtime.window import CREDITS, STOCK_QUEUE, credits_per_peer


def queued_at_a_reader_that_stands_still(stages: int, credits: int) -> int:
    """Everybody sends the reader all it may, having taken all that the reader might send."""
    keys = [ReceiptKey(bytes([stage + 1]) * 32) for stage in range(stages)]
    members = tuple(
        PlanMember(f"n{stage}", f"{stage + 1:02x}" * 32, keys[stage].address, stage, stage + 1)
        for stage in range(stages)
    )
    ends = [Delivery(Plan("pool", 1, members, me), lambda: 0, keys[me], credits) for me in range(stages)]
    for me, end in enumerate(ends):
        for other in range(stages):
            for number in range(2 * CREDITS if me != other else 0):
                end.send("control", other, f"{me}-{number}", OPEN, 0, "json", (2,), b"{}", 0)
    reader, *peers = ends
    for to, raw in list(reader.outgoing):
        for event in ends[to].receive(raw, reader.plan.my_key, 0):
            ends[to].confirm(0, event.rid, OPEN, b"")
    return sum(to == 0 for peer in peers for to, _ in peer.outgoing)


@pytest.mark.parametrize("stages", [2, 3, 4, 7, 12, 40, 51])
def test_a_ring_of_stock_nodes_keeps_below_the_queue(stages: int) -> None:
    assert 0 < queued_at_a_reader_that_stands_still(stages, credits_per_peer(stages, True)) <= STOCK_QUEUE


def test_without_the_bound_three_peers_would_overfill_it() -> None:
    assert queued_at_a_reader_that_stands_still(4, CREDITS) > STOCK_QUEUE


def test_our_own_node_needs_no_bound_and_two_stages_keep_theirs() -> None:
    assert credits_per_peer(40, False) == credits_per_peer(2, True) == CREDITS
    assert credits_per_peer(200, True) == 1
