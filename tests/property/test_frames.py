"""Frames survive the wire bit for bit, and nothing that is not a frame gets further than FrameRejected."""

import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_runtime.frames import (
    ITEM_BYTES,
    MAX_HEADER_BYTES,
    PART_BYTES,
    FrameRejected,
    Header,
    address_of,
    decode,
    digest_of,
    encode,
    part_bytes,
    parts_of,
)

CODES = {
    "too_short", "header_too_long", "bad_header", "unknown_version", "bad_shape", "bad_parts",
    "size_mismatch", "digest_mismatch",
}  # fmt: skip
KEYS = st.binary(min_size=32, max_size=32).map(bytes.hex)


def header_for(payload: bytes, **changes: object) -> Header:
    fields: dict[str, object] = {
        "v": 1, "kind": "hidden", "pool": "p", "epoch": 1, "rid": "r", "step": 0, "n": 1, "attempt": 0,
        "from_": "a" * 64, "to": "b" * 64, "dtype": "json", "shape": (len(payload),), "part": 0, "parts": 1,
        "digest": digest_of(payload), "sent_ns": 1, "credit": 32,
    }  # fmt: skip
    return Header(**(fields | changes))  # type: ignore[arg-type]


def raw_frame(head: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<I", len(head)) + head + payload


def code_or_payload(raw: bytes) -> str | bytes:
    try:
        return bytes(decode(raw).payload)
    except FrameRejected as rejected:
        return rejected.code


@given(
    dtype=st.sampled_from(sorted(ITEM_BYTES)),
    shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    fill=st.binary(min_size=8, max_size=8),
    step=st.integers(-3, 1 << 20),
    keys=st.tuples(KEYS, KEYS),
    names=st.tuples(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20)),
    kind=st.sampled_from(["hidden", "token", "kv", "control", "ack", "nack"]),
)
def test_a_frame_comes_back_as_it_went(
    dtype: str,
    shape: tuple[int, ...],
    fill: bytes,
    step: int,
    keys: tuple[str, str],
    names: tuple[str, str],
    kind: str,
) -> None:
    size = ITEM_BYTES[dtype]
    for dimension in shape:
        size *= dimension
    payload = (fill * (size // 8 + 1))[:size]
    header = header_for(
        payload, kind=kind, dtype=dtype, shape=shape, step=step, from_=keys[0], to=keys[1], pool=names[0],
        rid=names[1],
    )  # fmt: skip
    frame = decode(encode(header, payload))
    assert frame.header == header
    assert bytes(frame.payload) == payload


def test_bfloat16_specials_keep_their_bits() -> None:
    specials = struct.pack("<6H", 0x7FC1, 0xFFC0, 0x8000, 0x0000, 0x7F80, 0xFF80)  # NaNs, -0, 0, inf, -inf
    header = header_for(specials, dtype="bfloat16", shape=(1, 6))
    assert bytes(decode(encode(header, specials)).payload) == specials


@given(st.binary(max_size=400))
def test_noise_is_rejected_with_a_known_code(noise: bytes) -> None:
    with pytest.raises(FrameRejected) as rejected:
        decode(noise)
    assert rejected.value.code in CODES


@given(st.data())
def test_a_damaged_frame_is_rejected_or_unchanged_in_meaning(data: st.DataObject) -> None:
    payload = data.draw(st.binary(min_size=1, max_size=40))
    good = bytearray(encode(header_for(payload), payload))
    where = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        del good[where:]
    else:
        good[where] ^= data.draw(st.integers(1, 255))
    # A flipped bit in a field without redundancy, such as sent_ns, may pass; the payload is certain.
    assert code_or_payload(bytes(good)) in CODES | {payload}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(field=st.sampled_from(Header.__struct_encode_fields__), value=JSON)
def test_any_json_in_any_field_is_a_frame_or_rejected(field: str, value: object) -> None:
    payload = b"x"
    fields = msgspec.to_builtins(header_for(payload)) | {field: value}
    raw = raw_frame(msgspec.json.encode(fields), payload)
    address_of(raw)
    assert code_or_payload(raw) in CODES | {payload}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"v": 2}, "unknown_version"),
        ({"kind": "exec"}, "bad_header"),
        ({"extra": 1}, "bad_header"),
        ({"dtype": "float64"}, "bad_header"),
        ({"shape": [1 << 24, 1 << 24]}, "bad_shape"),
        ({"shape": [1] * 5}, "bad_header"),
        ({"shape": [-1]}, "bad_header"),
        ({"shape": [PART_BYTES], "dtype": "float32"}, "bad_parts"),
        ({"shape": [PART_BYTES], "dtype": "float32", "parts": 4, "part": 4}, "bad_parts"),
        ({"shape": [PART_BYTES], "dtype": "float32", "parts": 4}, "size_mismatch"),
        ({"parts": 1 << 40}, "bad_header"),
        ({"shape": [2]}, "size_mismatch"),
        ({"digest": "0" * 32}, "digest_mismatch"),
        ({"from": "../../x"}, "bad_header"),
        ({"step": -(1 << 40)}, "bad_header"),
    ],
)
def test_each_lie_has_its_code(changes: dict[str, object], code: str) -> None:
    payload = b"x"
    fields = msgspec.to_builtins(header_for(payload)) | changes
    with pytest.raises(FrameRejected) as rejected:
        decode(raw_frame(msgspec.json.encode(fields), payload))
    assert rejected.value.code == code


def test_a_frame_of_another_version_still_says_whom_to_answer() -> None:
    fields = msgspec.to_builtins(header_for(b"x")) | {"v": 7, "kind": "dream", "new_field": [1]}
    address = address_of(raw_frame(msgspec.json.encode(fields), b"whatever"))
    assert address is not None
    assert (address.from_, address.rid) == ("a" * 64, "r")


def test_lies_about_size_allocate_nothing() -> None:
    lies = [
        struct.pack("<I", 0xFFFFFFFF) + b"{}",
        struct.pack("<I", MAX_HEADER_BYTES + 1) + b" " * 100,
        raw_frame(msgspec.json.encode(msgspec.to_builtins(header_for(b"x")) | {"shape": [1 << 24] * 4})),
        raw_frame(b"[" * 60_000),
        raw_frame(b'{"v":' + b"9" * 60_000 + b"}"),
    ]
    tracemalloc.start()
    try:
        for lie in lies:
            with pytest.raises(FrameRejected):
                decode(lie)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@given(st.integers(0, 40 * PART_BYTES))
def test_parts_cover_a_tensor_exactly(total: int) -> None:
    parts = parts_of(total)
    sizes = [part_bytes(total, part) for part in range(parts)]
    assert sum(sizes) == total
    assert all(size == PART_BYTES for size in sizes[:-1])
