"""A moved KV is the KV: exported from one slot, taken in by another, every bit and every later token."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_runtime.kv import ContextExceeded, KvInvalid, KvSlot
from shard_runtime.slices import Slice
from tests.exact.generation import Dtype, load_cut
from tests.exact.models import FAMILIES, make_model

PROMPT = [5, 17, 80, 200, 33, 41, 9, 120, 64, 250, 7, 300, 19, 88, 143, 56, 210]
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def moved(slot: KvSlot, elsewhere: KvSlot, tokens_per_block: int) -> KvSlot:
    for first in range(0, slot.length, tokens_per_block):
        tokens = min(tokens_per_block, slot.length - first)
        block = slot.export(first, tokens)
        assert len(block) == tokens * slot.bytes_per_token
        elsewhere.take_in(bytes(block), DTYPES[slot.memory.dtype], slot.block_shape(tokens), tokens)
    return elsewhere


def logits(slices: list[Slice], slots: list[KvSlot], ids: list[int]) -> torch.Tensor:
    x = torch.tensor(ids)
    for piece, slot in zip(slices, slots, strict=True):
        x = piece.step(x, slot)
    return x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_goes_on_bit_for_bit_after_every_slot_moved(
    tmp_path: Path, family: str, dtype: Dtype
) -> None:
    """Longer than the sliding windows (12), moved twice, in blocks that do not divide the length."""
    slices = load_cut(make_model(tmp_path, family, eos=False), [0, 2, 6], dtype)
    stays = [piece.new_kv(64) for piece in slices]
    goes = [piece.new_kv(64) for piece in slices]
    token = int(logits(slices, stays, PROMPT).argmax())
    assert int(logits(slices, goes, PROMPT).argmax()) == token
    for step in range(20):
        if step in (3, 11):
            goes = [moved(slot, piece.new_kv(64), 5) for piece, slot in zip(slices, goes, strict=True)]
        expected, found = logits(slices, stays, [token]), logits(slices, goes, [token])
        assert torch.equal(expected, found)
        token = int(expected.argmax())


@given(
    layers=st.integers(1, 3), heads=st.integers(1, 3), dim=st.sampled_from([2, 8]), length=st.integers(1, 40),
    per_block=st.integers(1, 48), wide=st.booleans(), seed=st.integers(0, 2**16),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_bits_survive_the_way(
    layers: int, heads: int, dim: int, length: int, per_block: int, wide: bool, seed: int
) -> None:
    """Not-a-numbers and infinities too: what moves is bytes, not values."""
    dtype = torch.float32 if wide else torch.bfloat16

    def empty() -> KvSlot:
        return KvSlot((None,) * layers, heads, dim, 48, dtype)

    slot = empty()
    noise = torch.randint(0, 256, slot.memory.view(torch.uint8).shape, generator=torch.manual_seed(seed))
    slot.memory.view(torch.uint8).copy_(noise)
    slot.length = length
    found = moved(slot, empty(), per_block)
    assert found.length == length
    bits = [one.memory[:, :, :, :length].contiguous().view(torch.uint8) for one in (slot, found)]
    assert torch.equal(*bits)


def test_a_block_that_does_not_fit_changes_nothing() -> None:
    slot = KvSlot((None,) * 2, 2, 4, 8, torch.float32)
    slot.length = 6
    block = bytes(slot.export(0, 6))
    other = KvSlot((None,) * 2, 2, 4, 8, torch.float32)
    for dtype, shape, tokens in (
        ("bfloat16", slot.block_shape(6), 6),
        ("float32", slot.block_shape(5), 6),
        ("float32", slot.block_shape(6), 5),
    ):
        with pytest.raises(KvInvalid):
            other.take_in(block, dtype, shape, tokens)
    with pytest.raises(ContextExceeded):
        slot.take_in(block, "float32", slot.block_shape(6), 6)
    with pytest.raises(ValueError, match="holds 6"):
        slot.export(0, 7)
    assert (slot.length, other.length) == (6, 0)
