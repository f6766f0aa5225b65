"""The envelope: one message is one commit, 1..N events of one aggregate as a CloudEvents JSON batch.

Holds the type registry, the upcasters and the JSON Schema. Knows nothing of NATS: subjects, headers and
payloads are plain values here.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec

from events import node, pool, session, slash, stream, workflow
from events.ids import commit_id, event_id
from events.kernel import Decider, Event, Rejected

EVENTS_STREAM = "CP_EVENTS"
SUBJECT_PREFIX = "cp.events"
CONTENT_TYPE = "application/cloudevents-batch+json"
HEADER_WRITER = "cp-writer"
HEADER_SIGNATURE = "cp-sig"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
"""What msgspec raises on bytes that are not the JSON it expects; on bytes that are not UTF-8, the latter."""
MAX_EVENTS_PER_COMMIT = 256
MAX_COMMIT_BYTES = 512 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ULID = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")
POSITION_STRIDE = 1024
"""A position is sequence * POSITION_STRIDE + index: one integer that orders every event of the log."""

DECIDERS: dict[str, Decider[Any, Any, Any]] = {
    "node": node.node,
    "pool": pool.pool,
    "session": session.session,
    "slash": slash.slash,
    "stream": stream.stream,
    "workflow": workflow.workflow,
}
"""Every aggregate kind that the log may hold."""

_UNIONS: dict[str, Any] = {
    "node": node.NodeEvent,
    "pool": pool.PoolEvent,
    "session": session.SessionEvent,
    "slash": slash.SlashEvent,
    "stream": stream.StreamEvent,
    "workflow": workflow.WorkflowEvent,
}
EVENT_CLASSES: dict[str, type[Event]] = {
    str(cls.__struct_config__.tag): cls for union in _UNIONS.values() for cls in get_args(union)
}
"""Wire name to class: the current version of every event type."""

UPCASTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Wire name of an OLD version to a pure function from its data to the next version's data (with the new
`type`).
"""


class UnknownEventType(Exception):
    """unknown_event_type: the log holds a type or version that this program does not know;
    upgrade it, never skip.
    """

    code = "unknown_event_type"


class MalformedCommit(Exception):
    """malformed_commit: the bytes at this position are not a commit of ours; the log needs an auditor."""

    code = "malformed_commit"


class EventInvalid(Rejected):
    """The event or the id of its aggregate breaks the log's schema."""

    code = "event_invalid"
    remedy = "Correct the field that the detail names; see docs/events.md."


class CloudEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event on the wire. `cpversion` counts the aggregate's events from 1."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str
    cpversion: int
    cpcommand: str
    cpcorrelation: str
    cpcausation: str
    data: msgspec.Raw


class Cause(msgspec.Struct, frozen=True):
    """Where a command comes from: its id (idempotency key), what it belongs to, what made it, and when (unix
    ms).
    """

    command_id: str
    correlation_id: str
    causation_id: str
    at_unix_ms: int


class Recorded(msgspec.Struct, frozen=True):
    """An event as it stands in the log."""

    sequence: int
    index: int
    kind: str
    aggregate_id: str
    version: int
    event_id: str
    commit_id: str
    command_id: str
    type: str
    time_unix_ms: int
    correlation_id: str
    causation_id: str
    writer: str
    event: Any

    @property
    def position(self) -> int:
        return self.sequence * POSITION_STRIDE + self.index


class Commit(msgspec.Struct, frozen=True):
    """What is appended: bytes ready for the log, and the id that makes a retry the same commit."""

    kind: str
    aggregate_id: str
    commit_id: str
    payload: bytes

    @property
    def subject(self) -> str:
        return subject_of(self.kind, self.aggregate_id)


def subject_of(kind: str, aggregate_id: str) -> str:
    """Raises EventInvalid on an id that is no lower-case ULID: it could reach into another subject."""
    if not _ULID.fullmatch(aggregate_id):
        raise EventInvalid(f"{kind} id {aggregate_id!r}")
    return f"{SUBJECT_PREFIX}.{kind}.{aggregate_id}"


def aggregate_of(subject: str) -> tuple[str, str]:
    """(kind, id) of a subject. Raises MalformedCommit."""
    parts = subject.split(".")
    ours = len(parts) == 4 and subject.startswith(SUBJECT_PREFIX + ".") and parts[2] in DECIDERS
    if not ours or not _ULID.fullmatch(parts[3]):
        raise MalformedCommit(f"subject {subject!r}")
    return parts[2], parts[3]


def encode_commit(
    kind: str, aggregate_id: str, first_version: int, events: tuple[Event, ...], cause: Cause
) -> Commit:
    """`first_version` is the aggregate version of the first event (1 for a new aggregate).

    What could not be read back is never written: raises EventInvalid, and ValueError on a wrong number of
    events.
    """
    subject_of(kind, aggregate_id)
    if not 1 <= len(events) <= MAX_EVENTS_PER_COMMIT:
        raise ValueError(f"a commit holds 1..{MAX_EVENTS_PER_COMMIT} events, not {len(events)}")
    commit = commit_id(cause.command_id)
    time = (_EPOCH + timedelta(milliseconds=cause.at_unix_ms)).isoformat(timespec="milliseconds")
    batch = [
        CloudEvent(
            specversion="1.0",
            id=event_id(commit, index),
            source="computepool",
            type=str(event.__struct_config__.tag),
            subject=f"{kind}/{aggregate_id}",
            time=time.replace("+00:00", "Z"),
            datacontenttype="application/json",
            cpversion=first_version + index,
            cpcommand=cause.command_id,
            cpcorrelation=cause.correlation_id,
            cpcausation=cause.causation_id,
            data=msgspec.Raw(_checked(event)),
        )
        for index, event in enumerate(events)
    ]
    payload = msgspec.json.encode(batch)
    if len(payload) > MAX_COMMIT_BYTES:
        raise EventInvalid(f"a commit of {len(payload)} bytes; at most {MAX_COMMIT_BYTES}")
    return Commit(kind, aggregate_id, commit, payload)


def _checked(event: Event) -> bytes:
    """The event's JSON, read back once: structs do not check their fields when they are built."""
    data = msgspec.json.encode(event)
    try:
        _decoders[str(event.__struct_config__.tag)].decode(data)
    except _UNREADABLE as broken:
        raise EventInvalid(f"{event.__struct_config__.tag}: {broken}") from broken
    return data


_batch = msgspec.json.Decoder(list[CloudEvent])
_decoders = {name: msgspec.json.Decoder(cls) for name, cls in EVENT_CLASSES.items()}


def decode_commit(
    subject: str, sequence: int, headers: Mapping[str, str], payload: bytes
) -> tuple[Recorded, ...]:
    """The events of one message. Raises MalformedCommit or UnknownEventType; never skips anything."""
    kind, aggregate_id = aggregate_of(subject)
    try:
        batch = _batch.decode(payload)
    except _UNREADABLE as broken:
        raise MalformedCommit(f"sequence {sequence}: {broken}") from broken
    if not 1 <= len(batch) <= MAX_EVENTS_PER_COMMIT:
        raise MalformedCommit(f"sequence {sequence}: {len(batch)} events")
    commit = headers.get("Nats-Msg-Id", "")
    return tuple(
        _record(kind, aggregate_id, sequence, index, commit, headers.get(HEADER_WRITER, ""), item)
        for index, item in enumerate(batch)
    )


def _record(
    kind: str, aggregate_id: str, sequence: int, index: int, commit: str, writer: str, item: CloudEvent
) -> Recorded:
    if item.subject != f"{kind}/{aggregate_id}" or not item.type.startswith(kind + "."):
        raise MalformedCommit(
            f"sequence {sequence}: event {item.type} of {item.subject} under {kind}/{aggregate_id}"
        )
    try:
        moment = datetime.fromisoformat(item.time)
    except ValueError as broken:
        raise MalformedCommit(f"sequence {sequence}: time {item.time!r}") from broken
    if moment.tzinfo is None:
        raise MalformedCommit(f"sequence {sequence}: time {item.time!r} has no zone")
    time_unix_ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    return Recorded(
        sequence=sequence,
        index=index,
        kind=kind,
        aggregate_id=aggregate_id,
        version=item.cpversion,
        event_id=item.id,
        commit_id=commit,
        command_id=item.cpcommand,
        type=item.type,
        time_unix_ms=time_unix_ms,
        correlation_id=item.cpcorrelation,
        causation_id=item.cpcausation,
        writer=writer,
        event=decode_event(item.type, bytes(item.data)),
    )


def decode_event(name: str, data: bytes) -> Event:
    """One event body, upcast to its current version. Raises MalformedCommit or UnknownEventType."""
    try:
        while name in UPCASTERS:
            upcast = UPCASTERS[name](msgspec.json.decode(data))
            name, data = upcast["type"], msgspec.json.encode(upcast)
        if name not in _decoders:
            raise UnknownEventType(name)
        return _decoders[name].decode(data)
    except _UNREADABLE as broken:
        raise MalformedCommit(f"{name}: {broken}") from broken


def signing_bytes(subject: str, commit: str, expected_sequence: int, payload: bytes) -> bytes:
    """What a writer signs (Ed25519, its nkey): SHA-256 over length-prefixed fields, so that none can
    shift.
    """
    digest = hashlib.sha256(b"computepool commit v1")
    for part in (subject.encode(), commit.encode(), str(expected_sequence).encode(), payload):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def json_schema() -> dict[str, Any]:
    """JSON Schema of every event type (also the snapshot that keeps released versions unchanged)."""
    classes = [EVENT_CLASSES[name] for name in sorted(EVENT_CLASSES)]
    _, components = msgspec.json.schema_components(classes, ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": components}


def rejections() -> dict[str, type[Rejected]]:
    """Every refusal by its code."""
    found: dict[str, type[Rejected]] = {}
    waiting = list(Rejected.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        found[cls.code] = cls
    return found
