"""A receiver that does not read makes its sender wait; nothing is dropped and memory stays bounded."""

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.mesh_nodes import MeshNode, mesh, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KIB, MIB = 1 << 10, 1 << 20
BODY = 64 * KIB


WAIT_MS = 300


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trio() -> AsyncIterator[list[MeshNode]]:
    """Three nodes with small queues, their connections opened; each test leaves them empty."""
    queues = {"recv_queue_bytes": 2 * MIB, "send_queue_bytes": MIB, "send_wait_ms": WAIT_MS}
    async with mesh(3, each=dict.fromkeys(range(3), queues)) as nodes:
        for sender in nodes[1:]:
            assert await sender.send(nodes[0].peer_id, b"warm") == 200
            assert await nodes[0].recv() == (sender.peer_id, b"warm")
        yield nodes


async def fill(sender: MeshNode, to: MeshNode, limit: int) -> int:
    """Sends numbered messages until the node answers 503 because the receiver takes no more; how many were
    accepted. (A 503 before that is a slow moment of the mesh: the same message is sent again.)
    """
    number, pushed_back = 0, 'axl_pushback_total{side="recv"}'
    before = (await to.metrics()).get(pushed_back, 0)
    while number < limit:
        status = await sender.send(to.peer_id, number.to_bytes(4, "big") + bytes(BODY - 4))
        assert status in (200, 503)
        if status == 200:
            number += 1
        elif (await to.metrics()).get(pushed_back, 0) > before:
            return number
    raise AssertionError(f"{limit} messages were accepted and nobody read")


async def drain(receiver: MeshNode, count: int) -> list[int]:
    got: list[int] = []
    for _ in range(count):
        message = await receiver.recv()
        assert message is not None, f"only {len(got)} of {count} came"
        assert len(message[1]) == BODY
        got.append(int.from_bytes(message[1][:4], "big"))
    return got


async def test_unread_messages_push_back_and_then_all_come_in_order(trio: list[MeshNode]) -> None:
    sink, sender, _ = trio
    before = sink.rss_bytes(), sender.rss_bytes()
    accepted = await fill(sender, sink, limit=4000)
    assert accepted * BODY > 3 * MIB, "both queues were used"
    assert accepted * BODY < 16 * MIB, "no more than the queues and the TCP buffers hold"
    assert sink.rss_bytes() - before[0] < 64 * MIB
    assert sender.rss_bytes() - before[1] < 64 * MIB
    held = await sink.metrics()
    assert MIB < held["axl_recv_queue_bytes"] <= 2 * MIB
    assert held['axl_pushback_total{side="recv"}'] >= 1
    assert (await sender.metrics())['axl_pushback_total{side="send"}'] >= 1
    assert await drain(sink, accepted) == list(range(accepted))
    assert await sink.recv(None) is None
    assert await sender.send(sink.peer_id, b"on we go") == 200
    assert await sink.recv() == (sender.peer_id, b"on we go")
    for node in (sender, sink):
        counted = await node.metrics()
        assert counted["axl_drops_total"] == counted["axl_lost_total"] == 0


async def test_the_refusal_comes_after_the_wait_and_says_when_to_come_back(trio: list[MeshNode]) -> None:
    sink, sender, _ = trio
    accepted = await fill(sender, sink, limit=4000)
    began = time.monotonic()
    async with sender.client.post(
        f"{sender.api_url}/send", data=bytes(BODY), headers={"X-Destination-Peer-Id": sink.peer_id}
    ) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        told = await answer.json()
    assert time.monotonic() - began >= WAIT_MS / 1000
    assert told["code"] == "peer_queue_full"
    assert set(told) == {"code", "detail", "remedy"}
    assert await drain(sink, accepted) == list(range(accepted))


async def test_one_sender_pushed_back_leaves_the_others_free(trio: list[MeshNode]) -> None:
    sink, greedy, modest = trio
    accepted = await fill(greedy, sink, limit=4000)
    arrived = (await sink.metrics())["axl_frames_received_total"]
    assert await modest.send(sink.peer_id, b"still here") == 200

    async def came() -> bool:  # nobody else's message can come: the queue of the greedy one is full
        return (await sink.metrics())["axl_frames_received_total"] == arrived + 1

    await until("the modest one's message is in", came)
    first_two = [await sink.recv() for _ in range(2)]
    assert (modest.peer_id, b"still here") in first_two
    assert [m[0] for m in first_two if m].count(greedy.peer_id) == 1
    assert await drain(sink, accepted - 1) == list(range(1, accepted))


async def test_a_blocked_destination_does_not_block_another(trio: list[MeshNode]) -> None:
    sender, deaf, listening = trio
    accepted = await fill(sender, deaf, limit=4000)
    for number in range(50):
        assert await sender.send(listening.peer_id, b"%d" % number) == 200
        assert await listening.recv() == (sender.peer_id, b"%d" % number)
    assert await drain(deaf, accepted) == list(range(accepted))
