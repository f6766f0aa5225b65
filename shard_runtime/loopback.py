"""A kept-open HTTP/1.1 connection to a server on this machine, one request at a time, with little overhead.

Knows nothing of what it carries. A general client costs a third more per hop, in every hop of every token.
Understands what Go's net/http says: Content-Length, chunked bodies, and closing between requests.
"""

import asyncio
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024


class LoopbackError(Exception):
    """loopback_error: the server closed, was silent too long or did not speak HTTP; the caller may retry."""

    code = "loopback_error"


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Loopback:
    """Opens when first used, and again after the server closed. Not for concurrent requests."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "unix") or (parts.scheme == "http" and parts.hostname is None):
            raise ValueError(f"neither http://host:port nor unix:/path: {url}")
        self._socket = parts.path if parts.scheme == "unix" else None
        self._host, self._port = parts.hostname or "localhost", parts.port or 80
        lines = [f"Host: {self._host}:{self._port}", *(f"{name}: {value}" for name, value in headers.items())]
        self._head = "\r\n".join(lines)
        self._protocol: _Protocol | None = None

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: str = "", timeout_s: float = 15.0
    ) -> Answer:
        """`headers` are whole lines ending in CRLF. Raises LoopbackError; then the outcome is unknown."""
        protocol = self._protocol
        try:
            async with asyncio.timeout(timeout_s):
                if protocol is None or protocol.closed:
                    protocol = self._protocol = await self._open()
                length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
                head = f"{method} {path} HTTP/1.1\r\n{self._head}\r\n{headers}{length}\r\n".encode()
                return await protocol.ask(head + body)
        except (OSError, TimeoutError, LoopbackError) as failure:
            self.close()
            raise LoopbackError(repr(failure)) from failure
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        if self._protocol is not None:
            self._protocol.close()
            self._protocol = None

    async def _open(self) -> "_Protocol":
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            _, protocol = await loop.create_unix_connection(_Protocol, self._socket)
        else:
            _, protocol = await loop.create_connection(_Protocol, self._host, self._port)
        return protocol


class _Protocol(asyncio.Protocol):
    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, failure: Exception | None) -> None:
        self._fail(f"closed: {failure!r}")

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._answer is None or self._answer.done():
            self._fail("an answer to nothing")
            return
        try:
            parsed = parse(self._received)
        except (ValueError, LoopbackError) as failure:
            self._fail(repr(failure))
            return
        if parsed is not None:
            answer, used = parsed
            del self._received[:used]
            if answer.headers.get("connection", "").lower() == "close":
                self.close()
            self._answer.set_result(answer)

    def ask(self, request: bytes) -> "asyncio.Future[Answer]":
        if self._transport is None or self.closed:
            raise LoopbackError("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, why: str) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LoopbackError(why))


def parse(received: bytearray) -> tuple[Answer, int] | None:
    """The answer at the begin of `received` and its length; None while it is incomplete.

    Raises LoopbackError or ValueError when it can't become an answer, or is too long.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > MAX_HEAD_BYTES:
            raise LoopbackError("the head is too long")
        return None
    lines = received[:end].decode("latin-1").split("\r\n")
    version, status = lines[0].split(" ", 2)[:2]
    if not version.startswith("HTTP/1."):
        raise LoopbackError("not HTTP/1")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if status in ("204", "304"):
        return Answer(int(status), headers, b""), end + 4
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunks = _chunks(received, end + 4)
        return None if chunks is None else (Answer(int(status), headers, chunks[0]), chunks[1])
    if "content-length" not in headers:
        raise LoopbackError("neither a length nor chunks")
    length = int(headers["content-length"])
    if not 0 <= length <= MAX_BODY_BYTES:
        raise LoopbackError(f"{length} bytes")
    if len(received) < end + 4 + length:
        return None
    return Answer(int(status), headers, bytes(received[end + 4 : end + 4 + length])), end + 4 + length


def _chunks(received: bytearray, at: int) -> tuple[bytes, int] | None:
    pieces: list[bytes] = []
    total = 0
    while True:
        line_end = received.find(b"\r\n", at, at + 64)
        if line_end < 0:
            if len(received) - at > 64:
                raise LoopbackError("a chunk without a length")
            return None
        size = int(received[at:line_end].split(b";")[0], 16)
        total += size
        if size < 0 or total > MAX_BODY_BYTES:
            raise LoopbackError(f"{total} bytes")
        begin = line_end + 2
        if len(received) < begin + size + 2:
            return None
        if received[begin + size : begin + size + 2] != b"\r\n":
            raise LoopbackError("a chunk that does not end")
        if size == 0:
            return b"".join(pieces), begin + 2
        pieces.append(bytes(received[begin : begin + size]))
        at = begin + size + 2
