"""The one wire form of everything shards say to each other: `u32 LE header length | JSON header | raw bytes`.

Knows nothing of sockets, of time, of torch or of what a frame is for. Nothing here trusts its input: every
length, dtype, shape and part count is checked before anything is allocated.
"""

import hashlib
from dataclasses import dataclass
from math import prod
from typing import Annotated, Final, Literal

import msgspec

VERSION: Final = 1
MAX_HEADER_BYTES = 64 * 1024
PART_BYTES = 4 * 1024 * 1024
MAX_PARTS = 64
"""So one tensor on the wire is at most 256 MiB."""
MAX_DIMENSION = 1 << 24

Kind = Literal["hidden", "token", "kv", "control", "ack", "nack"]
WireDtype = Literal["float32", "bfloat16", "int64", "json"]
ITEM_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "int64": 8, "json": 1}

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Key = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Dimension = Annotated[int, msgspec.Meta(ge=0, le=MAX_DIMENSION)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]


class FrameRejected(Exception):
    """A frame that is not well-formed. `code` is stable; the frame is dropped and counted under it.

    Codes: `too_short`, `header_too_long`, `bad_header`, `unknown_version`, `bad_shape`, `bad_parts`,
    `size_mismatch`, `digest_mismatch`.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """What stands before the bytes. `step` is the position of the first of `n` tokens, or negative: control.

    `shape` is that of the whole tensor, whichever of its `parts` this is; `digest` is of this part's bytes.
    """

    v: Literal[1]
    kind: Kind
    pool: _Name
    epoch: _Count
    rid: _Name
    step: Annotated[int, msgspec.Meta(ge=-8, le=(1 << 31) - 1)]
    n: _Count
    attempt: _Count
    from_: _Key
    to: _Key
    dtype: WireDtype
    shape: Annotated[tuple[_Dimension, ...], msgspec.Meta(max_length=4)]
    part: _Count
    parts: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARTS)]
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    sent_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    credit: _Count
    """Frames the sender may still send to this peer before it must wait for an acknowledgement."""
    sig: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{130})?$")] = ""
    """The sender's signature over `signing.statement`; whose it must be is for the receiver's plan to say."""


@dataclass(frozen=True, slots=True)
class Frame:
    header: Header
    payload: bytes | memoryview


_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Header] = msgspec.json.Decoder(Header)


def digest_of(payload: bytes | memoryview) -> str:
    """BLAKE2b, 16 bytes, hex."""
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return prod(shape) * ITEM_BYTES[dtype]


def parts_of(total_bytes: int) -> int:
    """How many parts a tensor of `total_bytes` travels in."""
    return max(1, -(-total_bytes // PART_BYTES))


def part_bytes(total_bytes: int, part: int) -> int:
    """Length of part number `part`: all are PART_BYTES long but the last."""
    return min(PART_BYTES, total_bytes - part * PART_BYTES)


def encode(header: Header, payload: bytes | memoryview) -> bytes:
    head = _encode(header)
    return b"".join((len(head).to_bytes(4, "little"), head, payload))


def decode(raw: bytes | memoryview) -> Frame:
    """The payload is a view into `raw`, not a copy. Raises FrameRejected, and nothing else."""
    view = memoryview(raw)
    length = int.from_bytes(view[:4], "little")
    if len(view) < 4:
        raise FrameRejected("too_short", f"{len(view)} bytes")
    if length > MAX_HEADER_BYTES:
        raise FrameRejected("header_too_long", f"{length} bytes")
    if len(view) < 4 + length:
        raise FrameRejected("too_short", "the header is cut off")
    head, payload = view[4 : 4 + length], view[4 + length :]
    try:
        header = _decoder.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as bad:
        version = _version_of(head)
        if version is not None and version != VERSION:
            raise FrameRejected("unknown_version", str(version)) from bad
        raise FrameRejected("bad_header", str(bad)) from bad
    total = tensor_bytes(header.dtype, header.shape)
    if total > MAX_PARTS * PART_BYTES:
        raise FrameRejected("bad_shape", f"{total} bytes")
    if header.parts != parts_of(total) or header.part >= header.parts:
        raise FrameRejected("bad_parts", f"part {header.part} of {header.parts} for {total} bytes")
    if len(payload) != part_bytes(total, header.part):
        raise FrameRejected("size_mismatch", f"{len(payload)} bytes")
    if digest_of(payload) != header.digest:
        raise FrameRejected("digest_mismatch")
    return Frame(header, payload)


class _Version(msgspec.Struct):
    v: int


class Address(msgspec.Struct, rename={"from_": "from"}):
    """The fields a `nack` to a frame of another version needs; they keep their names in every version."""

    pool: _Name
    epoch: _Count
    rid: _Name
    from_: _Key
    to: _Key


def _version_of(head: memoryview) -> int | None:
    try:
        return msgspec.json.decode(head, type=_Version).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def address_of(raw: bytes | memoryview) -> Address | None:
    """Whom to tell that a frame was of an unknown version; None when it does not say so itself."""
    view = memoryview(raw)
    length = int.from_bytes(view[:4], "little")
    if length > MAX_HEADER_BYTES or len(view) < 4 + length:
        return None
    try:
        return msgspec.json.decode(view[4 : 4 + length], type=Address)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
