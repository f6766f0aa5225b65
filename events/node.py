"""A node: an operator's machine, its keys, what it can hold, and whether it is there;
knows nothing of pools or money.
"""

from dataclasses import dataclass, replace
from typing import assert_never

import msgspec

from events.kernel import Address, Decider, Event, Hash, Rejected, Ulid


class Registered(Event, frozen=True, tag="node.registered.v1"):
    """Four keys bound by one signed challenge; `binding_digest` is the EIP-712 digest that all four
    signed.
    """

    node_id: Ulid
    label: str
    mesh_key: Hash
    nats_key: str
    receipt_key: Address
    seal_key: Hash
    payout_wallet: Address
    chain_id: int
    binding_digest: Hash
    signatures: dict[str, str]


class CapabilitiesMeasured(Event, frozen=True, tag="node.capabilities_measured.v1"):
    memory_bytes: int
    matmul_gflops: float
    device: str
    runtime_version: str


class Drained(Event, frozen=True, tag="node.drained.v1"):
    reason: str


class Lost(Event, frozen=True, tag="node.lost.v1"):
    """No heartbeat since `last_seen_unix_ms` (0: never)."""

    last_seen_unix_ms: int


class Recovered(Event, frozen=True, tag="node.recovered.v1"):
    seen_unix_ms: int


class Retired(Event, frozen=True, tag="node.retired.v1"):
    reason: str


NodeEvent = Registered | CapabilitiesMeasured | Drained | Lost | Recovered | Retired


class Register(msgspec.Struct, frozen=True):
    """The keys and signatures were verified by the gateway; here only the rules of the aggregate apply."""

    registered: Registered


class ReportCapabilities(msgspec.Struct, frozen=True):
    memory_bytes: int
    matmul_gflops: float
    device: str
    runtime_version: str


class Drain(msgspec.Struct, frozen=True):
    reason: str


class MarkLost(msgspec.Struct, frozen=True):
    last_seen_unix_ms: int


class Recover(msgspec.Struct, frozen=True):
    seen_unix_ms: int


class Retire(msgspec.Struct, frozen=True):
    reason: str


NodeCommand = Register | ReportCapabilities | Drain | MarkLost | Recover | Retire


class NodeAlreadyRegistered(Rejected):
    """This node id is already registered with other keys."""

    code = "node_already_registered"
    remedy = (
        "A node id belongs to one set of keys for good: use the keys it was registered "
        "with, or a new mesh key."
    )


class NodeUnknown(Rejected):
    """No node is registered under this id."""

    code = "node_unknown"
    remedy = "Register the node first: computepool worker join."


class NodeRetired(Rejected):
    """The node has been retired."""

    code = "node_retired"
    remedy = "A retired node does not come back: join with a new mesh key."


@dataclass(frozen=True)
class Absent:
    pass


@dataclass(frozen=True)
class Present:
    """A registered node. `reachable` follows the heartbeats; `draining` means: give it no new shards.

    `lost_since_unix_ms`: when an unreachable node was last seen; only a later sign of life brings it back.
    """

    registration: Registered
    capabilities: CapabilitiesMeasured | None = None
    reachable: bool = True
    draining: bool = False
    lost_since_unix_ms: int = 0


@dataclass(frozen=True)
class Gone:
    registration: Registered


NodeState = Absent | Present | Gone


def decide(command: NodeCommand, state: NodeState) -> tuple[NodeEvent, ...]:
    """Raises NodeAlreadyRegistered, NodeUnknown, NodeRetired."""
    match state:
        case Absent():
            if isinstance(command, Register):
                return (command.registered,)
            raise NodeUnknown
        case Gone():
            if isinstance(command, Retire):
                return ()
            raise NodeRetired
        case Present():
            return _decide_present(command, state)
        case _:
            assert_never(state)


def _decide_present(command: NodeCommand, state: Present) -> tuple[NodeEvent, ...]:
    match command:
        case Register(registered):
            if _same_keys(registered, state.registration):
                return ()
            raise NodeAlreadyRegistered
        case ReportCapabilities():
            measured = CapabilitiesMeasured(
                command.memory_bytes, command.matmul_gflops, command.device, command.runtime_version
            )
            return () if measured == state.capabilities else (measured,)
        case Drain(reason):
            return () if state.draining else (Drained(reason),)
        case MarkLost(last_seen_unix_ms):
            return (Lost(last_seen_unix_ms),) if state.reachable else ()
        case Recover(seen_unix_ms):
            gone = not state.reachable and seen_unix_ms > state.lost_since_unix_ms
            return (Recovered(seen_unix_ms),) if gone else ()
        case Retire(reason):
            return (Retired(reason),)
        case _:
            assert_never(command)


def _same_keys(a: Registered, b: Registered) -> bool:
    def keys(r: Registered) -> tuple[object, ...]:
        return (
            r.mesh_key,
            r.nats_key,
            r.receipt_key.lower(),
            r.seal_key,
            r.payout_wallet.lower(),
            r.chain_id,
        )

    return keys(a) == keys(b)


def evolve(state: NodeState, event: NodeEvent) -> NodeState:
    match event:
        case Registered():
            return Present(event)
        case CapabilitiesMeasured():
            return replace(state, capabilities=event) if isinstance(state, Present) else state
        case Drained():
            return replace(state, draining=True) if isinstance(state, Present) else state
        case Lost(last_seen_unix_ms):
            if not isinstance(state, Present):
                return state
            return replace(state, reachable=False, lost_since_unix_ms=last_seen_unix_ms)
        case Recovered():
            return replace(state, reachable=True) if isinstance(state, Present) else state
        case Retired():
            return Gone(state.registration) if isinstance(state, Present) else state
        case _:
            assert_never(event)


node: Decider[NodeState, NodeCommand, NodeEvent] = Decider(Absent(), decide, evolve)
