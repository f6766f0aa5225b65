"""What a paid session has cost so far: from the log's facts, up to the second of the chain's next block.

What flows in a second is the rate as the chain gave it back, until the cap; the chain's own word on it is
the next fact. Knows no HTTP but its route.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from events import session, stream
from events.envelope import Recorded
from services.chain.rpc import ChainAway, RpcRefused
from services.gateway.auth import Here, Payer
from services.gateway.refusals import ChainAwayProblem, InvalidRequest
from services.gateway.sessions import SessionId, own_session
from services.gateway.state import Gateway, now_ms

router = APIRouter(tags=["Sessions"])


@router.get("/sessions/{session_id}/meter", summary="What a paid session has cost up to now")
async def meter(session_id: SessionId, here: Here, who: Payer) -> dict[str, Any]:
    """At the chain's pending block: what is settled, and what has flowed since."""
    state = await own_session(here, who, session_id)
    if state.voucher is None:
        raise InvalidRequest("A session of a free pool has no meter.", param="session_id")
    return await read(here, session_id, await chain_second(here))


async def read(here: Gateway, session_id: str, now_unix_s: int) -> dict[str, Any]:
    """Raises LogUnavailable."""
    asked = (await here.events.history("session", session_id)).recorded
    told = (await here.events.history("stream", session_id)).recorded
    return {"session_id": session_id, **reading(asked, told, now_unix_s, now_ms())}


async def chain_second(here: Gateway) -> int:
    """The time of the chain's next block. Raises ChainAwayProblem."""
    chain = await here.till.chain()
    try:
        return (await chain.rpc.block("pending")).timestamp
    except (ChainAway, RpcRefused) as away:
        raise ChainAwayProblem(str(away)) from away


def reading(
    asked: Sequence[Recorded], told: Sequence[Recorded], now_unix_s: int, now_unix_ms: int
) -> dict[str, Any]:
    """Of a session's and its stream's whole histories; wei as decimal strings.

    `billed_seconds`: in which money flowed, however many requests it paid for. `serving_seconds`: in which at
    least one request was served, by the log's clock. `overbilled_seconds`: how much longer money flowed; it
    compares two clocks, so it is negative while a stream has not begun.
    """
    paid = session.session.fold(item.event for item in asked)
    cap_wei = 0
    if isinstance(paid, session.OpenSession | session.Closed) and paid.voucher is not None:
        cap_wei = int(paid.voucher.terms.cap_wei)
    flow = stream.stream.fold(item.event for item in told)
    serving_s = _serving_ms(asked, now_unix_ms) / 1000
    if not isinstance(flow, stream.Stream):
        return _shown("idle", cap_wei, 0, 0, 0, 0, 0, serving_s, now_unix_s, None)
    billed_s = sum(
        later.at.block_unix_s - fact.at.block_unix_s
        for fact, later in zip(flow.seen, flow.seen[1:], strict=False)
        if fact.active
    )
    flowing_wei, hard_stop = 0, None
    if flow.active:
        last = flow.seen[-1]
        running_s = max(0, now_unix_s - last.at.block_unix_s)
        billed_s += running_s
        flowing_wei, hard_stop = running_s * last.rate_wei_per_s, last.hard_stop_unix_s
    status = "closed" if flow.closed else "flowing" if flow.active else "stopped"
    rate = flow.seen[-1].rate_wei_per_s if flow.active else 0
    refund, penalty = flow.refund_wei, sum(fact.penalty_wei for fact in flow.seen)
    streamed = min(flow.paid_wei + flowing_wei, cap_wei - refund - penalty)
    shown = _shown(
        status, cap_wei, streamed, refund, penalty, rate, billed_s, serving_s, now_unix_s, hard_stop
    )
    return {**shown, "active": flow.active}


def _shown(
    status: str,
    cap_wei: int,
    streamed_wei: int,
    refund_wei: int,
    penalty_wei: int,
    rate_wei_per_s: int,
    billed_s: int,
    serving_s: float,
    now_unix_s: int,
    hard_stop_unix_s: int | None,
) -> dict[str, Any]:
    left_s = None if hard_stop_unix_s is None else max(0, hard_stop_unix_s - now_unix_s)
    return {
        "status": status,
        "active": 0,
        "cap_wei": str(cap_wei),
        "streamed_wei": str(streamed_wei),
        "refund_wei": str(refund_wei),
        "penalty_wei": str(penalty_wei),
        "left_wei": str(cap_wei - streamed_wei - refund_wei - penalty_wei),
        "rate_wei_per_s": str(rate_wei_per_s),
        "hard_stop_unix_s": hard_stop_unix_s,
        "seconds_left": left_s,
        "billed_seconds": billed_s,
        "serving_seconds": round(serving_s, 3),
        "overbilled_seconds": round(billed_s - serving_s, 3),
        "block_unix_s": now_unix_s,
    }


def _serving_ms(asked: Sequence[Recorded], now_unix_ms: int) -> int:
    """Milliseconds in which at least one request was served."""
    running: set[str] = set()
    total = since = 0
    for item in asked:
        match item.event:
            case session.RequestStarted(request_id):
                since = since if running else item.time_unix_ms
                running.add(request_id)
            case session.GenerationEnded(request_id) if request_id in running:
                running.discard(request_id)
                total += 0 if running else max(0, item.time_unix_ms - since)
            case _:
                pass
    return total + (max(0, now_unix_ms - since) if running else 0)
