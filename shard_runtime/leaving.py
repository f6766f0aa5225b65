"""How a place leaves its epoch: its requests' KV stays on this node or goes to a successor, then it ends.

Knows nothing of commands' delivery or of what a token is.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from shard_runtime.compute import ComputeThread
from shard_runtime.frames import WireDtype
from shard_runtime.handover import Kept, Parked, Parking
from shard_runtime.messages import Drain, KvMoved, PlanMember
from shard_runtime.moves import Post, Sending, wire_name
from shard_runtime.plan import Plan
from shard_runtime.signing import ReceiptKey
from shard_runtime.voice import report_id

TOLD_WITHIN_S = 10.0
"""The entry may ask to park a little before this node's own `Drain` comes."""
REPORT_WITHIN_S = 2.0

log = structlog.get_logger()

Report = Callable[[KvMoved], Awaitable[None]]


@dataclass(frozen=True)
class Drained:
    """What left a place with its requests."""

    moved_requests: int = 0
    kv_bytes: int = 0


class Leaving:
    """Of one place. `stays_for(epoch)`: does a place of that epoch on this node use the same KV memory?"""

    def __init__(
        self, plan: Plan, dtype: WireDtype, compute: ComputeThread, post: Post,
        receipt_key: ReceiptKey, report: Report, stays_for: Callable[[int], bool],
        sending_begins: Callable[[Sending], None],
    ) -> None:  # fmt: skip
        self._plan, self._dtype, self._compute, self._post = plan, dtype, compute, post
        self._receipt_key = receipt_key
        self._report, self._stays_for, self._sending_begins = report, stays_for, sending_begins
        self._told: asyncio.Future[Drain] = asyncio.get_running_loop().create_future()
        self._sending: Sending | None = None

    def told(self, command: Drain) -> None:
        if not self._told.done():
            self._told.set_result(command)

    def same_ranges(self, command: Drain) -> bool:
        """Is the new ring cut as this one is, so that KV fits there?"""

        def ranges(members: tuple[PlanMember, ...]) -> list[tuple[int, int]]:
            return [(member.first_layer, member.end_layer) for member in members]

        return ranges(command.members) == ranges(self._plan.members)

    async def park(self, rid: str, kept: Kept, parking: Parking) -> Parked:
        """Make a parked request's KV safe for `parking.to_epoch`; one that ends meanwhile moves nothing.

        From `kept` on, `drop` is what stops it.
        """
        if self._stays_for(parking.to_epoch):
            return Parked(moved=True, stays=True)
        begun = time.monotonic()
        try:
            command = await asyncio.wait_for(asyncio.shield(self._told), TOLD_WITHIN_S)
        except TimeoutError:
            return Parked(moved=False)
        slot, sending = kept(), self._to_successor(command)
        if command.to_epoch != parking.to_epoch or slot is None or sending is None:
            return Parked(moved=False)
        if not await sending.send(rid, slot, parking.held):
            return Parked(moved=False)
        me, successor = sending.plan.members
        kv_bytes, move_ms = parking.held * slot.bytes_per_token, round(1000 * (time.monotonic() - begun))
        log.info(
            "kv_moved", request_id=rid, session_id=parking.session_id, to_node_id=successor.node_id,
            epoch=command.to_epoch, tokens=parking.held, kv_bytes=kv_bytes, move_ms=move_ms,
        )  # fmt: skip
        moved = KvMoved(
            report_id("kv_moved", me.node_id, rid, str(command.to_epoch)), me.node_id, self._plan.pool_id,
            command.to_epoch, parking.session_id, rid, successor.node_id, parking.held, kv_bytes, move_ms,
        )  # fmt: skip
        await self._say(moved)
        return Parked(moved=True)

    def drop(self, rid: str) -> None:
        if self._sending is not None:
            self._sending.drop(rid)

    async def finish(self) -> Drained:
        """Nothing more will move."""
        if self._sending is None:
            return Drained()
        await self._sending.finish()
        return Drained(self._sending.moved_requests, self._sending.moved_bytes)

    @property
    def sending(self) -> Sending | None:
        return self._sending

    async def _say(self, moved: KvMoved) -> None:
        """The report is stored before the request goes on, so that it comes before that of the request's end.

        A log that is away delays it only so long: the client waits.
        """
        saying = asyncio.ensure_future(self._report(moved))
        await asyncio.wait({saying}, timeout=REPORT_WITHIN_S)

    def _to_successor(self, command: Drain) -> Sending | None:
        if self._sending is None:
            mine = self._plan.members[self._plan.me]
            stays = {member.node_id for member in self._plan.members}
            layers = (mine.first_layer, mine.end_layer)
            for member in command.members:
                if member.node_id not in stays and (member.first_layer, member.end_layer) == layers:
                    plan = Plan(wire_name(self._plan.pool_id), command.to_epoch, (mine, member), 0)
                    self._sending = Sending(plan, self._dtype, self._compute, self._post, self._receipt_key)
                    self._sending_begins(self._sending)
        return self._sending
