"""What one node accepts, the other hands out: whole, once, in order. Real nodes on loopback."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.mesh_nodes import MeshNode, mesh, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
SIZES = [0, 1, 2, 1000, 1216, 1217, 8192, 65_535, 65_536, MIB, 4 * MIB, 16 * MIB]


def patterned(size: int, salt: int = 0) -> bytes:
    """`size` bytes in which a shifted, cut or repeated part shows."""
    block = b"".join(hashlib.sha256(bytes([salt, i & 255, i >> 8])).digest() for i in range(512))
    return (block * (size // len(block) + 1))[:size]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trio() -> AsyncIterator[list[MeshNode]]:
    """Three nodes, the second and third peering with the first over TLS; each test leaves them empty."""
    async with mesh(3) as nodes:
        yield nodes


async def counted(nodes: list[MeshNode], *names: str) -> list[float]:
    """The sum over the nodes of each counter."""
    seen = [await node.metrics() for node in nodes]
    return [sum(metrics[name] for metrics in seen) for name in names]


async def test_two_nodes_carry_every_size_both_ways(trio: list[MeshNode]) -> None:
    left, right = trio[:2]
    flow = [f"axl_{what}_{way}_total" for way in ("sent", "received") for what in ("frames", "bytes")]
    before = await counted(trio, *flow)
    for size in SIZES:
        body = patterned(size)
        assert await left.send(right.peer_id, body) == 200
        assert await right.recv() == (left.peer_id, body), size
        assert await right.send(left.peer_id, body[::-1]) == 200
        assert await left.recv() == (right.peer_id, body[::-1]), size
    grown = [now - then for now, then in zip(await counted(trio, *flow), before, strict=True)]
    assert grown == [2 * len(SIZES), 2 * sum(SIZES)] * 2
    assert await counted(trio, "axl_drops_total", "axl_lost_total", "axl_retried_total") == [0, 0, 0]


async def test_a_peer_whose_first_answer_was_lost_is_reached_soon() -> None:
    """The sender's branch of the overlay's tree is told to the target last: its answer finds no path."""

    async def first_message() -> None:
        async with mesh(3, key_ranks=(1, 2, 0)) as (hub, target, sender):
            assert await target.send(hub.peer_id, b"the hub and I have met") == 200
            assert await sender.send(target.peer_id, b"and we have not") == 200
            assert await target.recv() == (sender.peer_id, b"and we have not")

    await asyncio.gather(*(first_message() for _ in range(4)))


async def test_three_in_a_line_relay_for_each_other() -> None:
    async with mesh(3, shape="line", link="tcp") as (left, relay, right):
        assert right.peer_id not in {p["public_key"] for p in (await left.topology())["peers"]}
        for size in (1, 8192, MIB, 16 * MIB):
            body = patterned(size, salt=1)
            assert await left.send(right.peer_id, body) == 200
            assert await right.recv(30_000) == (left.peer_id, body), size
        assert await relay.recv(None) is None
        assert (await relay.metrics())["axl_frames_received_total"] == 0


async def test_each_pair_of_three_talks_at_once(trio: list[MeshNode]) -> None:
    nodes = trio
    pairs = [(a, b) for a in nodes for b in nodes]  # a node may write to itself, too
    bodies = {(a.name, b.name): patterned(5000 + 7 * i, salt=i) for i, (a, b) in enumerate(pairs)}
    statuses = await asyncio.gather(*(a.send(b.peer_id, bodies[a.name, b.name]) for a, b in pairs))
    assert statuses == [200] * 9
    for b in nodes:
        got = dict([await b.recv() or ("", b"") for _ in nodes])
        assert got == {a.peer_id: bodies[a.name, b.name] for a in nodes}


@pytest.mark.long
async def test_ten_thousand_messages_of_two_senders_none_lost_none_reordered(trio: list[MeshNode]) -> None:
    each = 5000

    async def pour(sender: MeshNode, to: MeshNode) -> None:
        for number in range(each):
            assert await sender.send(to.peer_id, number.to_bytes(4, "big") + bytes(number % 300)) == 200

    sink, one, two = trio
    [before] = await counted([sink], "axl_frames_delivered_total")
    pouring = asyncio.gather(pour(one, sink), pour(two, sink))
    numbers: dict[str, list[int]] = {one.peer_id: [], two.peer_id: []}
    for _ in range(2 * each):
        got = await sink.recv()
        assert got is not None, "a message is missing"
        sender, body = got
        number = int.from_bytes(body[:4], "big")
        assert len(body) == 4 + number % 300
        numbers[sender].append(number)
    await pouring
    assert numbers == {one.peer_id: list(range(each)), two.peer_id: list(range(each))}
    assert await sink.recv(None) is None
    assert await counted([sink], "axl_frames_delivered_total") == [before + 2 * each]
    assert await counted(trio, "axl_drops_total", "axl_lost_total") == [0, 0]


async def test_a_talkative_sender_does_not_silence_a_quiet_one(trio: list[MeshNode]) -> None:
    sink, loud, quiet = trio
    for number in range(200):
        assert await loud.send(sink.peer_id, b"loud %d" % number) == 200
    assert await quiet.send(sink.peer_id, b"quiet") == 200

    async def all_in() -> bool:
        return (await sink.metrics())["axl_recv_queue_messages"] == 201

    await until("all messages are in", all_in)
    first_three = [await sink.recv() for _ in range(3)]
    assert (quiet.peer_id, b"quiet") in first_three
    rest = [await sink.recv() for _ in range(198)]
    loud_ones = [m for m in first_three + rest if m and m[0] == loud.peer_id]
    assert [body for _, body in loud_ones] == [b"loud %d" % number for number in range(200)]


async def test_many_posts_at_once_all_arrive(trio: list[MeshNode]) -> None:
    left, right = trio[:2]
    bodies = [b"%d" % i for i in range(300)]
    assert set(await asyncio.gather(*(left.send(right.peer_id, body) for body in bodies))) == {200}
    got = [await right.recv() for _ in bodies]
    assert sorted(body for _, body in filter(None, got)) == sorted(bodies)
