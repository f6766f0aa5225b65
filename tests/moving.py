"""Drains in a test's ring: what orchestrator and gateway do for one, and nothing else of them.

A `Cast` is the workers that stand in the ring, by number; a drain puts one for another at the next epoch.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services import dispatch
from shard_runtime.messages import (
    Adopt,
    Drain,
    Generate,
    KvMoved,
    LoadSlice,
    PlanMember,
    SealedContent,
    SliceDrained,
    SliceLoaded,
    command_subject,
    encode,
    kind_of,
)
from shard_runtime.sealing import seal_for
from tests.outcome import Outcome
from tests.ring import Ring, new_id


@dataclass
class Cast:
    """One pool in a ring whose members change. `members`: numbers of workers, the entry first."""

    ring: Ring
    model_dir: Path
    cuts: Sequence[int]
    digest: str
    dtype: str
    pool_id: str = field(default_factory=new_id)
    members: tuple[int, ...] = ()
    epoch: int = 0
    kv_slots: int = 8
    max_context: int = 256
    following: set[asyncio.Task[None]] = field(default_factory=set)

    def plan(self, members: Sequence[int]) -> tuple[PlanMember, ...]:
        starts = [0, *self.cuts[:-1]]
        return tuple(
            self.member(number, first, end)
            for number, first, end in zip(members, starts, self.cuts, strict=True)
        )

    def member(self, number: int, first: int, end: int) -> PlanMember:
        worker = self.ring.workers[number]
        return PlanMember(worker.node_id, worker.mesh_node.peer_id, worker.receipt_key.address, first, end)

    async def load(self, members: tuple[int, ...]) -> None:
        """Make these the next epoch, loaded and serving."""
        await self.send_load(members)
        self._serve(members)

    def _serve(self, members: tuple[int, ...]) -> None:
        self.epoch, self.members = self.epoch + 1, members
        self.ring.at_epoch(self.pool_id, self.epoch)

    async def send_load(self, members: tuple[int, ...]) -> None:
        """Have all of them load the next epoch."""
        epoch = self.epoch + 1
        for number in members:
            command = LoadSlice(
                new_id(), self.pool_id, epoch, str(self.model_dir), self.digest, self.dtype,  # type: ignore[arg-type]
                self.plan(members), self.max_context, self.kv_slots,
            )  # fmt: skip
            await dispatch.send(self.ring.orchestrator, self._id(number), command)

        def loaded() -> bool:
            said = self.ring.said(SliceLoaded, pool_id=self.pool_id, epoch=epoch)
            return len({report.node_id for report in said}) == len(members)

        await self.ring.until("the next epoch", loaded, 60)

    async def prepare(self, leaver: int, successor: int) -> tuple[int, ...]:
        """Have the ring with `successor` for `leaver` loaded; requests still go to the old one."""
        members = tuple(successor if number == leaver else number for number in self.members)
        await self.send_load(members)
        return members

    async def drain(self, members: tuple[int, ...], *, adopt: bool = True) -> None:
        """Make a prepared ring the one that serves and tell everybody; returns when all have been told."""
        old, before = self.members, self.epoch
        self._serve(members)
        for number in set(members) - set(old) if adopt else ():
            leaver = self.plan(old)[members.index(number)]
            coming = Adopt(new_id(), self.pool_id, self.epoch, leaver)
            await dispatch.send(self.ring.orchestrator, self._id(number), coming)
        for number in old:
            leaving = Drain(new_id(), self.pool_id, before, self.epoch, self.plan(self.members))
            await dispatch.send(self.ring.orchestrator, self._id(number), leaving)

    async def drained(self, epoch: int, members: Sequence[int], deadline_s: float = 60) -> list[SliceDrained]:
        """Wait until all members of an old epoch have left it; what they said."""

        def said() -> list[SliceDrained]:
            return self.ring.said(SliceDrained, pool_id=self.pool_id, epoch=epoch)

        def all_have() -> bool:
            return len({report.node_id for report in said()}) == len(members)

        await self.ring.until("drained", all_have, deadline_s)
        return said()

    async def ask(self, prompt: Sequence[int], **options: object) -> Outcome:
        """A request that is followed from ring to ring, as a gateway does."""
        entry = self.members[0]
        command = self.ring.command(self.pool_id, prompt, entry=entry, **options)  # type: ignore[arg-type]
        outcome = await self.ring.ask(command, entry=entry)
        task = asyncio.create_task(self._follow(outcome, command, tuple(prompt), options.get("stop", ())))  # type: ignore[arg-type]
        self.following.add(task)
        task.add_done_callback(self.following.discard)
        return outcome

    def stop_following(self) -> None:
        """For requests that were cancelled between two rings: nobody says an end of those."""
        for task in self.following:
            task.cancel()

    def moves(self, outcome: Outcome) -> list[KvMoved]:
        return self.ring.said(KvMoved, request_id=outcome.request_id)

    async def _follow(
        self, outcome: Outcome, command: Generate, prompt: tuple[int, ...], stop: tuple[str, ...]
    ) -> None:
        followed = 0
        while not outcome.over.is_set():
            if len(outcome.moved_to) > followed:
                followed += 1
                await self.resume(outcome, command, prompt, stop)
            outcome.changed.clear()
            await outcome.changed.wait()

    async def resume(
        self, outcome: Outcome, command: Generate, prompt: tuple[int, ...], stop: tuple[str, ...] = ()
    ) -> None:
        """Send the rest of a request to the entry of the newest epoch."""
        entry = self.ring.workers[self.members[0]]
        content = SealedContent(prompt, outcome.nonce, stop, tuple(outcome.ids))
        again = msgspec.structs.replace(
            command, command_id=new_id(), epoch=self.epoch,
            sealed=seal_for(entry.seal_public, content, command.request_id),
        )  # fmt: skip
        subject = command_subject(entry.node_id, kind_of(again))
        await self.ring.gateway.jetstream().publish(subject, encode(again))

    def _id(self, number: int) -> str:
        return self.ring.workers[number].node_id
