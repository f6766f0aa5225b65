"""The few JetStream calls that the event log needs, typed: read from the leader, read a range, publish and
be told.

Knows nothing of commits or events. Every call uses the connection's own inbox and needs no consumer.
"""

import asyncio
import base64
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

ADDED_BY_SERVER = frozenset(
    {
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Sequence",
        "Nats-Time-Stamp",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
        "Nats-UpTo-Sequence",
        "Nats-Msg-Size",
    }
)
BATCH_BYTES = 8 * 1024 * 1024
"""Most payload bytes that one range read asks for."""
LOOK_S = 0.05
"""How often a waiting call looks whether its connection was cut."""


class StoredMessage(NamedTuple):
    """One message as the stream holds it; `headers` without what the server adds on reading."""

    subject: str
    sequence: int
    headers: Mapping[str, str]
    payload: bytes


class LogUnavailable(Exception):
    """log_unavailable: the event log did not answer in time;
    repeat with the same command id, nothing happens twice.
    """

    code = "log_unavailable"


class ApiError(msgspec.Struct, frozen=True):
    code: int
    err_code: int = 0
    description: str = ""


class Ack(msgspec.Struct, frozen=True):
    """What JetStream says to a publish."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class _Message(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    data: str = ""
    hdrs: str = ""


class _Got(msgspec.Struct, frozen=True):
    message: _Message | None = None
    error: ApiError | None = None


class _State(msgspec.Struct, frozen=True):
    first_seq: int
    last_seq: int
    messages: int


class _Info(msgspec.Struct, frozen=True):
    state: _State | None = None
    error: ApiError | None = None


NO_MESSAGE = 10037


async def request(client: Client, subject: str, body: bytes, timeout_s: float) -> bytes:
    """One answer. Raises LogUnavailable."""
    return bytes((await _ask(client, subject, body, None, timeout_s)).data)


async def publish(
    client: Client, subject: str, payload: bytes, headers: dict[str, str], timeout_s: float
) -> Ack:
    """Publish and wait for what the stream says. Raises LogUnavailable when the outcome is not known."""
    reply = await _ask(client, subject, payload, headers, timeout_s)
    return msgspec.json.decode(reply.data, type=Ack)


async def _ask(
    client: Client, subject: str, body: bytes, headers: dict[str, str] | None, timeout_s: float
) -> Msg:
    """Gives up early when the connection was cut in between: the answer went with it."""
    reconnects = client.stats["reconnects"]
    asking = asyncio.ensure_future(client.request(subject, body, timeout=timeout_s, headers=headers))
    try:
        while not asking.done() and client.stats["reconnects"] == reconnects:
            await asyncio.wait({asking}, timeout=LOOK_S)
        if not asking.done():
            raise LogUnavailable(f"{subject}: the connection was cut")
        return asking.result()
    except (NatsError, OSError, TimeoutError) as away:
        raise LogUnavailable(f"{subject}: {away!r}") from away
    finally:
        asking.cancel()


async def leader_get(
    client: Client, stream: str, ask: Mapping[str, object], timeout_s: float
) -> StoredMessage | None:
    """One message from the stream's leader: {"last_by_subj": s} or {"seq": n} or {"seq": n, "next_by_subj":
    s}.

    None: there is no such message. Raises LogUnavailable.
    """
    raw = await request(client, f"$JS.API.STREAM.MSG.GET.{stream}", msgspec.json.encode(ask), timeout_s)
    got = msgspec.json.decode(raw, type=_Got)
    if got.error is not None and got.error.err_code == NO_MESSAGE:
        return None
    if got.error is not None or got.message is None:
        raise LogUnavailable(f"{stream}: {got.error}")
    found = got.message
    headers = _headers(base64.b64decode(found.hdrs))
    return StoredMessage(found.subject, found.seq, headers, base64.b64decode(found.data))


async def direct_get(
    client: Client, stream: str, ask: Mapping[str, object], timeout_s: float
) -> StoredMessage | None:
    """As `leader_get`, from any replica (which may be behind), with nothing but the right to read."""
    subject = f"$JS.API.DIRECT.GET.{stream}"
    reply = await _ask(client, subject, msgspec.json.encode(ask), None, timeout_s)
    headers = reply.headers or {}
    status = headers.get("Status")
    if status == "404":
        return None
    if status is not None:
        raise LogUnavailable(f"{subject}: {status} {headers.get('Description', '')}")
    return _stored(headers, reply)


def _stored(headers: Mapping[str, str], message: Msg) -> StoredMessage:
    kept = {key: value for key, value in headers.items() if key not in ADDED_BY_SERVER}
    return StoredMessage(headers["Nats-Subject"], int(headers["Nats-Sequence"]), kept, bytes(message.data))


async def last_sequence(client: Client, stream: str, timeout_s: float) -> int:
    """The stream's last sequence, as its leader knows it (0: empty). Raises LogUnavailable."""
    raw = await request(client, f"$JS.API.STREAM.INFO.{stream}", b"", timeout_s)
    info = msgspec.json.decode(raw, type=_Info)
    if info.error is not None or info.state is None:
        raise LogUnavailable(f"{stream}: {info.error}")
    return info.state.last_seq


def _headers(raw: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.decode().strip()] = value.decode().strip()
    return found


class RangeReader:
    """Reads runs of messages by "direct get", many per request; one subscription for its whole life."""

    def __init__(self, client: Client, stream: str) -> None:
        self._client = client
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._inbox = str(client.new_inbox())
        self._number = 0
        self._reply = ""
        self._found: list[StoredMessage] = []
        self._status: tuple[str, str] | None = None
        self._progress = asyncio.Event()
        self._subscription: object | None = None

    async def __aenter__(self) -> "RangeReader":
        self._subscription = await self._client.subscribe(self._inbox + ".*", cb=self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._subscription is not None and not self._client.is_closed:
            await self._subscription.unsubscribe()  # type: ignore[attr-defined]

    async def _take(self, message: Msg) -> None:
        if message.subject != self._reply:
            return
        headers = message.headers or {}
        status = headers.get("Status")
        if status is not None:
            self._status = (status, headers.get("Description", ""))
        else:
            self._found.append(_stored(headers, message))
        self._progress.set()

    async def read(
        self, first_sequence: int, count: int, timeout_s: float, subject: str | None = None
    ) -> list[StoredMessage]:
        """Up to `count` messages from `first_sequence` on (of one subject); fewer at the end, [] beyond it.

        Raises LogUnavailable when nothing comes for `timeout_s`.
        """
        self._number += 1
        self._reply, self._found, self._status = f"{self._inbox}.{self._number}", [], None
        ask: dict[str, object] = {"seq": first_sequence, "batch": count, "max_bytes": BATCH_BYTES}
        if subject is not None:
            ask["next_by_subj"] = subject
        try:
            await self._client.publish(self._subject, msgspec.json.encode(ask), reply=self._reply)
            while self._status is None:
                self._progress.clear()
                async with asyncio.timeout(timeout_s):
                    await self._progress.wait()
        except (NatsError, OSError, TimeoutError) as away:
            raise LogUnavailable(f"{self._subject}: {away!r}") from away
        if self._status[0] not in ("204", "404"):
            raise LogUnavailable(f"{self._subject}: {' '.join(self._status)}")
        return self._found
