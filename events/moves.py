"""A request that goes on in another ring: what moved, and where it was resumed; part of a session's history.

Knows nothing of rings or of how KV travels.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

import msgspec
from msgspec.structs import replace as replace_started

from events.kernel import Event, Rejected, Ulid
from events.session_refusals import EndingInconsistent, RequestAlreadyEnded

if TYPE_CHECKING:
    from events.session import OpenSession


class RequestResumed(Event, frozen=True, tag="session.request_resumed.v1"):
    """The gateway asked the entry of a later epoch to go on after `completion_tokens` that the client has."""

    request_id: Ulid
    epoch: int
    entry_node_id: Ulid
    completion_tokens: int


class KvMoved(Event, frozen=True, tag="session.kv_moved.v1"):
    """A leaver's account: its successor confirmed to hold `tokens` of the request at `epoch`.

    `move_ms` runs from the stop at a token boundary to that confirmation.
    """

    request_id: Ulid
    epoch: int
    from_node_id: Ulid
    to_node_id: Ulid
    tokens: int
    kv_bytes: int
    move_ms: int


MoveEvent = RequestResumed | KvMoved


class ResumeRequest(msgspec.Struct, frozen=True):
    resumed: RequestResumed


class MoveKv(msgspec.Struct, frozen=True):
    """`reported_by` is the node that says so: it must be the one that had the KV."""

    moved: KvMoved
    reported_by: str


MoveCommand = ResumeRequest | MoveKv


class NotTheLeaver(Rejected):
    """A node reported that another node's KV moved."""

    code = "not_the_leaver"
    remedy = "Only the node that sent the KV reports the move."


def decide(command: MoveCommand, state: "OpenSession") -> tuple[MoveEvent, ...]:
    """Raises RequestAlreadyEnded, EndingInconsistent, NotTheLeaver."""
    match command:
        case ResumeRequest(resumed):
            return _resume(resumed, state)
        case MoveKv(moved, reported_by):
            return _move(moved, reported_by, state)
        case _:
            assert_never(command)


def _resume(resumed: RequestResumed, state: "OpenSession") -> tuple[MoveEvent, ...]:
    started = state.running.get(resumed.request_id)
    if started is None:
        raise RequestAlreadyEnded
    if not 0 <= resumed.completion_tokens < started.max_tokens:
        raise EndingInconsistent(f"{resumed.completion_tokens} tokens of at most {started.max_tokens}")
    return (resumed,) if resumed.epoch > started.epoch else ()


def _move(moved: KvMoved, reported_by: str, state: "OpenSession") -> tuple[MoveEvent, ...]:
    """Of a request that has ended meanwhile too: what moved has moved."""
    if reported_by != moved.from_node_id:
        raise NotTheLeaver
    known = moved.request_id in state.running or moved.request_id in state.ended
    told = (moved.request_id, moved.epoch, moved.from_node_id) in state.moved
    return (moved,) if known and not told else ()


def evolve(state: "OpenSession", event: MoveEvent) -> "OpenSession":
    match event:
        case RequestResumed(request_id, epoch, entry_node_id):
            if (started := state.running.get(request_id)) is None:
                return state
            started = replace_started(started, epoch=epoch, entry_node_id=entry_node_id)
            return replace(state, running={**state.running, request_id: started})
        case KvMoved():
            told = (event.request_id, event.epoch, event.from_node_id)
            return replace(state, moved=state.moved | {told})
        case _:
            assert_never(event)
