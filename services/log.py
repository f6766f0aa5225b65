"""The event log on JetStream: append one commit with optimistic concurrency, read a history, follow
everything.

Knows nothing of what events mean, and never guesses: whether an append with an unknown outcome happened is
read from the stream's leader.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

import structlog
from nats.aio.client import Client

from events.envelope import (
    CONTENT_TYPE,
    EVENTS_STREAM,
    HEADER_SIGNATURE,
    HEADER_WRITER,
    SUBJECT_PREFIX,
    Commit,
    Recorded,
    decode_commit,
    signing_bytes,
    subject_of,
)
from events.merkle import leaf_bytes, leaf_hash
from services import jetstream, nkey
from services.jetstream import LogUnavailable as LogUnavailable
from services.jetstream import RangeReader
from services.jetstream import StoredMessage as StoredMessage
from services.log_head import Head, read_head, write_head
from services.log_head import LogRolledBack as LogRolledBack
from services.log_reader import Gap as Gap
from services.log_reader import LogReader
from services.streams import ensure_streams as ensure_streams

log = structlog.get_logger("log")

MSG_ID = "Nats-Msg-Id"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
WRONG_LAST_SEQUENCE = (10071, 10164)
STILL_IN_PROCESS = 10158
ATTEMPT_S = 2.0
"""How long one attempt waits for its acknowledgement."""
GIVE_UP_S = 10.0
"""How long an append with an unknown outcome is repeated and looked for."""


class Conflict(Exception):
    """log_conflict: another writer appended to the aggregate first; load its history and decide again."""

    code = "log_conflict"


class CommitIdReused(Exception):
    """commit_id_reused: the commit id stands under another subject;
    a command id belongs to one aggregate only.
    """

    code = "commit_id_reused"


class LogReadOnly(Exception):
    """log_read_only: this log was opened without a writer's key; open it with one to append."""

    code = "log_read_only"


class Writer:
    """Signs commits with the nkey of a role.

    `head_path`: where its rollback guard remembers the log's head.
    """

    def __init__(self, seed: bytes, head_path: Path) -> None:
        self.public_key = nkey.public_key(seed)
        self.head_path = head_path
        self._key = nkey.signing_key(seed)

    @classmethod
    def load(cls, seed_path: Path) -> "Writer":
        """From a seed file; the head file stands beside it, which must be a directory that can be written.

        Raises FileNotFoundError, NkeyBroken.
        """
        return cls(seed_path.read_bytes().strip(), seed_path.with_suffix(".head"))

    def sign(self, digest: bytes) -> bytes:
        """Ed25519, 64 bytes."""
        return self._key.sign(digest)


class History(NamedTuple):
    """An aggregate's events in order; `last_sequence` is its last commit's place in the log (0: none)."""

    recorded: tuple[Recorded, ...]
    last_sequence: int


class Stored(NamedTuple):
    """Where a commit stands. `replayed`: it stood there before, perhaps with other events; read them."""

    sequence: int
    replayed: bool


class EventLog:
    """One connection's view of the log. Safe for many tasks at once."""

    def __init__(self, client: Client, writer: Writer | None) -> None:
        self._client = client
        self._writer = writer
        self._head: Head | None = None
        self._checked_at_reconnects = -1
        self._checking = asyncio.Lock()
        self._range: RangeReader | None = None
        self._range_lock = asyncio.Lock()

    @classmethod
    async def open(cls, client: Client, writer: Writer | None) -> "EventLog":
        """With a writer, the log's head is checked first.

        Raises LogRolledBack, LogUnavailable, OSError (the head file can't be written: nothing could be
        guarded).
        """
        opened = cls(client, writer)
        if writer is not None:
            opened._head = read_head(writer.head_path)
            await opened._guard()
            write_head(writer.head_path, opened._head or Head(0, ""))
        return opened

    async def last_sequence(self) -> int:
        """The log's last sequence (0: empty); as its leader knows it when opened with a writer.

        Raises LogUnavailable.
        """
        if self._writer is None:
            last = await self._get({"last_by_subj": f"{SUBJECT_PREFIX}.>"})
            return last.sequence if last is not None else 0
        return await jetstream.last_sequence(self._client, EVENTS_STREAM, ATTEMPT_S)

    async def history(self, kind: str, aggregate_id: str) -> History:
        """All events of one aggregate, as fresh as the stream's leader.

        Raises LogUnavailable, Gap (a version is missing), MalformedCommit, UnknownEventType.
        """
        subject = subject_of(kind, aggregate_id)
        last = await self._get_patiently({"last_by_subj": subject})
        if last is None:
            return History((), 0)
        recorded = _decoded(last)
        if recorded[0].version != 1:
            earlier: list[Recorded] = []
            for message in await self._messages_before(subject, last.sequence):
                earlier.extend(_decoded(message))
            recorded = (*earlier, *recorded)
        for version, item in enumerate(recorded, 1):
            if item.version != version:
                raise Gap(f"{subject} has no version {version}")
        return History(recorded, last.sequence)

    async def _messages_before(self, subject: str, before: int) -> list[StoredMessage]:
        found: list[StoredMessage] = []
        async with self._range_lock:
            if self._range is None:
                self._range = await RangeReader(self._client, EVENTS_STREAM).__aenter__()
            sequence = 1
            while True:
                run = await self._run_of(subject, sequence)
                found.extend(message for message in run if message.sequence < before)
                if not run or run[-1].sequence >= before:
                    return found
                sequence = run[-1].sequence + 1

    async def _run_of(self, subject: str, sequence: int) -> list[StoredMessage]:
        assert self._range is not None
        try:
            return await self._range.read(sequence, 256, ATTEMPT_S, subject)
        except LogUnavailable:
            return await self._range.read(sequence, 256, GIVE_UP_S - ATTEMPT_S, subject)

    async def append(self, commit: Commit, expected_sequence: int) -> Stored:
        """Store the commit if the aggregate's last sequence still is `expected_sequence` (0: it must be new).

        A commit that already stands in the log is not stored again. Raises Conflict, LogUnavailable (the
        outcome may be unknown: the same commit again finds out), CommitIdReused, LogRolledBack, LogReadOnly.
        """
        await self._guard()
        headers = self._headers(commit, expected_sequence)
        deadline = asyncio.get_running_loop().time() + GIVE_UP_S
        pause_s = 0.02
        while True:
            known = self._head.sequence if self._head else 0
            try:
                ack = await jetstream.publish(
                    self._client, commit.subject, commit.payload, headers, ATTEMPT_S
                )
                stored = await self._outcome(commit, expected_sequence, ack, headers, known)
                if stored is not None:
                    return stored
            except _Refused:
                raise
            except LogUnavailable as away:
                log.warning("append_unknown", subject=commit.subject, commit=commit.commit_id, why=str(away))
                if self._client.is_closed or asyncio.get_running_loop().time() >= deadline:
                    raise
                found = await self._found_anyway(commit, expected_sequence)
                if found is not None:
                    return found
            if asyncio.get_running_loop().time() >= deadline:
                raise LogUnavailable(f"{commit.subject}: still in process")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    def _headers(self, commit: Commit, expected_sequence: int) -> dict[str, str]:
        if self._writer is None:
            raise LogReadOnly
        digest = signing_bytes(commit.subject, commit.commit_id, expected_sequence, commit.payload)
        return {
            MSG_ID: commit.commit_id,
            EXPECTED_SEQUENCE: str(expected_sequence),
            "Nats-Expected-Stream": EVENTS_STREAM,
            "Content-Type": CONTENT_TYPE,
            HEADER_WRITER: self._writer.public_key,
            HEADER_SIGNATURE: self._writer.sign(digest).hex(),
        }

    async def _outcome(
        self, commit: Commit, expected: int, ack: jetstream.Ack, headers: dict[str, str], known: int
    ) -> Stored | None:
        """What the server's answer means; None: ask again.

        Dedup by id ignores the subject, so it is looked at.
        """
        if ack.error is not None:
            if ack.error.err_code in WRONG_LAST_SEQUENCE:
                found = await self._find(commit, expected)
                if found is None:
                    raise Conflict(commit.subject)
                return found
            if ack.error.err_code == STILL_IN_PROCESS:
                return None
            raise _Refused(f"{commit.subject}: {ack.error.description} ({ack.error.err_code})")
        if ack.duplicate:
            original = await self._get({"seq": ack.seq})
            if original is None:
                raise Gap(f"sequence {ack.seq} was acknowledged and is not there")
            if original.subject != commit.subject or original.headers.get(MSG_ID) != commit.commit_id:
                raise CommitIdReused(f"{commit.commit_id} stands under {original.subject}")
            return self._as_stored(original, commit)
        if ack.seq <= known:
            self._checked_at_reconnects = -1
            raise LogRolledBack(f"sequence {ack.seq} was given again; {known} was known")
        leaf = leaf_hash(leaf_bytes(commit.subject, ack.seq, headers, commit.payload))
        self._remember(Head(ack.seq, leaf.hex()))
        return Stored(ack.seq, replayed=False)

    async def _found_anyway(self, commit: Commit, expected: int) -> Stored | None:
        """After silence: the stored commit; None when it is not there (yet). Raises Conflict."""
        try:
            found = await self._find(commit, expected)
            last = await self._get({"last_by_subj": commit.subject})
        except LogUnavailable:
            return None
        if found is None and last is not None and last.sequence > expected:
            found = await self._find(commit, expected)
            if found is None:
                raise Conflict(commit.subject)
        return found

    async def _find(self, commit: Commit, after: int) -> Stored | None:
        """The commit among the subject's messages after a sequence, as the leader holds them."""
        sequence = after
        while True:
            message = await self._get({"seq": sequence + 1, "next_by_subj": commit.subject})
            if message is None:
                return None
            if message.headers.get(MSG_ID) == commit.commit_id:
                return self._as_stored(message, commit)
            sequence = message.sequence

    def _as_stored(self, message: StoredMessage, commit: Commit) -> Stored:
        leaf = leaf_hash(leaf_bytes(*message))
        self._remember(Head(message.sequence, leaf.hex()))
        return Stored(message.sequence, replayed=message.payload != commit.payload)

    async def _get(self, ask: dict[str, object]) -> StoredMessage | None:
        """From the leader; without a writer's key from any replica, since a reader may do no more."""
        get = jetstream.direct_get if self._writer is None else jetstream.leader_get
        return await get(self._client, EVENTS_STREAM, ask, ATTEMPT_S)

    async def _get_patiently(self, ask: dict[str, object]) -> StoredMessage | None:
        deadline = asyncio.get_running_loop().time() + GIVE_UP_S
        while True:
            try:
                return await self._get(ask)
            except LogUnavailable:
                if self._client.is_closed or asyncio.get_running_loop().time() >= deadline:
                    raise
                await asyncio.sleep(0.05)

    def _remember(self, head: Head) -> None:
        if self._writer is not None and (self._head is None or head.sequence > self._head.sequence):
            self._head = head
            write_head(self._writer.head_path, head)

    async def _guard(self) -> None:
        """At open and after every reconnect (the server may have come back with less).

        Raises LogRolledBack.
        """
        reconnects = int(self._client.stats["reconnects"])
        if reconnects == self._checked_at_reconnects:
            return
        async with self._checking:
            if self._head is not None and self._head.sequence > 0:
                await self._compare(self._head)
            self._checked_at_reconnects = reconnects

    async def _compare(self, head: Head) -> None:
        there = await self._get_patiently({"seq": head.sequence})
        if there is None:
            last = await self.last_sequence()
            raise LogRolledBack(f"the log ends at or misses {head.sequence}: its last sequence is {last}")
        if leaf_hash(leaf_bytes(*there)).hex() != head.leaf:
            raise LogRolledBack(f"sequence {head.sequence} holds another commit than the one acknowledged")

    def read(
        self, after_sequence: int = 0, *, follow: bool = True, batch: int = 1000
    ) -> AsyncGenerator[StoredMessage, None]:
        """Every message after a sequence, in order and without holes; with `follow`, forever.

        Outages are waited out when following, unless the connection was closed for good. Raises Gap,
        LogRolledBack (the log is shorter than what was read), LogUnavailable (only without `follow`).
        """
        return LogReader(self._client, self._get, self.last_sequence).read(after_sequence, follow, batch)


class _Refused(LogUnavailable):
    """The server said no for a reason of its own (full disk, no quorum): not stored, worth a later try."""


def _decoded(message: StoredMessage) -> tuple[Recorded, ...]:
    return decode_commit(message.subject, message.sequence, message.headers, message.payload)
