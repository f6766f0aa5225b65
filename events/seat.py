"""Which layers of which model a node computed by one plan of its pool: what its outputs are judged by.

Taken from the log when a breach is reported, so that nobody is judged by another model. Knows no session.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from events import pool
from events.kernel import Hash


class Seat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Decoder layers `[first_layer, end_layer)` of `num_layers`. `attempt`: the plan's number.

    `context_length`: tokens of prompt plus completion, as the node's memory was laid out for them.
    """

    attempt: int
    weights_digest: Hash
    dtype: Literal["float32", "bfloat16"]
    num_layers: int
    context_length: int
    first_layer: int
    end_layer: int

    @property
    def is_entry(self) -> bool:
        return self.first_layer == 0

    @property
    def is_exit(self) -> bool:
        return self.end_layer == self.num_layers


def seat_of(history: Iterable[object], node_id: str, attempt: int) -> Seat | None:
    """By a pool's history; None when no plan of this number has the node."""
    proposed: pool.Proposed | None = None
    for event in history:
        if isinstance(event, pool.Proposed):
            proposed = event
        elif isinstance(event, pool.Planned) and event.epoch == attempt and proposed is not None:
            for shard in event.shards:
                if shard.node_id == node_id:
                    return Seat(
                        attempt=attempt,
                        weights_digest=proposed.weights_digest,
                        dtype=proposed.dtype,
                        num_layers=proposed.num_layers,
                        context_length=proposed.context_length,
                        first_layer=shard.first_layer,
                        end_layer=shard.end_layer,
                    )
    return None
