"""Answers of a ring of two with real keys and layers that only hash, for tests; knows no test.

What these layers give depends on all that they took before, as a model's do, and nothing else.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from events.breach import Breach
from events.evidence import Dissent, assembled
from events.kept_answer import KeptAnswer
from events.seat import Seat
from events.slash import Reported
from services.accusing import kept_answer
from services.verifier.judge import judge_case
from services.verifier.outputs import Open
from shard_runtime.messages import Sampling
from shard_runtime.receipts import (
    NodeReceipts,
    SegmentHashes,
    Terms,
    Usage,
    hash_of,
    sign_receipt,
    sign_usage,
    token_bytes,
)
from shard_runtime.recomputed import Pass, Rerun, StagePasses, positions
from shard_runtime.signing import ReceiptKey
from shard_runtime.transcripts import Member, Transcript
from tests import slashing
from tests.aggregates import digest, ulid
from tests.attesting import SLASH, case

CUTS = (0, 3, 6)
WEIGHTS = digest(40)
SECRETS = tuple(ReceiptKey(bytes([number]) * 32) for number in (31, 32))
NODES = (ulid(1), ulid(2))
TERMS = Terms(31337, slashing.COALITION, 4, slashing.ESCROW)
SAMPLING = Sampling(seed=7, temperature=0.8)
ATTEMPT = 2
PROMPT = tuple(range(100, 141))
CONTEXT = 256


@dataclass
class Layers:
    """One stage; `lies_at`: the position at which it gives something else. It goes on from what it gave."""

    number: int
    is_exit: bool
    sampling: Sampling = SAMPLING
    lies_at: int | None = None
    seen: bytes = b""
    passes: list[Pass] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hashes = SegmentHashes(self.sampling if self.is_exit else None)

    def step(self, step: int, n: int, given: bytes) -> bytes:
        self.seen = hashlib.sha256(self.seen + bytes([self.number]) + given).digest()
        made = self.seen if step != self.lies_at else hashlib.sha256(self.seen).digest()
        if self.is_exit:
            drawn = hashlib.sha256(made + hash_of(self.sampling).encode()).digest()
            made = token_bytes((int.from_bytes(drawn[:2], "big"),))
        self.hashes.add(step, n, given, made)
        now = self.hashes.latest()
        self.passes.append(Pass(step, n, now.segment, now.input_hash, now.output_hash))
        return made


def rerun(asked: Rerun) -> tuple[StagePasses, ...]:
    """What `shard_runtime.recompute` does, with these layers; `cuts` end at 3 or at 6."""
    stages = [Layers(number, number == 1, asked.sampling) for number in range(2 if 6 in asked.cuts else 1)]
    for step, n in positions(len(asked.ids), asked.first_pass):
        given = token_bytes(asked.ids[step : step + n])
        for stage in stages:
            given = stage.step(step, n, given)
    told = [StagePasses(first, end, ()) for first, end in pairwise(asked.cuts)]
    return (*told[:-1], replace(told[-1], passes=tuple(stages[-1].passes)))


def answered(
    count: int = 70,
    *,
    lies: tuple[int | None, int | None] = (None, None),
    prompt: tuple[int, ...] = PROMPT,
    request_id: str = ulid(800),
    resumed: int = 0,
    last_shown: bool = True,
    attempt: int = ATTEMPT,
) -> Transcript:
    """So many tokens beside those `resumed`, which an earlier attempt had made.

    `last_shown`: else the ring was one token ahead when the client left.
    """
    stages = [Layers(0, False, lies_at=lies[0]), Layers(1, True, lies_at=lies[1])]
    ids = [*prompt, *range(200, 200 + resumed)]
    step, n = 0, len(ids)
    for _ in range(count):
        given = token_bytes(tuple(ids[step : step + n]))
        for stage in stages:
            given = stage.step(step, n, given)
        ids.append(int.from_bytes(given, "little"))
        step, n = step + n, 1
    shown = tuple(ids[len(prompt) :]) if last_shown else tuple(ids[len(prompt) : -1])
    receipts = tuple(
        NodeReceipts(
            node_id,
            tuple(sign_receipt(key, TERMS, request_id, attempt, one) for one in stage.hashes.segments()),
        )
        for node_id, key, stage in zip(NODES, SECRETS, stages, strict=True)
    )
    return Transcript(
        version=1,
        terms=TERMS,
        pool_id=ulid(500),
        session_id=ulid(700),
        request_id=request_id,
        attempt=attempt,
        weights_digest=WEIGHTS,
        dtype="bfloat16",
        members=tuple(
            Member(node_id, key.address, first, end)
            for node_id, key, (first, end) in zip(NODES, SECRETS, pairwise(CUTS), strict=True)
        ),
        sampling=SAMPLING,
        nonce=digest(41),
        prompt_ids=prompt,
        completion_ids=shown,
        first_step=0,
        receipts=receipts,
        usage=account(receipts[0], len(prompt), len(shown), resumed, request_id, attempt),
    )


def account(
    own: NodeReceipts, prompt: int, completion: int, resumed: int, request_id: str, attempt: int = ATTEMPT
) -> Usage:
    said = Usage(prompt, completion, resumed, 0, hash_of(own), "0" * 130)
    return sign_usage(SECRETS[0], TERMS, ulid(700), request_id, attempt, said)


def accused(number: int, kind: str = "wrong_output", **changes: object) -> Reported:
    """The case against a node of this ring, as the log has it."""
    seat = Seat(ATTEMPT, WEIGHTS, "bfloat16", 6, CONTEXT, *CUTS[number : number + 2])
    values: dict[str, object] = {
        "node_id": NODES[number],
        "receipt_key": SECRETS[number].address,
        "kind": kind,
        "deterministic": True,
        "seat": seat,
    }
    return case(**values | changes)


def verdict(of: Reported, answer: KeptAnswer) -> Breach | Dissent:
    """What an attestor that has the model comes to."""
    found = judge_case(assembled(SLASH, of, answer=answer), SLASH, of)
    return found.concluded(rerun(found.rerun)) if isinstance(found, Open) else found


def reason(of: Reported, answer: KeptAnswer) -> str:
    """`breach`, or why there is none."""
    found = verdict(of, answer)
    return found.reason if isinstance(found, Dissent) else "breach"


def kept(transcript: Transcript, number: int, **changes: object) -> KeptAnswer:
    return replace(kept_answer(transcript, NODES[number]), **changes)


def sampling_text(**changes: object) -> str:
    return msgspec.json.encode(replace(SAMPLING, **changes), order="sorted").decode()


def without(items: Iterable[object], dropped: Iterable[int]) -> tuple[object, ...]:
    gone = set(dropped)
    return tuple(item for number, item in enumerate(items) if number not in gone)
