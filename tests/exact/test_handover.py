"""Two real stages in one process, one of which leaves: what becomes of KV whose request ends meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from shard_runtime.arrivals import FAIL
from shard_runtime.compute import ComputeThread
from shard_runtime.frames import Kind, decode
from shard_runtime.handover import ALONE, Elsewhere, Kept, Opening, Parked, Parking
from shard_runtime.kv import KvPool
from shard_runtime.leaving import Leaving
from shard_runtime.messages import Drain, KvMoved, PlanMember, Sampling
from shard_runtime.picked import Picked
from shard_runtime.plan import Plan
from shard_runtime.receipt_book import ReceiptBook
from shard_runtime.signing import ReceiptKey
from shard_runtime.stage import Stage
from tests.exact.generation import load_cut
from tests.exact.models import make_model

KEYS = tuple(ReceiptKey(bytes([number]) * 32) for number in (1, 2, 3))
MEMBERS = tuple(
    PlanMember(f"node-{number}", f"{number:02x}" * 32, key.address, *layers)
    for number, (key, layers) in enumerate(zip(KEYS, ((0, 2), (2, 6), (2, 6)), strict=True), 1)
)
SUCCESSOR = MEMBERS[2].mesh_key
PROMPT = (7, 301, 15, 62, 118, 9, 260, 33, 41, 8, 77, 120)
OPENING = Opening(Sampling(seed=0))
LEAVE = Drain("drain", "pool", 1, 2, (MEMBERS[0], MEMBERS[2]))


async def stays(rid: str, kept: Kept, parking: Parking) -> Parked:
    return Parked(moved=True, stays=True)


@dataclass
class Pair:
    """The entry and the leaver behind it; `sent`: the frames to the leaver's successor, who says nothing."""

    entry: Stage
    leaver: Stage
    leaving: Leaving
    kv: KvPool
    picked: dict[str, int]
    sent: list[tuple[Kind, int]]

    async def begin(self, rid: str, prompt: tuple[int, ...] = PROMPT) -> None:
        """Until its first token, so that the leaver holds the KV of all of `prompt`."""
        self.entry.begin(rid, OPENING, prompt)
        await until(lambda: rid in self.picked)

    async def park(self, rid: str) -> None:
        self.entry.handover.park(rid, Parking("session", len(PROMPT), 2), lambda moved: None)
        self.entry.flush()
        await until(lambda: self.leaver.handover.is_parked(rid))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def quiet() -> None:
    """Until no task but this test's is at work."""
    await until(lambda: len(asyncio.all_tasks()) == 1)


@contextlib.asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[Pair]:
    torch.set_num_threads(1)
    slices = load_cut(make_model(directory / "model", "llama", eos=False), [0, 2, 6], "float32", 64)
    compute = ComputeThread(asyncio.get_running_loop())
    stages: dict[str, Stage] = {}
    picked: dict[str, int] = {}
    sent: list[tuple[Kind, int]] = []

    def post_from(sender: PlanMember) -> Callable[[str, bytes], None]:
        def post(to: str, raw: bytes) -> None:
            frame = decode(bytes(raw))
            if to == SUCCESSOR:
                sent.append((frame.header.kind, frame.header.step))
            else:
                asyncio.get_running_loop().call_soon(stages[to].take, frame, sender.mesh_key)

        return post

    def on_token(rid: str, token: Picked) -> None:
        picked[rid] = token.token

    async def report(moved: KvMoved) -> None:
        raise AssertionError(moved)

    plans = [Plan("pool", 1, MEMBERS[:2], me) for me in range(2)]
    leaving = Leaving(
        plans[1], "float32", compute, post_from(MEMBERS[1]), KEYS[1], report, lambda epoch: False,
        lambda sending: None,
    )  # fmt: skip
    pools = [KvPool(piece, 2, 64) for piece in slices]
    elsewheres = (
        Elsewhere(ALONE.claim, stays, ALONE.drop),
        Elsewhere(ALONE.claim, leaving.park, leaving.drop),
    )
    for number, elsewhere in enumerate(elsewheres):
        book = ReceiptBook(directory, KEYS[number])
        stages[MEMBERS[number].mesh_key] = Stage(
            plans[number], slices[number], pools[number], compute, post_from(MEMBERS[number]), KEYS[number],
            book, on_token, lambda rid, code: None, elsewhere=elsewhere,
        )  # fmt: skip
    entry, leaver = stages.values()
    yield Pair(entry, leaver, leaving, pools[1], picked, sent)
    compute.close()


@pytest.mark.parametrize(
    "next_one", [False, True], ids=["its memory is empty", "another request has its memory"]
)
async def test_a_request_that_ends_before_its_node_is_told_whither_moves_nothing(
    tmp_path: Path, next_one: bool
) -> None:
    """The entry may hear of the drain first, and park; then its client goes away."""
    async with pair(tmp_path) as here:
        await here.begin("gone")
        slot = here.leaver.slot_of("gone")
        await here.park("gone")
        here.entry.end("gone")
        await until(lambda: here.kv.used == 0)
        if next_one:
            await here.begin("next", (*PROMPT, 5, 6))
            assert here.leaver.slot_of("next") is slot
        here.leaving.told(LEAVE)
        await quiet()
        assert here.sent == []


async def test_a_request_that_breaks_while_its_kv_is_on_its_way_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However patient the leaver is with a successor that says nothing."""
    monkeypatch.setattr("shard_runtime.moves.STILL_NS", 3600 * 10**9)
    async with pair(tmp_path) as here:
        await here.begin("broken")
        await here.park("broken")
        here.leaving.told(LEAVE)
        await until(lambda: any(kind == "kv" for kind, _ in here.sent))
        here.leaver.leave()
        await quiet()
        assert here.sent[-1] == ("control", FAIL)
