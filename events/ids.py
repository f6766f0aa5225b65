"""Identifiers as pure functions: the same cause always gets the same id; knows no clock and no randomness."""

import hashlib
from uuid import UUID, uuid5

_NAMESPACE = UUID("5f0a3b1e-7c1d-5d52-9c0e-0d1c8f6b2a47")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def commit_id(command_id: str) -> str:
    """The id of the one commit that a command may cause (and its `Nats-Msg-Id`)."""
    return str(uuid5(_NAMESPACE, "commit:" + command_id))


def event_id(commit: str, index: int) -> str:
    """The id of event number `index` (from 0) of a commit."""
    return str(uuid5(UUID(commit), str(index)))


def policy_command_id(cause_event_id: str, policy: str, n: int) -> str:
    """The id of the n-th command that a policy derives from an event: a redelivered event repeats it."""
    return str(uuid5(UUID(cause_event_id), f"{policy}:{n}"))


def node_id_of(mesh_key: str) -> str:
    """A node's id, ULID-shaped, from its mesh key (ed25519 public key, 64 hex):
    one key can't own two node ids.
    """
    return _ulid_shaped(bytes.fromhex(mesh_key))


def run_id_of(workflow: str, subject_id: str, step: str, attempt: int) -> str:
    """The id of the one run of a workflow for this step of its subject, ULID-shaped."""
    return _ulid_shaped(f"run|{workflow}|{subject_id}|{step}|{attempt}".encode())


def slash_id_of(session_id: str, operator: str, kind: str) -> str:
    """The id of the one claim on this operator for this kind of breach of this session, ULID-shaped."""
    return _ulid_shaped(f"slash|{session_id}|{operator.lower()}|{kind}".encode())


def run_command_id(run_id: str) -> str:
    """The id of the command that asks for a run: whoever asks for it, it is the same one."""
    return f"run:{run_id}"


def run_key(run_id: str) -> str:
    """A run's idempotency key: the id of the event by which it was asked for."""
    return event_id(commit_id(run_command_id(run_id)), 0)


def _ulid_shaped(data: bytes) -> str:
    number = int.from_bytes(hashlib.sha256(data).digest()[:16], "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
