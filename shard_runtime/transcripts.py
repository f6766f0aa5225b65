"""A transcript: all that anybody needs to compute a paid answer again and to hold its nodes to it.

The payer's own file, complete in itself; knows nothing of how it is judged.
"""

from typing import Annotated, Literal

import msgspec

from shard_runtime.messages import Dtype, Sampling
from shard_runtime.receipts import Address, Count, Hash, NodeReceipts, Terms, Usage

VERSION = 1


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage of the attempt's ring, entry first: decoder layers `[first_layer, end_layer)`."""

    node_id: str
    receipt_key: Address
    first_layer: Count
    end_layer: Count


class Transcript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One attempt at one request: what was asked, what came, and what the nodes signed."""

    version: Literal[1]
    terms: Terms
    pool_id: str
    session_id: str
    request_id: str
    attempt: Count
    """The ring's epoch."""
    weights_digest: Hash
    dtype: Dtype
    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1)]
    sampling: Sampling
    nonce: Hash
    """Opens the log's commitments to prompt and answer."""
    prompt_ids: tuple[Count, ...]
    completion_ids: tuple[Count, ...]
    """The whole completion, tokens of earlier attempts included."""
    first_step: Count
    """Where this attempt began. Above 0 it went on from KV that an earlier attempt made, which these receipts
    say nothing of: then unequal hashes prove nobody's lie."""
    receipts: tuple[NodeReceipts, ...]
    """In ring order; a node that stayed silent is missing."""
    usage: Usage | None = None
