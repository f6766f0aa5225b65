"""A run of one keeper workflow: what was asked, who took it, and what its transactions came to.

Its id is made of what it is for, so the same transition is never two runs; the id of its `requested` event is
the idempotency key under which a backend executes it. Knows nothing of KeeperHub or of how a run is carried
out; what happened to money stands in `stream` and `slash`, read from the chain.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never

import msgspec

from events.chain import ChainHash
from events.kernel import Decider, Event, Rejected

WorkflowName = Literal["propose", "activate-and-pool", "stream-start", "stream-stop", "handle-breach"]
SubjectKind = Literal["pool", "stream", "slash", "escrow"]
BackendName = Literal["embedded", "hosted"]


class RunTransaction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A transaction that a node of the workflow sent; `iteration`: of a For Each, from 0."""

    node_id: str
    hash: ChainHash
    chain_id: int
    iteration: int | None = None


class Requested(Event, frozen=True, tag="workflow.requested.v1"):
    """`workflow` is to run for one transition of its subject: `step` names it, `attempt` counts from 1.

    `input`: what the workflow's trigger gets. The secret of its callback is added when it is executed and
    stands nowhere here.
    """

    workflow: WorkflowName
    subject_kind: SubjectKind
    subject_id: str
    step: str
    attempt: int
    input: dict[str, str]


class Accepted(Event, frozen=True, tag="workflow.accepted.v1"):
    """A backend runs it under its own `execution_id`."""

    backend: BackendName
    execution_id: str


class Confirmed(Event, frozen=True, tag="workflow.confirmed.v1"):
    """Every node ran, and our own node of the chain has a good receipt for every transaction."""

    transactions: tuple[RunTransaction, ...]


class Failed(Event, frozen=True, tag="workflow.failed.v1"):
    """It ended without its effect. `retryable`: another attempt may succeed."""

    code: str
    detail: str
    retryable: bool
    transactions: tuple[RunTransaction, ...]


class Unconfirmed(Event, frozen=True, tag="workflow.unconfirmed.v1"):
    """The backend cannot say what became of it: neither done nor failed. It is asked again."""

    transactions: tuple[RunTransaction, ...]


WorkflowEvent = Requested | Accepted | Confirmed | Failed | Unconfirmed


class Request(msgspec.Struct, frozen=True):
    requested: Requested


class Accept(msgspec.Struct, frozen=True):
    accepted: Accepted


class End(msgspec.Struct, frozen=True):
    ended: Confirmed | Failed


class MarkUnconfirmed(msgspec.Struct, frozen=True):
    transactions: tuple[RunTransaction, ...] = ()


WorkflowCommand = Request | Accept | End | MarkUnconfirmed


class RunUnknown(Rejected):
    """No such run was ever requested."""

    code = "run_unknown"
    remedy = "Look at the runs there are: GET /runs."


class RunDiffers(Rejected):
    """This transition's run has another input, another execution or another end than this one."""

    code = "run_differs"
    remedy = "Another content is another attempt: count `attempt` on."


@dataclass(frozen=True)
class Absent:
    pass


@dataclass(frozen=True)
class Run:
    """`ended` is final. `unconfirmed`: the backend did not know the outcome when it was last asked."""

    requested: Requested
    accepted: Accepted | None = None
    ended: Confirmed | Failed | None = None
    unconfirmed: bool = False


WorkflowState = Absent | Run


def decide(command: WorkflowCommand, state: WorkflowState) -> tuple[WorkflowEvent, ...]:
    """Raises RunUnknown, RunDiffers."""
    if isinstance(command, Request):
        if isinstance(state, Absent):
            return (command.requested,)
        if state.requested != command.requested:
            raise RunDiffers
        return ()
    if isinstance(state, Absent):
        raise RunUnknown
    match command:
        case Accept(accepted):
            if state.accepted is not None and state.accepted != accepted:
                raise RunDiffers(f"it runs as {state.accepted.execution_id} of {state.accepted.backend}")
            return () if state.accepted is not None or state.ended is not None else (accepted,)
        case End(ended):
            if state.ended is not None and state.ended != ended:
                raise RunDiffers(f"it ended as {type(state.ended).__name__.lower()}")
            return () if state.ended is not None else (ended,)
        case MarkUnconfirmed(transactions):
            known = state.ended is not None or state.unconfirmed
            return () if known else (Unconfirmed(transactions),)
        case _:
            assert_never(command)


def evolve(state: WorkflowState, event: WorkflowEvent) -> WorkflowState:
    match event:
        case Requested():
            return Run(event) if isinstance(state, Absent) else state
        case _ if isinstance(state, Absent):
            return state
        case Accepted():
            return replace(state, accepted=event)
        case Confirmed() | Failed():
            return replace(state, ended=event, unconfirmed=False)
        case Unconfirmed():
            return replace(state, unconfirmed=True)
        case _:
            assert_never(event)


workflow: Decider[WorkflowState, WorkflowCommand, WorkflowEvent] = Decider(Absent(), decide, evolve)
