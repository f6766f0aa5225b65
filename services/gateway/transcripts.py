"""A paid answer as its payer can prove it: what was asked, what came, and what the ring's nodes signed.

Made while the answer is given, and not kept here. Knows nothing of HTTP.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from events import session
from services.gateway.refusals import InvalidRequest
from services.gateway.routing import Route
from shard_runtime.receipts import Terms
from shard_runtime.transcripts import Member, Transcript

if TYPE_CHECKING:
    from services.gateway.relay import Relay


def terms_of(paid: session.SessionState, route: Route) -> Terms | None:
    """What the receipts of a request are about on this ring; None: nobody pays, so nobody signs."""
    if not isinstance(paid, session.OpenSession) or paid.voucher is None:
        return None
    if route.coalition is None or route.chain_epoch is None:
        return None
    bought = paid.voucher.terms
    return Terms(bought.chain_id, route.coalition, route.chain_epoch, bought.escrow)


def refuse_unpaid(wanted: bool | None, route: Route) -> None:
    """Raises InvalidRequest."""
    if wanted and route.is_free:
        text = f"{route.name} is free, and nobody signs receipts of a free answer."
        raise InvalidRequest(text, param="transcript")


def written(relay: "Relay") -> Any:
    """The transcript as an answer holds it."""
    return msgspec.to_builtins(transcript_of(relay))


def transcript_of(relay: "Relay") -> Transcript:
    """Of a paid answer that ended well. The last ring's: what an earlier one computed is in its
    `completion_ids`, and nobody here has signed for it.
    """
    ended, route = relay.ended, relay.route
    assert ended is not None
    assert relay.terms is not None
    signed = ended.signed
    assert signed is not None
    return Transcript(
        version=1,
        terms=relay.terms,
        pool_id=route.pool_id,
        session_id=relay.session_id,
        request_id=relay.request_id,
        attempt=route.epoch,
        weights_digest=route.weights_digest,
        dtype=route.dtype,
        members=tuple(
            Member(one.node_id, one.receipt_key, one.first_layer, one.end_layer) for one in route.members
        ),
        sampling=relay.wish.sampling,
        nonce=relay.nonce,
        prompt_ids=relay.wish.prompt_ids,
        completion_ids=tuple(relay.ids),
        first_step=0 if signed.usage is None else signed.usage.first_step,
        receipts=signed.receipts,
        usage=signed.usage,
    )
