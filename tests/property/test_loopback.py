"""Answers of an HTTP server are read whole however they are cut, and nothing else is taken for one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from shard_runtime.loopback import Loopback, LoopbackError, parse


def plain(body: bytes, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} OK\r\nX-A: b\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(pieces: list[bytes]) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = (f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces if piece)
    return head + b"".join(chunks) + b"0\r\n\r\n"


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_an_answer_is_complete_with_its_last_byte_and_not_before(body: bytes, following: bytes) -> None:
    raw = plain(body)
    assert all(parse(bytearray(raw[:cut])) is None for cut in range(len(raw)))
    parsed = parse(bytearray(raw + following))
    assert parsed is not None
    assert (parsed[0].status, parsed[0].body, parsed[0].headers["x-a"]) == (200, body, "b")
    assert parsed[1] == len(raw)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_chunks_are_put_together(pieces: list[bytes]) -> None:
    raw = chunked(pieces)
    assert all(parse(bytearray(raw[:cut])) is None for cut in range(len(raw)))
    parsed = parse(bytearray(raw))
    assert parsed is not None
    assert parsed[0].body == b"".join(pieces)
    assert parsed[1] == len(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0 OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n",
        b"x" * 20_000,
    ],
)
def test_what_is_no_answer_is_refused(raw: bytes) -> None:
    with pytest.raises((LoopbackError, ValueError)):
        parse(bytearray(raw))


@asynccontextmanager
async def server(answers: Callable[[int], bytes | None]) -> AsyncIterator[str]:
    """Answers the n-th request with `answers(n)`; None closes the connection."""
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                asked += 1
                said = answers(asked)
                if said is None:
                    break
                writer.write(said)
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    running = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"
    finally:
        running.close()


async def test_a_connection_is_kept_and_opened_again_after_it_was_closed() -> None:
    async with server(lambda number: None if number == 2 else plain(str(number).encode())) as url:
        connection = Loopback(url, {})
        assert (await connection.request("POST", "/send", b"x" * 100_000)).body == b"1"
        with pytest.raises(LoopbackError):
            await connection.request("GET", "/recv")
        assert (await connection.request("GET", "/recv")).body == b"3"
        connection.close()


def test_it_works_on_the_loop_of_the_worker() -> None:
    async def once() -> bytes:
        async with server(lambda number: chunked([b"a", b"b"])) as url:
            connection = Loopback(url, {})
            answer = await connection.request("GET", "/recv")
            connection.close()
            return answer.body

    assert uvloop.run(once()) == b"ab"


async def test_a_silent_server_is_given_up_and_its_late_answer_is_not_taken_for_the_next() -> None:
    async with server(lambda number: b"" if number == 1 else plain(str(number).encode())) as url:
        connection = Loopback(url, {})
        with pytest.raises(LoopbackError):
            await connection.request("GET", "/recv", timeout_s=0.05)
        assert (await connection.request("GET", "/recv")).body == b"2"
        connection.close()
