"""Frames by mutation: what comes from the mesh is taken, or dropped and counted, and nothing else happens.

By hand: `python -m tests.fuzz.frames --seconds 60 [--seed N]`; with `--record` the corpus is made again from
a simulated ring. An input that breaks the promise is written beside the corpus, so that it stays tested.
"""

import argparse
import hashlib
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from shard_runtime.arrivals import Arrived, Event
from shard_runtime.delivery import STRANGERS, Delivery
from shard_runtime.frames import FrameRejected, decode, encode
from shard_runtime.signing import statement
from shard_runtime.window import CREDITS
from tests.simulated_ring import KEYS, MS, SimulatedRing, delivery_of

CORPUS = Path(__file__).parent / "corpus"
STAGES = 3
RESET_EVERY = 400
SLACK_BYTES = 96 * 1024
"""What handling any frame may allocate besides a few copies of it."""
ODD: tuple[object, ...] = (
    0, 1, -1, 2, 8, 63, 64, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 63, -(1 << 63), 10**400, 0.5, 1e308, "",
    "r", "x" * 129, None, True, [], [0], [1 << 24] * 4, [1 << 24] * 5, {}, {"a": []}, "hidden", "token", "kv",
    "control", "ack", "nack", "int64", "bfloat16", "json", "00" * 16, "ff" * 65,
)  # fmt: skip
NEAR: dict[str, tuple[object, ...]] = {
    "step": (*range(-4, 12), 40), "n": (0, 1, 2, 3), "part": (0, 1), "attempt": (0, 1, 2, 70),
    "rid": ("r0", "r1", "r2", "other"), "kind": ("hidden", "token", "kv", "control", "ack", "nack"),
    "epoch": (0, 1, 2), "credit": (0, 3, 9),
}  # fmt: skip
REJECTED = {
    "too_short", "header_too_long", "bad_header", "unknown_version", "bad_shape", "bad_parts",
    "size_mismatch", "digest_mismatch", "misdirected", "old_epoch", "unknown_epoch", "not_a_member",
    "wrong_sender", "bad_signature", "wrong_stage",
}  # fmt: skip
"""After these nothing has changed but their count."""


class Broken(AssertionError):
    """The promise does not hold for `raw`."""

    def __init__(self, why: str, raw: bytes) -> None:
        super().__init__(f"{why}: {raw[:2000]!r}")
        self.raw = raw


@dataclass
class Target:
    """Three stages in the middle of their requests, and frames of any kind for them."""

    taken: int = 0
    dropped: int = 0
    stages: list[Delivery] = field(default_factory=list)

    def reset(self) -> None:
        self.stages = [delivery_of(STAGES, me) for me in range(STAGES)]
        for stage in self.stages:
            for rid in ("r0", "r1"):
                stage.open(rid, 0)

    def feed(self, raw: bytes, to: int, sender: int) -> None:
        """Raises Broken."""
        stage, mesh_sender = self.stages[to], self.stages[sender].plan.my_key
        before, counted = state(stage), stage.count.copy()
        tracemalloc.start()
        try:
            events = stage.receive(raw, mesh_sender, MS)
            peak = tracemalloc.get_traced_memory()[1]
        except Exception as unexpected:
            raise Broken(f"{unexpected!r}", raw) from unexpected
        finally:
            tracemalloc.stop()
        grown = {why for why, number in stage.count.items() if number > counted[why]}
        if peak > 4 * len(raw) + SLACK_BYTES:
            raise Broken(f"{peak} bytes for a frame of {len(raw)}", raw)
        if not (events or grown):
            raise Broken("neither taken nor counted", raw)
        if grown & REJECTED:
            self.dropped += 1
            if events or state(stage) != before:
                raise Broken(f"{grown} changed something", raw)
        else:
            self.taken += 1
            self.used(stage, events, raw)
        stage.outgoing.clear()

    def used(self, stage: Delivery, events: list[Event], raw: bytes) -> None:
        """What a stage does with what arrived, shortened; and the bounds that hold after any frame."""
        for event in events:
            if isinstance(event, Arrived) and event.kind == "control":
                stage.confirm(event.sender, event.rid, event.step, b"ok")
        if len(stage.outgoing) > CREDITS or stage._stranger_count > STRANGERS:
            raise Broken("a bound does not hold", raw)
        if any(len(request.held) > CREDITS for request in stage._requests.values()):
            raise Broken("more is held than may be", raw)


def state(stage: Delivery) -> object:
    """Everything that a frame could change, but for the counts."""
    requests = [(rid, r.expected, tuple(r.held), r.touched_ns) for rid, r in stage._requests.items()]
    strangers = {rid: len(early) for rid, early in stage._strangers.items()}
    parts = (len(stage._parts), stage._parts.held_bytes)
    return requests, tuple(stage._ended), dict(stage._control_seen), strangers, parts, stage.quiet


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.frame"))]


def mutated(seeds: list[bytes], chance: random.Random) -> bytes:
    """One to three changes of a real frame; most of them signed again, as a member gone bad would."""
    raw = chance.choice(seeds)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        raw = chance.choice(MUTATIONS)(raw, seeds, chance)
    return signed_again(raw, chance) if chance.random() < 0.7 else raw


def flip(raw: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    changed = bytearray(raw or b"\0")
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(raw: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    return raw[: chance.randrange(len(raw) + 1)]


def longer(raw: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    return raw + chance.randbytes(chance.randint(1, 64))


def spliced(raw: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    other = chance.choice(seeds)
    return raw[: chance.randrange(len(raw) + 1)] + other[chance.randrange(len(other)) :]


def length(raw: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    return chance.choice((0, 1, 64 * 1024, (1 << 32) - 1, len(raw))).to_bytes(4, "little") + raw[4:]


def odd_field(raw: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    """A header field that may not be so, or is missing."""

    def change(header: dict[str, object]) -> None:
        name = chance.choice(list(header))
        if chance.random() < 0.1:
            del header[name]
        else:
            header[name] = chance.choice(ODD)

    return with_header(raw, change)


def near_field(raw: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    """A header field that may well be so."""

    def change(header: dict[str, object]) -> None:
        name = chance.choice(list(NEAR))
        header[name] = chance.choice(NEAR[name])

    return with_header(raw, change)


def with_header(raw: bytes, change: Callable[[dict[str, object]], None]) -> bytes:
    end = 4 + int.from_bytes(raw[:4], "little")
    try:
        header = json.loads(raw[4:end])
        change(header)
    except (ValueError, IndexError, TypeError, AttributeError, RecursionError):
        return raw
    head = json.dumps(header, separators=(",", ":")).encode()
    return len(head).to_bytes(4, "little") + head + raw[end:]


MUTATIONS = (flip, cut, longer, spliced, length, odd_field, odd_field, *[near_field] * 8)


def signed_again(raw: bytes, chance: random.Random) -> bytes:
    try:
        frame = decode(raw)
    except FrameRejected:
        return raw
    key = KEYS[ends(raw)[1] if chance.random() < 0.9 else chance.randrange(STAGES)]
    return encode(replace(frame.header, sig=key.sign(statement(frame.header))), frame.payload)


def inputs(seed: int) -> Iterator[tuple[bytes, int, int]]:
    """Without end: (frame, stage it reaches, stage whose mesh node sends it)."""
    chance, seeds = random.Random(seed), corpus()
    while True:
        raw = mutated(seeds, chance)
        to, sender = ends(raw)
        yield (
            raw,
            chance.choice((to, to, to, to, 0, 1, 2)),
            chance.choice((sender, sender, sender, sender, 0, 1)),
        )


def ends(raw: bytes) -> tuple[int, int]:
    """(to, from) as the frame says, so that it gets as far as it can."""
    keys = [f"{stage + 1:02x}" * 32 for stage in range(STAGES)]
    try:
        header = decode(raw).header
        return keys.index(header.to), keys.index(header.from_)
    except (FrameRejected, ValueError):
        return 1, 0


def run(seed: int, until: float | None = None, count: int | None = None) -> Target:
    """Until a moment of `time.monotonic`, or for so many inputs. Raises Broken."""
    target = Target()
    for done, (raw, to, sender) in enumerate(inputs(seed)):
        if done % RESET_EVERY == 0:
            target.reset()
        if (count is not None and done >= count) or (until is not None and time.monotonic() > until):
            break
        target.feed(raw, to, sender)
    return target


def record() -> None:
    """One frame of each kind and direction, from a simulated ring that loses a few."""
    found: dict[str, bytes] = {}
    ring = SimulatedRing(STAGES, 1, 0.2, 0.1, 20)
    carry = ring._carry

    def carried() -> None:
        for me, stage in enumerate(ring.stages):
            for to, raw in stage.outgoing:
                header = decode(raw).header
                found.setdefault(f"{header.kind}-{me}-{to}-{min(header.step, 1)}", raw)
        carry()

    ring._carry = carried  # type: ignore[method-assign]
    for number in range(3):
        ring.begin(f"r{number}", [(3, b"prompt"), (1, b"x"), (1, b"yz")])
    ring.run()
    CORPUS.mkdir(exist_ok=True)
    for name, raw in found.items():
        (CORPUS / f"{name}.frame").write_bytes(raw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    if arguments.record:
        record()
        return
    try:
        target = run(arguments.seed, until=time.monotonic() + arguments.seconds)
    except Broken as broken:
        path = CORPUS / f"broken-{hashlib.sha256(broken.raw).hexdigest()[:12]}.frame"
        path.write_bytes(broken.raw)
        sys.exit(f"seed {arguments.seed}: {broken}\nkept as {path}")
    print(f"seed {arguments.seed}: {target.taken} taken, {target.dropped} dropped and counted")


if __name__ == "__main__":
    main()
