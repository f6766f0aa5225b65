"""One-way time of 8 KiB over the mesh: POST begun until the bytes are in the receiver's hands.

Knows nothing of frames. `ours` is the worker's own client on our node, `stock` the same on stock-mode nodes;
`poll` is a plain client of a stock node: it looks every millisecond; `poll_full` is that poller on ours.
"""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from statistics import median

import aiohttp

from shard_runtime.axl import Axl
from tests.mesh_nodes import MeshNode, mesh

SIZE = 8 * 1024
POLL_S = 0.001
ROUNDS, PER_ROUND, WARM = 6, 50, 10


class _Arrivals:
    """Where a receiver puts the moment of each message."""

    def __init__(self) -> None:
        self.waiting: asyncio.Future[float] | None = None

    def heard(self, message: bytes, sender: str) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(time.perf_counter())


class _Poller:
    """The stock client: GET /recv, one millisecond of sleep after each 204."""

    def __init__(self, node: MeshNode, arrivals: _Arrivals) -> None:
        self._node, self._arrivals = node, arrivals

    async def run(self) -> None:
        url = f"{self._node.api_url}/recv"
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(url) as answer:
                    body = await answer.read()
                if answer.status == 200:
                    self._arrivals.heard(body, answer.headers.get("X-From-Peer-Id", ""))
                else:
                    await asyncio.sleep(POLL_S)


async def _series(sender: Axl, to: str, arrivals: _Arrivals, count: int) -> list[float]:
    """Milliseconds of each of `count` messages, one at a time."""
    loop, found = asyncio.get_running_loop(), []
    for number in range(count):
        arrivals.waiting = loop.create_future()
        begun = time.perf_counter()
        sender.post(to, number.to_bytes(8, "little") * (SIZE // 8))
        async with asyncio.timeout(20):
            found.append((await arrivals.waiting - begun) * 1000)
        await asyncio.sleep(0.002)  # each message meets an idle mesh, as a token's frame does
    return found


async def measure_hops(rounds: int = ROUNDS, per_round: int = PER_ROUND) -> dict[str, object]:
    """Medians in milliseconds, rounds of the four interleaved in one run."""
    times: dict[str, list[float]] = {"ours": [], "stock": [], "poll": [], "poll_full": []}
    async with AsyncExitStack() as stack:
        full = await stack.enter_async_context(mesh(2))
        stock = await stack.enter_async_context(mesh(2, stock=True))
        senders = {}
        for name, nodes in (("full", full), ("stock", stock)):
            sender = Axl(nodes[0].api_url)
            await sender.start()
            stack.push_async_callback(sender.close)
            senders[name] = sender
        for number in range(rounds):
            for way in times:
                nodes = stock if way in ("poll", "stock") else full
                arrivals = _Arrivals()
                receiver = Axl(nodes[1].api_url)
                await receiver.start()
                listening = asyncio.create_task(
                    receiver.run(arrivals.heard, lambda: True)
                    if way in ("ours", "stock")
                    else _Poller(nodes[1], arrivals).run()
                )
                sender = senders["full" if nodes is full else "stock"]
                try:
                    await _series(sender, nodes[1].peer_id, arrivals, WARM if number else 3 * WARM)
                    times[way] += await _series(sender, nodes[1].peer_id, arrivals, per_round)
                finally:
                    listening.cancel()
                    with suppress(asyncio.CancelledError):
                        await listening
                    await receiver.close()
    p50 = {way: round(median(found), 3) for way, found in times.items()}
    return {
        "hop_ms_p50_8k": p50["ours"],
        "hop_ms_p95_8k": round(sorted(times["ours"])[int(0.95 * len(times["ours"]))], 3),
        "hop_ms_p50_8k_stock": p50["stock"],
        "hop_ms_p50_8k_http_poll": p50["poll"],
        "hop_ms_p50_8k_http_poll_on_our_node": p50["poll_full"],
        "hop_samples": {way: len(found) for way, found in times.items()},
    }


if __name__ == "__main__":
    print(asyncio.run(measure_hops()))
