"""How many unacknowledged frames a stage may have on the way to each peer; knows nothing of frames.

Our mesh node pushes back when a peer's queue is full. A stock node has one queue of 100 messages for all its
senders and forgets the oldest: so the members of a ring share it, each peer's frames and the acknowledgements
of what it was sent. Rings that share a node, and repeated frames, may still overflow it: that is a loss like
any other, and repeated.
"""

CREDITS = 32
STOCK_QUEUE = 100


def credits_per_peer(members: int, bounded: bool) -> int:
    """`bounded`: the mesh node is a stock one, and so may be those of the other `members - 1`."""
    if not bounded or members < 2:
        return CREDITS
    return max(1, min(CREDITS, STOCK_QUEUE // 2 // (members - 1)))
