"""Peers come and go: connections are found dead, opened again, and accepted messages are sent again."""

import asyncio

import pytest

from tests.mesh_nodes import mesh, until


@pytest.mark.long
async def test_sending_goes_on_after_the_peer_restarted() -> None:
    async with mesh(2) as (hub, leaf):
        was = leaf.peer_id
        for era, kill in enumerate([False, True]):
            for number in range(20):
                assert await hub.send(leaf.peer_id, b"before %d" % number) == 200
                assert await leaf.recv() == (hub.peer_id, b"before %d" % number)
            await leaf.restart(kill=kill)
            assert leaf.peer_id == was

            async def accepted() -> bool:
                return await hub.send(leaf.peer_id, b"are you back") == 200

            await until("the restarted peer takes messages", accepted, 30)
            after = [b"%d after %d" % (era, number) for number in range(20)]
            for body in after:
                assert await hub.send(leaf.peer_id, body) == 200
            seen: list[bytes] = []
            while after[-1] not in seen:
                got = await leaf.recv(20_000)
                assert got is not None, f"missing after {seen[-3:]}"
                seen.append(got[1])
            assert [body for body in dict.fromkeys(seen) if body in after] == after, (
                "in order; repeats are allowed"
            )
            while await leaf.recv(500) is not None:  # what was sent twice comes before the next round
                pass


@pytest.mark.long
async def test_messages_accepted_while_the_peer_was_silent_reach_its_successor() -> None:
    async with mesh(2, redial_window_ms=60_000) as (hub, leaf):
        assert await hub.send(leaf.peer_id, b"warm") == 200
        assert await leaf.recv() == (hub.peer_id, b"warm")
        assert leaf.process is not None
        await leaf.stop(kill=True)
        # the connection still looks open: these are accepted, and stay with the sender
        accepted = [n for n in range(5) if await hub.send(leaf.peer_id, b"late %d" % n) == 200]
        assert accepted == [0, 1, 2, 3, 4]
        await leaf.start()
        got: list[bytes] = []
        while len(set(got)) < 5:
            message = await leaf.recv(30_000)
            assert message is not None, f"only {got} came"
            if message[1] != b"warm":  # unacknowledged at the kill, so it may come again
                got.append(message[1])
        assert list(dict.fromkeys(got)) == [b"late %d" % n for n in range(5)]
        counted = await hub.metrics()
        assert counted["axl_retried_total"] >= 1
        assert counted["axl_lost_total"] == 0


async def test_a_connection_closed_for_idleness_is_noticed_and_opened_again() -> None:
    async with mesh(2, conn_idle_timeout_secs=1) as (hub, leaf):
        for number in range(2):
            assert await hub.send(leaf.peer_id, b"%d" % number) == 200
            assert await leaf.recv() == (hub.peer_id, b"%d" % number)

            async def closed() -> bool:
                return (await hub.metrics())["axl_links_up"] == 0

            await until("the idle connection is closed", closed)
        counted = await hub.metrics()
        assert (counted["axl_reconnects_total"], counted["axl_retried_total"]) == (1, 0)
        assert await leaf.recv(None) is None


@pytest.mark.parametrize(
    "kill", [False, pytest.param(True, marks=pytest.mark.long)], ids=["stopped", "killed"]
)
async def test_a_peer_that_stays_away_ends_in_a_502_while_its_sender_keeps_sending(kill: bool) -> None:
    async with mesh(2, redial_window_ms=500, dial_timeout_ms=1000) as (hub, leaf):

        async def answers(status: int) -> bool:
            return await hub.send(leaf.peer_id, b"x") == status

        await until("the path is found", lambda: answers(200))
        await leaf.stop(kill=kill)
        # a killed peer says nothing: TCP's own patience has to end although new messages keep coming
        await until("sending to an absent peer is refused", lambda: answers(502), 60 if kill else 10)


async def test_waiting_receivers_are_released_when_the_node_stops() -> None:
    async with mesh(1) as (node,):
        waiting = asyncio.create_task(node.recv(30_000))

        async def is_waiting() -> bool:
            return (await node.metrics())["axl_recv_waiting"] == 1

        await until("a receiver waits", is_waiting)
        assert node.process is not None
        node.process.terminate()
        assert await asyncio.wait_for(waiting, 5) is None
        assert await asyncio.wait_for(node.process.wait(), 5) == 0


async def test_what_was_accepted_leaves_before_the_process_does() -> None:
    async with mesh(2) as (hub, leaf):
        assert await hub.send(leaf.peer_id, b"warm") == 200
        big = [bytes([n]) * 3_000_000 for n in range(5)]
        assert [await hub.send(leaf.peer_id, body) for body in big] == [200] * 5
        assert await hub.stop() == 0
        got = [await leaf.recv() for _ in range(6)]
        assert [m[1] for m in got if m] == [b"warm", *big]
