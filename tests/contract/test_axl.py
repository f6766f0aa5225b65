"""The mesh client against real nodes: ours, which lets it wait, and stock ones, which it has to poll."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from shard_runtime.axl import Axl, MeshUnreachable
from shard_runtime.pace import IDLE_S
from shard_runtime.plan import same_sender
from tests.mesh_nodes import MeshNode, mesh, until


class Inbox:
    def __init__(self) -> None:
        self.heard: list[tuple[bytes, str]] = []
        self._more = asyncio.Event()

    def take(self, message: bytes, sender: str) -> None:
        self.heard.append((message, sender))
        self._more.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def client(node: MeshNode, inbox: Inbox | None = None, token: str | None = None) -> AsyncIterator[Axl]:
    axl = Axl(node.api_url, token)
    await axl.start()
    listening = asyncio.create_task(axl.run((inbox or Inbox()).take))
    try:
        yield axl
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await axl.close()


async def test_messages_arrive_in_order_with_their_senders_key_on_our_node() -> None:
    inbox = Inbox()
    async with mesh(2) as nodes, client(nodes[0]) as sender, client(nodes[1], inbox) as receiver:
        assert (receiver.waits, receiver.peer_id) == (True, nodes[1].peer_id)
        messages = [number.to_bytes(4, "little") * (1 + number * 37) for number in range(200)]
        for message in messages:
            sender.post(nodes[1].peer_id, message)
        await inbox.until(lambda: len(inbox.heard) == len(messages))
        assert [message for message, _ in inbox.heard] == messages
        assert {who for _, who in inbox.heard} == {nodes[0].peer_id}
        assert sender.count == {"posted": 200}
        assert receiver.count == {"received": 200}


async def test_a_stock_node_is_polled_and_tells_enough_of_the_sender() -> None:
    inbox = Inbox()
    async with mesh(2, stock=True) as nodes, client(nodes[0]) as sender, client(nodes[1], inbox) as receiver:
        assert not receiver.waits
        messages = {bytes([number]) * 3000 for number in range(40)}
        for message in messages:
            sender.post(nodes[1].peer_id, message)
        await inbox.until(lambda: {message for message, _ in inbox.heard} == messages)
        assert receiver.count["polls"] > 0
        [seen] = {who for _, who in inbox.heard}
        assert seen != nodes[0].peer_id
        assert same_sender(nodes[0].peer_id, seen)


async def test_a_stock_node_is_looked_at_seldom_until_somebody_is_expected() -> None:
    inbox, expected = Inbox(), asyncio.Event()
    async with mesh(2, stock=True) as nodes, client(nodes[0]) as sender:
        receiver = Axl(nodes[1].api_url)
        await receiver.start()
        listening = asyncio.create_task(receiver.run(inbox.take, expected.is_set))
        clock = asyncio.get_running_loop().time

        async def fast() -> bool:
            """Are the next twenty looks closer together than those of an idle client can be?"""
            begun, before = clock(), receiver.count["polls"]
            while receiver.count["polls"] < before + 20:
                await asyncio.sleep(0.01)
            return (clock() - begun) / 20 < 0.8 * IDLE_S

        async def slow() -> bool:
            return not await fast()

        async def spoken() -> bool:
            receiver.post(nodes[0].peer_id, b"an answer may come now")
            return await fast()

        try:
            await until("nobody speaks, so it looks seldom", slow)
            expected.set()
            await until("a request is under way, so it looks often", fast)
            expected.clear()
            await until("it looks seldom again", slow)
            sender.post(nodes[1].peer_id, b"first")
            await inbox.until(lambda: bool(inbox.heard))
            await until("it looks seldom again", slow)
            await until("it has spoken, so it looks often", spoken)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await receiver.close()


async def test_what_overtakes_and_what_is_forgotten_at_a_stock_node_is_the_meshs_own_doing() -> None:
    """A client that reads on loses nothing, in whatever order; one that does not loses the oldest."""
    inbox = Inbox()
    async with mesh(2, stock=True, stock_reorder_ms=30) as nodes, client(nodes[0]) as sender:
        messages = [number.to_bytes(4, "little") for number in range(150)]
        async with client(nodes[1], inbox):
            for message in messages:
                sender.post(nodes[1].peer_id, message)
            await inbox.until(lambda: len(inbox.heard) == len(messages))
        heard = [message for message, _ in inbox.heard]
        assert heard != messages
        assert sorted(heard) == sorted(messages)
        for message in messages:
            sender.post(nodes[1].peer_id, message)

        async def all_in() -> bool:
            seen = await nodes[1].metrics()
            return seen["axl_drops_total"] + seen["axl_recv_queue_messages"] == len(messages)

        await until("150 messages at the stock node", all_in)
        metrics = await nodes[1].metrics()
        assert (metrics["axl_recv_queue_messages"], metrics["axl_drops_total"]) == (100, 50)
        assert metrics["axl_overtaken_total"] > 0


async def test_a_peer_that_is_not_there_holds_up_no_other() -> None:
    inbox = Inbox()
    async with mesh(2) as nodes, client(nodes[0]) as sender, client(nodes[1], inbox):
        sender.post("ab" * 32, b"to nobody")
        sender.post(nodes[1].peer_id, b"to somebody")
        await inbox.until(lambda: bool(inbox.heard))
        assert inbox.heard == [(b"to somebody", nodes[0].peer_id)]
        async with asyncio.timeout(20):  # the node's answer to the sender may come after the message
            while sender.count["posted"] != 1:
                await asyncio.sleep(0.01)


async def test_a_restarted_neighbour_is_reached_again() -> None:
    async with mesh(2) as nodes, client(nodes[0]) as sender:
        before, after = Inbox(), Inbox()
        async with client(nodes[1], before):
            sender.post(nodes[1].peer_id, b"before")
            await before.until(lambda: bool(before.heard))
        await nodes[1].restart(kill=True)
        async with client(nodes[1], after):
            sender.post(nodes[1].peer_id, b"after")
            await after.until(lambda: bool(after.heard))
        assert [message for message, _ in after.heard] == [b"after"]


async def test_the_token_of_the_node_is_needed_and_used() -> None:
    async with mesh(1, api_token="let me in") as nodes:
        axl = Axl(nodes[0].api_url, "wrong")
        with pytest.raises(MeshUnreachable):
            await axl.start(wait_s=0.2)
        async with client(nodes[0], token="let me in") as allowed:
            assert allowed.peer_id == nodes[0].peer_id
