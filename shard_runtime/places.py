"""A worker's places in rings: loads and unloads slices, and routes mesh frames to the stage they are for.

Knows nothing of NATS. A place is a pool's epoch: a newer one stands beside the older, sharing weights and KV
memory where the layers are the same, until the older has been drained.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
import torch

from shard_runtime.answering import Answering, Open
from shard_runtime.axl import Axl
from shard_runtime.compute import ComputeThread
from shard_runtime.frames import FrameRejected, WireDtype, address_of, decode
from shard_runtime.handover import Elsewhere
from shard_runtime.journal import Journal
from shard_runtime.knock import knock
from shard_runtime.kv import KvPool
from shard_runtime.leaving import Drained, Leaving
from shard_runtime.loading import LoadingLog
from shard_runtime.messages import Adopt, Drain, LoadSlice, PlanMember
from shard_runtime.moves import Adoption, Sending, wire_name
from shard_runtime.picked import Picked
from shard_runtime.plan import Plan, PlanInvalid, plan_of
from shard_runtime.receipt_book import ReceiptBook
from shard_runtime.signing import ReceiptKey
from shard_runtime.slices import Slice
from shard_runtime.stage import LOST, Stage
from shard_runtime.text import load_tokenizer
from shard_runtime.voice import Voice
from shard_runtime.weights import resolve_model
from shard_runtime.window import credits_per_peer

log = structlog.get_logger()


@dataclass
class Place:
    """One loaded slice in one ring. `answering` is there on the entry only."""

    command: LoadSlice
    stage: Stage
    answering: Answering | None
    kv: KvPool
    leaving: Leaving
    load_ms: int
    kept: bool = False
    """Whether an earlier epoch's weights serve on."""

    @property
    def pool_id(self) -> str:
        return self.command.pool_id

    @property
    def epoch(self) -> int:
        return self.command.epoch

    @property
    def busy(self) -> bool:
        """Does it answer or hold anything?"""
        return self.stage.requests > 0 or (self.answering is not None and self.answering.active > 0)


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
    book: ReceiptBook


OVER_WITHIN_S = 120.0
"""A stage with nothing to do leaves a drained ring then, though its entry never said that it is over."""
TOLD_WITHIN_S = 3.0
LOOK_S = 0.01
ADOPT_WITHIN_S = 600.0


class Places:
    """By pool and epoch. `count` holds frames that belong to none of them, by reason."""

    def __init__(self, around: Surroundings) -> None:
        self.count: Counter[str] = Counter()
        self._around = around
        self._places: dict[str, dict[int, Place]] = {}
        self._moves: dict[tuple[str, int], Sending | Adoption] = {}
        self._left: dict[tuple[str, int], int] = {}
        self._loading: Counter[str] = Counter()
        self._one_load = asyncio.Lock()
        self._loaded = asyncio.Condition()

    def all(self) -> tuple[Place, ...]:
        return tuple(place for epochs in self._places.values() for place in epochs.values())

    @property
    def kv_used(self) -> int:
        """KV slots in use; memory that two epochs share counts once."""
        return sum(pool.used for pool in {id(place.kv): place.kv for place in self.all()}.values())

    async def ready(self, pool_id: str, epoch: int) -> Place | None:
        """The pool's place at this epoch; waits while one is being loaded. None when there is none."""
        async with self._loaded:
            await self._loaded.wait_for(lambda: not self._loading[pool_id])
        return self._places.get(pool_id, {}).get(epoch)

    def newest(self, pool_id: str) -> Place | None:
        epochs = self._places.get(pool_id)
        return epochs[max(epochs)] if epochs else None

    def left_for(self, pool_id: str, epoch: int) -> int | None:
        """The epoch that a place was drained for, if that happened since this worker started."""
        return self._left.get((pool_id, epoch))

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
        """Leave the pool's rings up to `epoch`; their requests end."""
        async with self._one_load:
            for place in [place for place in self.all() if place.pool_id == pool_id and place.epoch <= epoch]:
                self._remove(place)
                self._leave(place)
            await self._remember()

    async def drain(self, command: Drain) -> Drained:
        """Returns when the place has handed over or ended all it had, and is unloaded."""
        place = await self.ready(command.pool_id, command.epoch)
        self._left[(command.pool_id, command.epoch)] = command.to_epoch
        if place is None:
            return Drained()
        place.leaving.told(command)
        stage, answering = place.stage, place.answering
        if answering is not None:
            answering.drain(command.to_epoch, moves=place.leaving.same_ranges(command))
            while place.busy:
                await asyncio.sleep(LOOK_S)
            stage.leave_ring()
            await _until(lambda: len(stage.heard_over) == len(stage.plan.others), TOLD_WITHIN_S)
        else:
            await _until(lambda: stage.over, OVER_WITHIN_S)
            while place.busy:
                await asyncio.sleep(LOOK_S)
        drained = await place.leaving.finish()
        async with self._one_load:
            if self._places.get(place.pool_id, {}).get(place.epoch) is place:
                self._remove(place)
                await self._remember()
        return drained

    async def adopt(self, command: Adopt) -> None:
        """Returns when the leaver has said that nothing more comes, and all that came has been claimed."""
        place = await self.ready(command.pool_id, command.epoch)
        if place is None:
            return
        key = (wire_name(command.pool_id), command.epoch)
        adoption = self._moves.get(key)
        if not isinstance(adoption, Adoption):
            plan = place.stage.plan
            pair = Plan(key[0], command.epoch, (command.leaver, plan.members[plan.me]), 1)
            around = self._around
            adoption = self._moves[key] = Adoption(
                pair, place.kv, around.compute, around.axl.post, around.receipt_key,
                place.stage.delivery.has_ended,
            )  # fmt: skip
        coming = adoption
        await _until(lambda: coming.done, ADOPT_WITHIN_S)
        if self._moves.get(key) is coming:
            del self._moves[key]
            coming.leave()

    def take(self, raw: bytes, mesh_sender: str) -> None:
        """One message from the mesh."""
        try:
            frame = decode(raw)
        except FrameRejected as rejected:
            address = address_of(raw) if rejected.code == "unknown_version" else None
            place = None if address is None else self._at(address.pool, address.epoch)
            if place is None:
                self.count[rejected.code] += 1
            else:
                place.stage.refuse(raw, mesh_sender)
            return
        header = frame.header
        if (move := self._moves.get((header.pool, header.epoch))) is not None:
            move.take(frame, mesh_sender)
            return
        place = self._at(header.pool, header.epoch)
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
        for move in list(self._moves.values()):
            move.tick()

    def leave_all(self) -> None:
        """Tell every ring that this node stops."""
        for place in self.all():
            self._leave(place)

    async def _load(self, command: LoadSlice) -> Place | None:
        newest = self.newest(command.pool_id)
        if newest is not None and newest.epoch > command.epoch:
            return None
        old = self._places.get(command.pool_id, {}).get(command.epoch)
        if old is not None and _said(old.command) == _said(command):
            return old
        plan = plan_of(
            command, self._around.node_id, self._around.axl.peer_id, self._around.receipt_key.address
        )
        knock(plan, self._around.receipt_key, self._around.axl.post)
        begun = time.monotonic()
        mine = plan.members[plan.me]
        kept = self._same_layers(command)
        log.info(
            "slice_loading", pool_id=command.pool_id, epoch=command.epoch, model=command.model,
            weights_digest=command.weights_digest, first_layer=mine.first_layer, end_layer=mine.end_layer,
        )  # fmt: skip
        model_dir, slice_ = await asyncio.to_thread(
            self._read, command, mine, None if kept is None else kept.stage.slice
        )
        if slice_.is_entry != plan.is_entry or slice_.is_exit != plan.is_exit:
            raise PlanInvalid(f"the members end at layer {plan.members[-1].end_layer} of {slice_.num_layers}")
        if kept is not None and kept is not old and kept.command.kv_slots == command.kv_slots:
            kv = kept.kv
        else:
            slots = min(command.kv_slots, self._around.max_kv_slots or command.kv_slots)
            kv = KvPool(slice_, slots, command.max_context)
        place = await self._place(command, plan, slice_, kv, model_dir)
        place.load_ms, place.kept = round(1000 * (time.monotonic() - begun)), kept is not None
        if old is not None:
            self._leave(old)
        self._places.setdefault(command.pool_id, {})[command.epoch] = place
        await self._remember()
        return place

    def _same_layers(self, command: LoadSlice) -> Place | None:
        """A place whose weights can be used for this one too."""
        epochs = self._places.get(command.pool_id, {})
        for epoch in sorted(epochs, reverse=True):
            if _same_weights(epochs[epoch].command, command, self._around.node_id):
                return epochs[epoch]
        return None

    def _read(self, command: LoadSlice, mine: PlanMember, kept: Slice | None) -> tuple[Path, Slice]:
        model_dir = resolve_model(command.model, self._around.model_dirs, self._around.allow_hub)
        if kept is not None:
            return model_dir, kept
        slice_ = Slice.load(
            model_dir, mine.first_layer, mine.end_layer, command.dtype,
            max_context=command.max_context, expect_digest=command.weights_digest,
            progress=LoadingLog(log.bind(pool_id=command.pool_id, epoch=command.epoch).info),
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

        leaving = self._leaving(plan, slice_, kv)
        elsewhere = Elsewhere(lambda rid: self._claim(plan, kv, rid), leaving.park, leaving.drop)
        credits = credits_per_peer(len(plan.members), bounded=not around.axl.pushes_back)
        stage = Stage(
            plan, slice_, kv, around.compute, around.axl.post, around.receipt_key, around.book, on_token,
            on_fail, around.stall_ns, credits, elsewhere,
        )  # fmt: skip
        if plan.is_entry:
            tokenizer = await asyncio.to_thread(load_tokenizer, model_dir)
            answering = Answering(
                stage, around.node_id, tokenizer, command.max_context, around.open_sealed, around.voice,
                around.journal,
            )  # fmt: skip
        return Place(command, stage, answering, kv, leaving, 0)

    def _leaving(self, plan: Plan, slice_: Slice, kv: KvPool) -> Leaving:
        pool_id, around = plan.pool_id, self._around
        dtype: WireDtype = "float32" if slice_.dtype == torch.float32 else "bfloat16"

        def stays_for(epoch: int) -> bool:
            place = self._places.get(pool_id, {}).get(epoch)
            return place is not None and place.kv is kv

        def sending_begins(sending: Sending) -> None:
            self._moves[(sending.plan.pool_id, sending.plan.epoch)] = sending

        return Leaving(
            plan, dtype, around.compute, around.axl.post, around.receipt_key, around.voice.report, stays_for,
            sending_begins,
        )  # fmt: skip

    def _claim(self, plan: Plan, kv: KvPool, rid: str) -> bool:
        """The stage of `plan` takes over a request's KV, from an older place here or as it came here."""
        epochs = self._places.get(plan.pool_id, {})
        older = [place for epoch, place in epochs.items() if epoch < plan.epoch and place.kv is kv]
        adoption = self._moves.get((wire_name(plan.pool_id), plan.epoch))
        if isinstance(adoption, Adoption) and adoption.let_go(rid):
            return True
        return any(place.stage.let_go(rid) for place in older)

    def _at(self, pool_id: str, epoch: int) -> Place | None:
        """Whom a frame is for; one of an unknown epoch is the newest place's to refuse."""
        return self._places.get(pool_id, {}).get(epoch) or self.newest(pool_id)

    def _remove(self, place: Place) -> None:
        epochs = self._places[place.pool_id]
        del epochs[place.epoch]
        if not epochs:
            del self._places[place.pool_id]
        if place.leaving.sending is not None:
            plan = place.leaving.sending.plan
            self._moves.pop((plan.pool_id, plan.epoch), None)

    def _leave(self, place: Place) -> None:
        if place.answering is not None:
            place.answering.fail_all(LOST)
        else:
            place.stage.leave()

    async def _remember(self) -> None:
        commands = [place.command for place in self.all()]
        await asyncio.to_thread(self._around.journal.keep_slices, commands)


async def _until(holds: Callable[[], bool], within_s: float) -> None:
    """Returns when it holds, or when the time is over."""
    deadline = time.monotonic() + within_s
    while not holds() and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_S)


def _said(command: LoadSlice) -> LoadSlice:
    return msgspec.structs.replace(command, command_id="")


def _same_weights(old: LoadSlice, new: LoadSlice, node_id: str) -> bool:
    def what(command: LoadSlice) -> tuple[object, ...]:
        mine = [(m.first_layer, m.end_layer) for m in command.members if m.node_id == node_id]
        return command.model, command.weights_digest, command.dtype, command.max_context, mine

    return what(old) == what(new)
