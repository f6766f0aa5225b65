"""Reads the whole log once and says what is wrong with it; knows nothing of where the messages come from.

Checked: no sequence is missing, every commit decodes, versions of every aggregate count 1..n, the expected
sequence is the aggregate's previous commit, ids follow from their causes, signatures hold, and the writer may
write that kind. The report carries the Merkle root over all of it.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Protocol

import msgspec

from events.envelope import MalformedCommit, Recorded, UnknownEventType, decode_commit
from events.ids import commit_id, event_id
from events.merkle import EMPTY_ROOT, Tree, leaf_bytes, leaf_hash
from services.auditor.signatures import SignatureInvalid, check_signature

MAX_FINDINGS = 100


class Message(Protocol):
    """A stored message as any source hands it over."""

    @property
    def subject(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def payload(self) -> bytes: ...


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong. `code` is stable."""

    sequence: int
    code: str
    detail: str


class Report(msgspec.Struct, frozen=True):
    """`root`: RFC 6962 root (hex) over `messages` leaves. The log is sound when there are no findings."""

    messages: int
    events: int
    aggregates: int
    root: str
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        return not self.findings


class Audit:
    """Takes messages in order; `report()` at any moment. `writers`: public key -> kinds it may write."""

    def __init__(self, writers: Mapping[str, Collection[str]]) -> None:
        self._writers = writers
        self._tree = Tree()
        self._events = 0
        self._versions: dict[str, int] = {}
        self._last_commit: dict[str, int] = {}
        self._seen_commits: dict[str, int] = {}
        self._findings: list[Finding] = []

    def take(self, message: Message) -> None:
        """Check the next message against all before it."""
        sequence = message.sequence
        if sequence != len(self._tree) + 1:
            self._find(sequence, "gap", f"expected sequence {len(self._tree) + 1}")
        data = leaf_bytes(message.subject, sequence, message.headers, message.payload)
        self._tree.append(leaf_hash(data))
        self._check_order(message)
        try:
            recorded = decode_commit(message.subject, sequence, message.headers, message.payload)
        except (MalformedCommit, UnknownEventType) as broken:
            self._find(sequence, broken.code, str(broken))
            return
        self._check_writer(message, recorded[0].kind)
        self._check_ids(message, recorded)
        for item in recorded:
            self._events += 1
            version = self._versions.get(message.subject, 0) + 1
            if item.version != version:
                self._find(sequence, "version", f"{message.subject}: {item.version} after {version - 1}")
            self._versions[message.subject] = max(item.version, version)

    def _check_order(self, message: Message) -> None:
        expected = message.headers.get("Nats-Expected-Last-Subject-Sequence")
        previous = self._last_commit.get(message.subject, 0)
        if expected != str(previous):
            self._find(message.sequence, "order", f"expected {expected}, the previous commit is {previous}")
        self._last_commit[message.subject] = message.sequence

    def _check_writer(self, message: Message, kind: str) -> None:
        try:
            writer = check_signature(message.subject, message.headers, message.payload)
        except SignatureInvalid as broken:
            self._find(message.sequence, broken.code, str(broken))
            return
        if kind not in self._writers.get(writer, ()):
            self._find(message.sequence, "writer", f"{writer} may not write {kind} events")

    def _check_ids(self, message: Message, recorded: tuple[Recorded, ...]) -> None:
        commit = message.headers.get("Nats-Msg-Id", "")
        if commit in self._seen_commits:
            self._find(message.sequence, "commit_id", f"{commit} stands at {self._seen_commits[commit]} too")
        self._seen_commits[commit] = message.sequence
        for item in recorded:
            if commit_id(item.command_id) != commit or event_id(commit, item.index) != item.event_id:
                self._find(message.sequence, "commit_id", f"event {item.index} does not follow from {commit}")
                return

    def _find(self, sequence: int, code: str, detail: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(sequence, code, detail))

    def report(self) -> Report:
        """What was found so far."""
        root = self._tree.root() if len(self._tree) else EMPTY_ROOT
        return Report(len(self._tree), self._events, len(self._versions), root.hex(), tuple(self._findings))


async def verify(messages: AsyncIterator[Message], writers: Mapping[str, Collection[str]]) -> Report:
    """The report over a whole log, from sequence 1 on."""
    audit = Audit(writers)
    async for message in messages:
        audit.take(message)
    return audit.report()
