"""A worker's places in rings: loads and unloads slices, and routes mesh frames to the stage they are for.

Knows nothing of NATS. One place per pool; a newer epoch replaces the older one and may keep the weights.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shard_runtime.answering import Answering, Open
from shard_runtime.axl import Axl
from shard_runtime.compute import ComputeThread
from shard_runtime.frames import VERSION, FrameRejected, Header, address_of, decode, digest_of, encode
from shard_runtime.journal import Journal
from shard_runtime.kv import KvPool
from shard_runtime.messages import LoadSlice, PlanMember
from shard_runtime.picked import Picked
from shard_runtime.plan import Plan
from shard_runtime.signing import ReceiptKey, statement
from shard_runtime.slices import Slice
from shard_runtime.stage import LOST, Stage
from shard_runtime.text import load_tokenizer
from shard_runtime.voice import Voice
from shard_runtime.weights import resolve_model
from shard_runtime.window import credits_per_peer


class PlanInvalid(Exception):
    """plan_invalid: the plan's members do not make a ring with this node in it; propose the pool again."""

    code = "plan_invalid"


@dataclass
class Place:
    """One loaded slice in one ring. `answering` is there on the entry only."""

    command: LoadSlice
    stage: Stage
    answering: Answering | None
    load_ms: int


@dataclass(frozen=True)
class Surroundings:
    """What every place of this worker shares."""

    node_id: str
    model_dirs: tuple[Path, ...]
    allow_hub: bool
    max_kv_slots: int
    stall_ns: int
    axl: Axl
    compute: ComputeThread
    voice: Voice
    journal: Journal
    open_sealed: Open
    receipt_key: ReceiptKey


class Places:
    """By pool. `count` holds frames that belong to none of them, by reason."""

    def __init__(self, around: Surroundings) -> None:
        self.count: Counter[str] = Counter()
        self._around = around
        self._places: dict[str, Place] = {}
        self._loading: Counter[str] = Counter()
        self._one_load = asyncio.Lock()
        self._loaded = asyncio.Condition()

    def all(self) -> tuple[Place, ...]:
        return tuple(self._places.values())

    async def ready(self, pool_id: str) -> Place | None:
        """The pool's place; waits while one is being loaded. None when there is none."""
        async with self._loaded:
            await self._loaded.wait_for(lambda: not self._loading[pool_id])
        return self._places.get(pool_id)

    async def load(self, command: LoadSlice) -> Place | None:
        """Join the ring of `command`; None when the pool is at a newer epoch here already.

        Raises PlanInvalid and what Slice.load and resolve_model raise; each has a `code`.
        """
        self._loading[command.pool_id] += 1
        try:
            async with self._one_load:
                return await self._load(command)
        finally:
            self._loading[command.pool_id] -= 1
            async with self._loaded:
                self._loaded.notify_all()

    async def unload(self, pool_id: str, epoch: int) -> None:
        """Leave the pool's ring, unless it is at a newer epoch; its requests end."""
        async with self._one_load:
            place = self._places.get(pool_id)
            if place is None or place.command.epoch > epoch:
                return
            del self._places[pool_id]
            self._leave(place)
            await self._remember()

    def take(self, raw: bytes, mesh_sender: str) -> None:
        """One message from the mesh."""
        try:
            frame = decode(raw)
        except FrameRejected as rejected:
            address = address_of(raw) if rejected.code == "unknown_version" else None
            place = None if address is None else self._places.get(address.pool)
            if place is None:
                self.count[rejected.code] += 1
            else:
                place.stage.refuse(raw, mesh_sender)
            return
        place = self._places.get(frame.header.pool)
        if place is None:
            self.count["unknown_pool"] += 1
        else:
            place.stage.take(frame, mesh_sender)

    def expecting(self) -> bool:
        """Whether a request is under way here, so that frames may come at any time."""
        return any(place.stage.requests for place in self.all())

    def tick(self) -> None:
        for place in self.all():
            place.stage.tick()
            if place.answering is not None:
                place.answering.tick()

    def leave_all(self) -> None:
        """Tell every ring that this node stops."""
        for place in self.all():
            self._leave(place)

    async def _load(self, command: LoadSlice) -> Place | None:
        old = self._places.get(command.pool_id)
        if old is not None and old.command.epoch > command.epoch:
            return None
        if old is not None and msgspec.structs.replace(old.command, command_id="") == msgspec.structs.replace(
            command, command_id=""
        ):
            return old
        plan = _plan(command, self._around)
        self._knock(plan)
        begun = time.monotonic()
        mine = plan.members[plan.me]
        kept = old is not None and _same_weights(old.command, command, self._around.node_id)
        model_dir, slice_ = await asyncio.to_thread(
            self._read, command, mine, old.stage.slice if old is not None and kept else None
        )
        if slice_.is_entry != plan.is_entry or slice_.is_exit != plan.is_exit:
            raise PlanInvalid(f"the members end at layer {plan.members[-1].end_layer} of {slice_.num_layers}")
        slots = min(command.kv_slots, self._around.max_kv_slots or command.kv_slots)
        kv = KvPool(slice_, slots, command.max_context)
        place = await self._place(command, plan, slice_, kv, model_dir)
        place.load_ms = round(1000 * (time.monotonic() - begun))
        if old is not None:
            self._leave(old)
        self._places[command.pool_id] = place
        await self._remember()
        return place

    def _knock(self, plan: Plan) -> None:
        """Let the mesh find its path to a neighbour while weights are read: an acknowledgement of nothing.

        Only towards later stages: a path takes the mesh longer when both ends look for it at once.
        """
        for stage in {plan.upstream, plan.downstream}:
            if stage > plan.me:
                header = Header(
                    VERSION, "ack", plan.pool_id, plan.epoch, "path", 0, 0, 0, plan.my_key, plan.key(stage),
                    "json", (0,), 0, 1, digest_of(b""), time.time_ns(), 0,
                )  # fmt: skip
                signed = msgspec.structs.replace(header, sig=self._around.receipt_key.sign(statement(header)))
                self._around.axl.post(plan.key(stage), encode(signed, b""))

    def _read(self, command: LoadSlice, mine: PlanMember, kept: Slice | None) -> tuple[Path, Slice]:
        model_dir = resolve_model(command.model, self._around.model_dirs, self._around.allow_hub)
        if kept is not None:
            return model_dir, kept
        slice_ = Slice.load(
            model_dir, mine.first_layer, mine.end_layer, command.dtype,
            max_context=command.max_context, expect_digest=command.weights_digest,
        )  # fmt: skip
        return model_dir, slice_

    async def _place(
        self, command: LoadSlice, plan: Plan, slice_: Slice, kv: KvPool, model_dir: Path
    ) -> Place:
        around = self._around
        answering: Answering | None = None

        def on_token(request_id: str, picked: Picked) -> None:
            if answering is not None:
                answering.on_token(request_id, picked)

        def on_fail(request_id: str, code: str) -> None:
            if answering is not None:
                answering.on_fail(request_id, code)

        credits = credits_per_peer(len(plan.members), bounded=not around.axl.pushes_back)
        stage = Stage(
            plan, slice_, kv, around.compute, around.axl.post, around.receipt_key, on_token, on_fail,
            around.stall_ns, credits,
        )  # fmt: skip
        if plan.is_entry:
            tokenizer = await asyncio.to_thread(load_tokenizer, model_dir)
            answering = Answering(
                stage, around.node_id, tokenizer, command.max_context, around.open_sealed, around.voice,
                around.journal,
            )  # fmt: skip
        return Place(command, stage, answering, 0)

    def _leave(self, place: Place) -> None:
        if place.answering is not None:
            place.answering.fail_all(LOST)
        else:
            place.stage.leave()

    async def _remember(self) -> None:
        commands = [place.command for place in self._places.values()]
        await asyncio.to_thread(self._around.journal.keep_slices, commands)


def _plan(command: LoadSlice, around: Surroundings) -> Plan:
    members, node_id = command.members, around.node_id
    me = next((stage for stage, member in enumerate(members) if member.node_id == node_id), None)
    if me is None:
        raise PlanInvalid(f"{node_id} is not a member")
    if members[me].mesh_key != around.axl.peer_id:
        raise PlanInvalid(f"{node_id} stands with another mesh key than that of its mesh node")
    if members[me].receipt_key.lower() != around.receipt_key.address:
        raise PlanInvalid(f"{node_id} stands with another receipt key than its own")
    if len({member.mesh_key for member in members}) != len(members):
        raise PlanInvalid("two members have the same mesh key")
    ends = [0, *(member.end_layer for member in members)]
    if any(member.first_layer != end for member, end in zip(members, ends, strict=False)):
        raise PlanInvalid("the members' layer ranges do not follow each other")
    return Plan(command.pool_id, command.epoch, members, me)


def _same_weights(old: LoadSlice, new: LoadSlice, node_id: str) -> bool:
    def what(command: LoadSlice) -> tuple[object, ...]:
        mine = [(m.first_layer, m.end_layer) for m in command.members if m.node_id == node_id]
        return command.model, command.weights_digest, command.dtype, command.max_context, mine

    return what(old) == what(new)
