"""Client of a mesh node (AXL or our own) over its loopback HTTP API: /send, /recv, /topology, nothing else.

Knows nothing of frames, requests or models. Messages may be lost or repeated: the delivery protocol copes.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

import msgspec
import structlog

from shard_runtime.loopback import Loopback, LoopbackError
from shard_runtime.pace import IDLE_S, Pace

WAIT_MS = 20_000
QUEUE = 256
SENDERS_TO_STOCK = 4
"""A stock node dials for every message and keeps no order: so many go to one peer at the same time."""
SEND_TIMEOUT_S = 15.0
TRIES = 6
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0

OnMessage = Callable[[bytes, str], None]
"""Called with (message, the sender's key as the mesh tells it)."""

log = structlog.get_logger()


class MeshUnreachable(Exception):
    """mesh_unreachable: the mesh node's API does not answer; start it, or mend `axl_url` and `axl_token`."""

    code = "mesh_unreachable"


class _Topology(msgspec.Struct):
    our_public_key: str
    extensions: tuple[str, ...] | None = None


class Axl:
    """One mesh node's API. `start` first; then `post` from the event loop and `run` as a task.

    `count` holds `posted`, `unreachable`, `pushed_back`, `dropped`, `received`, `polls`.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.peer_id = ""
        """This node's public key, 64 hex digits, known after `start`."""
        self.waits = False
        """Whether /recv can wait for a message."""
        self.pushes_back = False
        """Whether a full queue makes the sender wait instead of losing what is in it."""
        self.count: Counter[str] = Counter()
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._queues: dict[str, asyncio.Queue[bytes]] = {}
        self._senders: list[asyncio.Task[None]] = []
        self._pace = Pace(0.0)
        self._spoke = asyncio.Event()

    async def start(self, wait_s: float = 15.0) -> None:
        """Learn the node's key and extensions. Raises MeshUnreachable when it stays silent for `wait_s`."""
        connection = Loopback(self._url, self._headers)
        deadline = asyncio.get_running_loop().time() + wait_s
        try:
            while True:
                try:
                    answer = await connection.request("GET", "/topology")
                    if answer.status != 200:
                        raise LoopbackError(f"/topology answered {answer.status}")
                    topology = msgspec.json.decode(answer.body, type=_Topology)
                    self.peer_id = topology.our_public_key.lower()
                    extensions = topology.extensions or ()
                    self.waits, self.pushes_back = "recv_wait" in extensions, "backpressure" in extensions
                    return
                except (LoopbackError, msgspec.DecodeError) as failure:
                    if asyncio.get_running_loop().time() > deadline:
                        raise MeshUnreachable(f"{self._url}: {failure!r}") from failure
                    await asyncio.sleep(0.1)
        finally:
            connection.close()

    def post(self, peer_id: str, message: bytes) -> None:
        """Queue a message. Each peer has its own queue and connection, so a slow one holds up no other."""
        queue = self._queues.get(peer_id)
        if queue is None:
            queue = self._queues[peer_id] = asyncio.Queue(QUEUE)
            for _ in range(1 if self.waits else SENDERS_TO_STOCK):
                self._senders.append(asyncio.create_task(self._send_all(peer_id, queue)))
        try:
            queue.put_nowait(message)
        except asyncio.QueueFull:
            self.count["dropped"] += 1
        self._spoke.set()

    async def run(self, on_message: OnMessage, expecting: Callable[[], bool] = lambda: False) -> None:
        """Receive for ever: waiting inside /recv when the node can, else looking as often as `Pace` says.

        `expecting` tells whether a request is under way here, so that a message may come at any time.
        """
        path = f"/recv?wait={WAIT_MS}" if self.waits else "/recv"
        clock, connection = asyncio.get_running_loop().time, Loopback(self._url, self._headers)
        self._pace = Pace(clock())
        while True:
            try:
                answer = await connection.request("GET", path, timeout_s=WAIT_MS / 1000 + 10)
                if answer.status not in (200, 204):
                    raise LoopbackError(f"/recv answered {answer.status}")
            except LoopbackError as failure:
                self.count["recv_failed"] += 1
                log.warning("mesh_recv_failed", error=str(failure))
                await asyncio.sleep(LONGEST_PAUSE_S / 2)
                continue
            if answer.status == 200:
                self.count["received"] += 1
                self._pace.heard(clock())
                on_message(answer.body, answer.headers.get("x-from-peer-id", ""))
            elif not self.waits:
                self.count["polls"] += 1
                await self._pause(clock, expecting())

    async def _pause(self, clock: Callable[[], float], expecting: bool) -> None:
        """Until the next look at a node that can't wait; a word of ours ends a long pause."""
        if self._spoke.is_set():
            self._spoke.clear()
            self._pace.spoke(clock())
        pause_s = self._pace.pause_s(clock(), expecting)
        if pause_s < IDLE_S / 4:
            await asyncio.sleep(pause_s)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._spoke.wait()

    async def close(self) -> None:
        for task in self._senders:
            task.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        self._senders.clear()

    async def drain(self, seconds: float) -> None:
        """Wait until everything posted has been handed to the mesh, or `seconds` have passed."""
        waits = [asyncio.ensure_future(queue.join()) for queue in self._queues.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=seconds)
            for wait in late:
                wait.cancel()

    async def _send_all(self, peer_id: str, queue: asyncio.Queue[bytes]) -> None:
        connection = Loopback(self._url, self._headers)
        header = f"X-Destination-Peer-Id: {peer_id}\r\n"
        try:
            while True:
                message = await queue.get()
                try:
                    await self._send(connection, header, message)
                finally:
                    queue.task_done()
        finally:
            connection.close()

    async def _send(self, connection: Loopback, header: str, message: bytes) -> None:
        pause_s = FIRST_PAUSE_S
        for _ in range(TRIES):
            try:
                answer = await connection.request("POST", "/send", message, header, SEND_TIMEOUT_S)
            except LoopbackError:
                self.count["unreachable"] += 1
            else:
                if answer.status == 200:
                    self.count["posted"] += 1
                    return
                self.count["pushed_back" if answer.status == 503 else "unreachable"] += 1
                if answer.status not in (500, 502, 503, 504):
                    log.error("mesh_send_refused", status=answer.status)
                    break
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 3)
        self.count["dropped"] += 1
