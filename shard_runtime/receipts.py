"""Receipts: what a node computed for a paid request, segment by segment, as hashes that it signs.

The only definitions, for workers, verifiers and whoever computes an answer again; knows nothing of tensors,
of how receipts travel or of what follows from them. docs/worker.md says why each formula is as it is.
"""

import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import msgspec
from eth_hash.auto import keccak

if TYPE_CHECKING:
    from shard_runtime.signing import ReceiptKey

SEGMENT = 32
"""Positions of one segment."""
USAGE_DOMAIN = b"computepool/usage v1\0"
"""So that no account can be taken for anything else this key signs."""

Address = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-fA-F]{40}$")]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Signature = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{130}$")]
U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the receipts of a paid request are about; a request without terms gets none."""

    chain_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    coalition: Address
    """The contract whose EIP-712 domain the receipts are signed in."""
    epoch: Count
    """The coalition's epoch on the chain; a ring's epoch is the receipts' `attempt`."""
    escrow: Address
    """The session's SessionEscrow: the receipts' `session`."""


class SegmentReceipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One segment of one attempt, as one node signed it (`receipt_digest`). Hashes without 0x."""

    segment: U32
    steps: U32
    """Told, not signed: it follows from the inputs."""
    input_hash: Hash
    output_hash: Hash
    signature: Signature
    """65 bytes r, s, v (27 or 28), as the contract recovers it."""


class NodeReceipts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All receipts of one node for one attempt, in ascending order of their segments."""

    node_id: str
    receipts: tuple[SegmentReceipt, ...]


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The entry's signed account of one attempt (`usage_statement`).

    `completion_tokens` counts the whole completion, `resumed_tokens` of which an earlier attempt made: each
    of the others came of a step of this attempt, so `own_receipts` show at least so many steps.
    """

    prompt_tokens: Count
    completion_tokens: Count
    resumed_tokens: Count
    first_step: Count
    """Where this attempt began: 0, or behind the KV that moved here."""
    own_receipts: Hash
    """`hash_of` the entry's own `NodeReceipts`, so that none of them can be left out."""
    signature: Signature
    """65 bytes r, s, recovery id (0 or 1) over SHA-256 of the statement."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """One segment's hashes, before anybody signed them."""

    segment: int
    steps: int
    input_hash: str
    output_hash: str


@dataclass(slots=True)
class _Segment:
    number: int
    inputs: "hashlib._Hash"
    outputs: "hashlib._Hash"
    steps: int = 0


@dataclass
class SegmentHashes:
    """The running hashes of one attempt on one node: `add` each step in its order, then read `segments`.

    Both hashes of a segment begin with the segment before's, so that they say what the KV was made of too.
    `sampling`: given to the exit only, whose outputs depend on it.
    """

    sampling: msgspec.Struct | None = None
    first_step: int | None = None
    _done: list[Hashed] = field(default_factory=list)
    _open: _Segment | None = None

    def add(self, step: int, n: int, given: bytes | memoryview, made: bytes | memoryview) -> None:
        """A step over positions [step, step + n). Bytes: token ids and the token as int64 LE, or hidden."""
        if self.first_step is None:
            self.first_step = step
        number = segment_of(step, n)
        if self._open is None or number != self._open.number:
            inputs = outputs = b""
            if self._open is not None:
                self._done.append(self.latest())
                inputs, outputs = self._open.inputs.digest(), self._open.outputs.digest()
            self._open = _Segment(number, hashlib.sha256(inputs), hashlib.sha256(outputs))
        where = struct.pack("<II", step, n)
        self._open.inputs.update(where + hashlib.sha256(given).digest())
        self._open.outputs.update(where + hashlib.sha256(made).digest())
        self._open.steps += 1

    def segments(self) -> tuple[Hashed, ...]:
        """Of all that was added so far; more may be added afterwards."""
        return () if self._open is None else (*self._done, self.latest())

    def latest(self) -> Hashed:
        """The segment of the last step, as if it ended there. Raises ValueError before the first step."""
        now = self._open
        if now is None:
            raise ValueError("no step was added")
        taken = now.inputs.hexdigest()
        taken = taken if self.sampling is None else exit_input_hash(self.sampling, taken)
        return Hashed(now.number, now.steps, taken, now.outputs.hexdigest())


def segment_of(step: int, n: int) -> int:
    """By the position of the token that the step leads to: known to every stage."""
    return (step + n) // SEGMENT


def exit_input_hash(sampling: msgspec.Struct, input_hash: str) -> str:
    """The exit's hash of inputs that hash to `input_hash` (the stage before's `output_hash`)."""
    return hashlib.sha256(bytes.fromhex(hash_of(sampling) + input_hash)).hexdigest()


def token_bytes(ids: tuple[int, ...]) -> bytes:
    """Token ids as they are hashed: int64, little-endian."""
    return struct.pack(f"<{len(ids)}q", *ids)


def hash_of(said: object) -> str:
    """SHA-256 of the canonical JSON (sorted keys, no white space) of a message, hex."""
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()


def receipts_root(receipts: tuple[NodeReceipts, ...], usage: Usage | None) -> str:
    """What the event log holds of them; the signatures in it keep anybody from guessing what it is of."""
    return hash_of((receipts, usage))


def request_hash(request_id: str) -> bytes:
    """A request's name on the chain."""
    return keccak(request_id.encode("ascii"))


def receipt_digest(terms: Terms, request_id: str, attempt: int, hashed: Hashed | SegmentReceipt) -> bytes:
    """The 32 bytes a node signs: EIP-712, as Coalition.sol's `receiptDigest` makes them."""
    domain = keccak(
        keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
        + keccak(b"ComputePool Coalition")
        + keccak(b"1")
        + _word(terms.chain_id)
        + _word(int(terms.coalition, 16))
    )
    receipt = keccak(
        keccak(
            b"Receipt(uint256 epoch,address session,bytes32 request,uint32 segment,uint32 attempt,"
            b"bytes32 inputHash,bytes32 outputHash)"
        )
        + _word(terms.epoch)
        + _word(int(terms.escrow, 16))
        + request_hash(request_id)
        + _word(hashed.segment)
        + _word(attempt)
        + bytes.fromhex(hashed.input_hash)
        + bytes.fromhex(hashed.output_hash)
    )
    return keccak(b"\x19\x01" + domain + receipt)


def usage_statement(terms: Terms, session_id: str, request_id: str, attempt: int, usage: Usage) -> bytes:
    """What the entry signs: all of `usage` but its signature."""
    said = (
        terms.chain_id, terms.coalition.lower(), terms.epoch, terms.escrow.lower(), session_id, request_id,
        attempt, usage.prompt_tokens, usage.completion_tokens, usage.resumed_tokens, usage.first_step,
        usage.own_receipts,
    )  # fmt: skip
    return USAGE_DOMAIN + msgspec.json.encode(said)


def sign_receipt(
    key: "ReceiptKey", terms: Terms, request_id: str, attempt: int, hashed: Hashed
) -> SegmentReceipt:
    signature = key.sign_digest(receipt_digest(terms, request_id, attempt, hashed))
    return SegmentReceipt(hashed.segment, hashed.steps, hashed.input_hash, hashed.output_hash, signature)


def sign_usage(
    key: "ReceiptKey", terms: Terms, session_id: str, request_id: str, attempt: int, usage: Usage
) -> Usage:
    """`usage` with this key's signature in place of what stands there."""
    signature = key.sign(usage_statement(terms, session_id, request_id, attempt, usage))
    return msgspec.structs.replace(usage, signature=signature)


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")
