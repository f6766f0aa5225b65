"""One command, start to end: load the history, fold, decide, append; the only caller of `EventLog.append`.

Knows nothing of any particular aggregate; time and ids come in with the command's cause.
"""

import asyncio
import random
from typing import Any, NamedTuple

import structlog

from events.envelope import DECIDERS, Cause, Recorded, encode_commit
from events.ids import commit_id
from events.kernel import Event
from services.log import Conflict, EventLog, History, LogUnavailable

log = structlog.get_logger("handle")

MAX_CONFLICTS = 32
FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.2


class Handled(NamedTuple):
    """What a command did.

    `sequence`: the log position that holds its effect (0: nothing, on a new aggregate).

    `state` contains `events`; `replayed`: an earlier attempt of the same command had already done it.
    """

    sequence: int
    events: tuple[Event, ...]
    state: Any
    replayed: bool


async def handle(log_: EventLog, kind: str, aggregate_id: str, command: Any, cause: Cause) -> Handled:
    """Carry out `command` once, however often it is called with the same `cause.command_id`.

    Raises Rejected (nothing was appended), LogUnavailable (call again), Gap, MalformedCommit,
    UnknownEventType.
    """
    decider = DECIDERS[kind]
    pause_s = FIRST_PAUSE_S
    for _ in range(MAX_CONFLICTS):
        history = await log_.history(kind, aggregate_id)
        done = _already_done(kind, history, cause)
        if done is not None:
            return done
        state = decider.fold(item.event for item in history.recorded)
        events: tuple[Event, ...] = decider.decide(command, state)
        if not events:
            return Handled(history.last_sequence, (), state, replayed=False)
        commit = encode_commit(kind, aggregate_id, len(history.recorded) + 1, events, cause)
        try:
            stored = await log_.append(commit, history.last_sequence)
        except Conflict:
            await asyncio.sleep(random.uniform(0, pause_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            continue
        if not stored.replayed:
            return Handled(stored.sequence, events, decider.fold(events, state), replayed=False)
        done = _already_done(kind, await log_.history(kind, aggregate_id), cause)
        if done is not None:
            return done
    log.warning("contended", kind=kind, id=aggregate_id, conflicts=MAX_CONFLICTS)
    raise LogUnavailable(f"{kind} {aggregate_id}: {MAX_CONFLICTS} conflicts in a row")


def _already_done(kind: str, history: History, cause: Cause) -> Handled | None:
    """The stored commit of this command, with the state right after it."""
    wanted = commit_id(cause.command_id)
    mine = [index for index, item in enumerate(history.recorded) if item.commit_id == wanted]
    if not mine:
        return None
    upto: tuple[Recorded, ...] = history.recorded[: mine[-1] + 1]
    state = DECIDERS[kind].fold(item.event for item in upto)
    events = tuple(history.recorded[index].event for index in mine)
    return Handled(upto[-1].sequence, events, state, replayed=True)
