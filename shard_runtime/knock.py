"""Lets the mesh find its path to a neighbour before there is anything to say; knows nothing of weights."""

import time
from collections.abc import Callable

import msgspec

from shard_runtime.frames import VERSION, Header, digest_of, encode
from shard_runtime.plan import Plan
from shard_runtime.signing import ReceiptKey, statement


def knock(plan: Plan, receipt_key: ReceiptKey, post: Callable[[str, bytes], None]) -> None:
    """Send each later neighbour an acknowledgement of nothing.

    Only towards later stages: a path takes the mesh longer when both ends look for it at once.
    """
    for stage in {plan.upstream, plan.downstream}:
        if stage > plan.me:
            header = Header(
                VERSION, "ack", plan.pool_id, plan.epoch, "path", 0, 0, 0, plan.my_key, plan.key(stage),
                "json", (0,), 0, 1, digest_of(b""), time.time_ns(), 0,
            )  # fmt: skip
            signed = msgspec.structs.replace(header, sig=receipt_key.sign(statement(header)))
            post(plan.key(stage), encode(signed, b""))
