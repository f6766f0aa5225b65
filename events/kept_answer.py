"""What a payer kept of one answer, as evidence against one node of its ring; part of an evidence.

Knows no signature scheme, no hash of a segment and no model. Numbers are whole: `sampling` is a text.
"""

from typing import Annotated

import msgspec

from events.breach import Signature
from events.kernel import Hash

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
RequestId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,128}$")]


class KeptReceipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the accused signed of one segment. `steps`, its number of passes, is told beside it."""

    segment: Count
    steps: Count
    input_hash: Hash
    output_hash: Hash
    signature: Signature


class KeptUsage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The entry's signed account. `own_receipts`: SHA-256 of its receipts, so that none can be left out."""

    prompt_tokens: Count
    completion_tokens: Count
    resumed_tokens: Count
    first_step: Count
    own_receipts: Hash
    signature: Signature


class KeptAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`chain_epoch` of the coalition; `first_pass`: so many tokens at once, then one by one.

    `sampling` is canonical JSON.

    `receipts` are the accused's, one for each segment, in ascending order.
    """

    chain_epoch: Count
    request_id: RequestId
    prompt_ids: tuple[Count, ...]
    completion_ids: tuple[Count, ...]
    first_pass: Count
    sampling: Annotated[str, msgspec.Meta(max_length=512)]
    receipts: tuple[KeptReceipt, ...]
    usage: KeptUsage | None = None


def in_order(answer: KeptAnswer) -> bool:
    """One receipt at most for each segment, in ascending order."""
    segments = [receipt.segment for receipt in answer.receipts]
    return segments == sorted(set(segments))
