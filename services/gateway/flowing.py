"""Waits until a session's money flows for a request, as the log tells it. Knows no chain and no ring."""

import asyncio
import time
from collections.abc import Sequence

from events import stream
from events.envelope import Recorded
from services.gateway.refusals import StreamNotStarted
from services.log import EventLog

LOOK_S = 0.03
LONGEST_LOOK_S = 0.25


async def until_flowing(events: EventLog, session_id: str, after_sequence: int, within_s: float) -> None:
    """Until the stream pays for the request that the log knows since `after_sequence`.

    Raises StreamNotStarted, LogUnavailable.
    """
    deadline, look_s, flowed = time.monotonic() + within_s, LOOK_S, False
    while True:
        history = await events.history("stream", session_id)
        flows = is_flowing(history.recorded, after_sequence)
        if flows and (flowed or any(_starts(item, after_sequence) for item in history.recorded)):
            return
        flowed = flows
        if flows:  # by what an earlier request started: its stop may be under way, so it is looked at twice
            look_s = LONGEST_LOOK_S
        if time.monotonic() > deadline:
            raise StreamNotStarted(f"Its start is not on the chain after {within_s:g} s.")
        await asyncio.sleep(look_s)
        look_s = min(2 * look_s, LONGEST_LOOK_S)


def _starts(item: Recorded, after_sequence: int) -> bool:
    return item.sequence > after_sequence and isinstance(item.event, stream.Started)


def is_flowing(told: Sequence[Recorded], after_sequence: int) -> bool:
    """Raises StreamNotStarted when it never will.

    What runs already may be about to stop for a request that has ended, so only what was asked since then
    counts: every start of a request asks for one more.
    """
    state = stream.stream.fold(item.event for item in told)
    if not isinstance(state, stream.Stream):
        return False
    since = [item.event for item in told if item.sequence > after_sequence]
    for event in since:
        if isinstance(event, stream.StartFailed):
            raise StreamNotStarted(f"The chain refused it: {event.code}.")
        if isinstance(event, stream.StopRequested) and event.final:
            raise StreamNotStarted(f"The session is closing: {event.reason}.")
    if state.closed:
        raise StreamNotStarted("The session's escrow is closed.")
    asked = any(isinstance(event, stream.StartRequested) for event in since)
    return asked and state.satisfied and state.active > 0
