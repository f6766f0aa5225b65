"""`GET /recv?wait=ms` blocks until a message comes, and a client that leaves takes none with it."""

import asyncio
import time

from tests.mesh_nodes import MeshNode, mesh, until


async def waiting(node: MeshNode, count: int) -> None:
    async def as_many() -> bool:
        return (await node.metrics())["axl_recv_waiting"] == count

    await until(f"{count} receivers wait", as_many)


async def test_it_waits_as_long_as_asked_and_no_longer() -> None:
    async with mesh(1) as (node,):
        began = time.monotonic()
        assert await node.recv(None) is None
        assert await node.recv(0) is None
        assert time.monotonic() - began < 1.0
        began = time.monotonic()
        assert await node.recv(400) is None
        assert 0.4 <= time.monotonic() - began < 5.0


async def test_a_message_wakes_exactly_one_waiting_receiver() -> None:
    async with mesh(1) as (node,):
        receivers = [asyncio.create_task(node.recv(20_000)) for _ in range(3)]
        await waiting(node, 3)
        for number in range(3):
            assert await node.send(node.peer_id, b"%d" % number) == 200
            await waiting(node, 2 - number)
        got = await asyncio.gather(*receivers)
        assert sorted(m[1] for m in got if m) == [b"0", b"1", b"2"]


async def test_clients_that_leave_while_waiting_lose_nothing() -> None:
    async with mesh(1) as (node,):
        for number in range(30):
            leaver = asyncio.create_task(node.recv(30_000))
            await waiting(node, 1)
            leaver.cancel()
            await asyncio.gather(leaver, return_exceptions=True)
            if number % 2:  # every other time the next receiver comes before the last is gone
                await waiting(node, 0)
                assert await node.send(node.peer_id, b"%d" % number) == 200
                assert await node.recv() == (node.peer_id, b"%d" % number)
        await waiting(node, 0)
        assert await node.recv(None) is None


async def test_a_client_that_leaves_in_the_middle_of_a_large_message_leaves_it_behind() -> None:
    body = bytes(range(256)) * 50_000  # 12.8 MB: more than the socket's buffers take
    async with mesh(1, max_message_size=len(body)) as (node,):
        port = int(node.api_url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /recv?wait=20000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await waiting(node, 1)
        assert await node.send(node.peer_id, body) == 200
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()

        async def returned() -> bool:
            return (await node.metrics())["axl_recv_returned_total"] == 1

        await until("the message is put back", returned)
        assert await node.recv() == (node.peer_id, body)
