"""A receiver that does not read makes its sender wait; nothing is dropped and memory stays bounded."""

import time
from typing import Any

from tests.mesh_nodes import MeshNode, mesh

KIB, MIB = 1 << 10, 1 << 20
BODY = 64 * KIB


async def fill(sender: MeshNode, to: MeshNode, limit: int) -> int:
    """Sends numbered messages until the node answers 503; how many were accepted."""
    for number in range(limit):
        status = await sender.send(to.peer_id, number.to_bytes(4, "big") + bytes(BODY - 4))
        if status == 503:
            return number
        assert status == 200
    raise AssertionError(f"{limit} messages were accepted and nobody read")


async def drain(receiver: MeshNode, count: int) -> list[int]:
    got: list[int] = []
    for _ in range(count):
        message = await receiver.recv()
        assert message is not None, f"only {len(got)} of {count} came"
        assert len(message[1]) == BODY
        got.append(int.from_bytes(message[1][:4], "big"))
    return got


async def test_unread_messages_push_back_and_then_all_come_in_order() -> None:
    queues: dict[str, Any] = {"recv_queue_bytes": 4 * MIB, "send_queue_bytes": 2 * MIB, "send_wait_ms": 300}
    async with mesh(2, **queues) as (sender, sink):
        assert await sender.send(sink.peer_id, b"warm") == 200
        assert await sink.recv() == (sender.peer_id, b"warm")
        before = sink.rss_bytes(), sender.rss_bytes()
        accepted = await fill(sender, sink, limit=4000)
        assert accepted * BODY > 6 * MIB, "both queues were used"
        assert accepted * BODY < 24 * MIB, "no more than the queues and the TCP buffers hold"
        assert sink.rss_bytes() - before[0] < 64 * MIB
        assert sender.rss_bytes() - before[1] < 64 * MIB
        held = await sink.metrics()
        assert held["axl_recv_queue_bytes"] <= 4 * MIB
        assert held['axl_pushback_total{side="recv"}'] >= 1
        assert (await sender.metrics())['axl_pushback_total{side="send"}'] >= 1
        assert await drain(sink, accepted) == list(range(accepted))
        assert await sink.recv(None) is None
        assert await sender.send(sink.peer_id, b"on we go") == 200
        assert await sink.recv() == (sender.peer_id, b"on we go")
        for node in (sender, sink):
            counted = await node.metrics()
            assert counted["axl_drops_total"] == counted["axl_lost_total"] == 0


async def test_the_refusal_says_when_to_come_back_and_waits_first() -> None:
    queues: dict[str, Any] = {
        "recv_queue_messages": 2,
        "recv_queue_bytes": 2 * BODY,
        "send_queue_bytes": BODY,
        "send_wait_ms": 400,
    }
    async with mesh(2, **queues) as (sender, sink):
        accepted = await fill(sender, sink, limit=2000)
        began = time.monotonic()
        async with sender.client.post(
            f"{sender.api_url}/send", data=bytes(BODY), headers={"X-Destination-Peer-Id": sink.peer_id}
        ) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            told = await answer.json()
        assert time.monotonic() - began >= 0.4
        assert told["code"] == "peer_queue_full"
        assert set(told) == {"code", "detail", "remedy"}
        assert await drain(sink, accepted) == list(range(accepted))


async def test_one_sender_pushed_back_leaves_the_others_free() -> None:
    queues: dict[str, Any] = {"recv_queue_bytes": MIB, "send_queue_bytes": MIB, "send_wait_ms": 200}
    async with mesh(3, **queues) as (sink, greedy, modest):
        accepted = await fill(greedy, sink, limit=2000)
        assert await modest.send(sink.peer_id, b"still here") == 200
        first_two = [await sink.recv() for _ in range(2)]
        assert (modest.peer_id, b"still here") in first_two
        rest = [m for m in first_two if m and m[0] == greedy.peer_id]
        assert len(rest) == 1
        assert await drain(sink, accepted - 1) == list(range(1, accepted))


async def test_a_blocked_destination_does_not_block_another() -> None:
    queues: dict[str, Any] = {"recv_queue_bytes": MIB, "send_queue_bytes": MIB, "send_wait_ms": 200}
    async with mesh(3, **queues) as (sender, deaf, listening):
        await fill(sender, deaf, limit=2000)
        for number in range(50):
            assert await sender.send(listening.peer_id, b"%d" % number) == 200
            assert await listening.recv() == (sender.peer_id, b"%d" % number)
