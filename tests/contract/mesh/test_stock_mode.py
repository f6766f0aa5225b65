"""A node told to behave as the stock one: compatible on the wire, with the stock one's hazards."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.mesh_nodes import MeshNode, mesh, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[list[MeshNode]]:
    """Our node and one in stock mode."""
    async with mesh(2, each={1: {"stock": True}}) as nodes:
        yield nodes


async def test_stock_and_ours_understand_each_other(pair: list[MeshNode]) -> None:
    ours, stock = pair
    topology = await stock.topology()
    assert set(topology) == {"our_ipv6", "our_public_key", "peers", "tree"}
    assert (topology["our_public_key"], topology["our_ipv6"]) == (stock.peer_id, stock.ipv6)
    for size in (1, 8192, 300_000, 16 << 20):
        body = bytes([size & 255]) * size
        assert await ours.send(stock.peer_id, body) == 200
        got = None

        async def fetched() -> bool:
            nonlocal got
            got = await stock.recv(30_000)  # a stock node does not know `wait`
            return got is not None

        await until(f"{size} bytes at the stock node", fetched)
        assert got is not None
        sender, received = got
        assert received == body
        assert sender != ours.peer_id, "a stock node rebuilds the sender from its address"
        assert sender[:26] == ours.peer_id[:26]
        assert set(sender[-8:]) == {"f"}
        assert await stock.send(ours.peer_id, body) == 200
        assert await ours.recv(30_000) == (stock.peer_id, body)


async def test_stock_forgets_the_oldest_where_ours_would_push_back(pair: list[MeshNode]) -> None:
    ours, stock = pair
    before = (await stock.metrics())["axl_frames_received_total"]
    for number in range(150):
        assert await ours.send(stock.peer_id, b"%d" % number) == 200

    async def all_in() -> bool:
        return (await stock.metrics())["axl_frames_received_total"] == before + 150

    await until("150 messages at the stock node", all_in)
    got = [await stock.recv(None) for _ in range(101)]
    assert [m[1] for m in got if m] == [b"%d" % n for n in range(50, 150)]
    assert got[100] is None
    assert (await stock.metrics())["axl_drops_total"] == 50


async def test_extensions_are_announced_where_they_are_kept(pair: list[MeshNode]) -> None:
    ours, _ = pair
    topology = await ours.topology()
    expected = {"recv_wait", "full_sender_key", "backpressure", "metrics", "allowed_peers"}
    assert expected <= set(topology["extensions"])
    peer = topology["peers"][0]
    assert {"uri", "up", "inbound", "public_key", "root", "port", "coords"} <= set(peer)

    async def known() -> bool:
        tree = (await ours.topology())["tree"]
        return all({"public_key", "parent", "sequence"} <= set(node) for node in tree) and len(tree) >= 1

    await asyncio.wait_for(until("a tree is known", known), 20)
