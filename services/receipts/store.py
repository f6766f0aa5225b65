"""Receipts of paid requests, kept on JetStream for their payers, by the root that the log has of them.

Knows nothing of who may see them, or of whether they hold: what is kept was checked before.
"""

import msgspec
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from services.stream_names import RECEIPTS, RECEIPTS_STREAM
from shard_runtime.receipts import NodeReceipts, Terms, Usage, receipts_root


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the nodes of one ring (`attempt`: the plan's epoch) signed of one request, by these terms."""

    terms: Terms
    attempt: int
    receipts: tuple[NodeReceipts, ...]
    usage: Usage | None

    @property
    def root(self) -> str:
        return receipts_root(self.receipts, self.usage)


async def keep(client: Client, kept: Kept) -> None:
    """On disk when this returns; again changes nothing. Raises nats.errors.Error."""
    subject = f"{RECEIPTS}.{kept.root}"
    await client.jetstream().publish(subject, msgspec.json.encode(kept), stream=RECEIPTS_STREAM)


async def kept_under(client: Client, root: str) -> Kept | None:
    """None: they are too old, or were never kept. `root` is the log's. Raises nats.errors.Error."""
    try:
        found = await client.jetstream().get_last_msg(RECEIPTS_STREAM, f"{RECEIPTS}.{root}", direct=True)
    except NotFoundError:
        return None
    kept = msgspec.json.decode(found.data or b"", type=Kept)
    return kept if kept.root == root else None
