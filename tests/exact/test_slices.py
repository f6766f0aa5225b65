"""N slices in memory compute what the whole model computes, bit for bit; knows nothing of sockets."""

from pathlib import Path

import pytest
import torch

from shard_runtime.kv import ContextExceeded, KvPool, NoKvSlot
from shard_runtime.loading import Loaded
from shard_runtime.messages import Sampling
from shard_runtime.slices import Slice, SliceRangeInvalid
from tests.exact.generation import Dtype, generated, load_cut, sharded, whole_model
from tests.exact.models import FAMILIES, make_model

PROMPT = [5, 17, 80, 200, 33, 41, 9, 120, 64, 250, 7, 300, 19, 88, 143, 56, 210]
CUTS = ([0, 6], [0, 3, 6], [0, 1, 4, 6])
SAMPLED = Sampling(seed=2**63 + 11, temperature=1.3, top_k=40, top_p=0.95)
JUDGED = ("llama", "qwen2", "qwen2_sliding")
"""Families tested in both dtypes, tied and untied; the others run untied."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("llama"), "llama", eos=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "tied"),
    [(family, tied) for family in FAMILIES for tied in (True, False) if family in JUDGED or not tied],
)
def test_slices_equal_generate_greedily_and_sampled(
    tmp_path: Path, family: str, tied: bool, dtype: Dtype
) -> None:
    model_dir = make_model(tmp_path, family, tied=tied, eos=False)
    whole = whole_model(model_dir, dtype)
    greedy = generated(whole, PROMPT, 40)
    drawn = generated(whole, PROMPT, 40, SAMPLED)
    assert len(set(drawn.ids)) > 10, "a reference that repeats itself proves little"
    for cuts in CUTS:
        slices = load_cut(model_dir, cuts, dtype)
        run = sharded(slices, PROMPT, 40)
        assert run.ids == greedy.ids
        assert all(map(torch.equal, run.logits, greedy.logits)), "same shapes must give the same bits"
        assert sharded(slices, PROMPT, 40, SAMPLED).ids == drawn.ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen2_sliding", "qwen3", "mistral"])
def test_lean_steps_give_the_modules_bits_until_a_window_is_reached_and_after(
    tmp_path: Path, family: str, dtype: Dtype
) -> None:
    model_dir = make_model(tmp_path, family, eos=False, sliding_window=30)
    expected = generated(whole_model(model_dir, dtype), PROMPT, 40)
    slices = load_cut(model_dir, [0, 3, 6], dtype)
    assert all(piece.is_lean for piece in slices), "the lean path must not fall out of use unnoticed"
    run = sharded(slices, PROMPT, 40)
    assert run.ids == expected.ids
    assert all(map(torch.equal, run.logits, expected.logits))


def test_families_with_other_layers_keep_transformers_modules(tmp_path: Path) -> None:
    for family in ("gemma2", "granite", "phi3"):
        piece = Slice.load(make_model(tmp_path / family, family), 0, 3, "float32", max_context=8)
        assert not piece.is_lean


@torch.inference_mode()
def test_lean_steps_agree_at_every_position_of_the_context(llama: Path) -> None:
    """The RoPE table is computed in blocks; a kernel's tail must not round otherwise than its body."""
    piece = Slice.load(llama, 0, 6, "float32", max_context=600)
    kv = piece.new_kv()
    piece.step(torch.randint(320, (600,), generator=torch.Generator().manual_seed(1)), kv)
    for position in range(0, 600, 7):
        kv.length = position
        lean = piece.step(torch.tensor([position % 320]), kv)
        kv.length = position
        assert torch.equal(lean, piece._modules_step(torch.tensor([position % 320]), kv))


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_stored_in_bf16_and_in_several_files_runs_the_same_in_both_dtypes(
    tmp_path: Path, tied: bool
) -> None:
    model_dir = make_model(tmp_path, "llama", tied=tied, dtype="bfloat16", eos=False, max_shard_size="100KB")
    assert (model_dir / "model.safetensors.index.json").is_file()
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    for dtype in dtypes:
        expected = generated(whole_model(model_dir, dtype), PROMPT, 24, SAMPLED)
        assert sharded(load_cut(model_dir, [0, 2, 6], dtype), PROMPT, 24, SAMPLED).ids == expected.ids


def test_the_text_ends_at_the_same_eos_as_generate(tmp_path: Path) -> None:
    model_dir = make_model(tmp_path, "llama")
    whole = whole_model(model_dir, "float32")
    slices = load_cut(model_dir, [0, 3, 6], "float32")
    assert slices[1].eos_ids == {2}
    ended = 0
    for seed in range(8):
        hot = Sampling(seed=seed, temperature=6.0)
        expected = generated(whole, PROMPT, 120, hot).ids
        assert sharded(slices, PROMPT, 120, hot).ids == expected
        ended += expected[-1] == 2
    assert ended > 0, "no run met the eos: choose other seeds"


def test_a_slice_has_only_its_own_tensors(llama: Path) -> None:
    whole = Slice.load(llama, 0, 6, "float32", max_context=8)
    entry, middle, end = load_cut(llama, [0, 1, 4, 6], "float32", 8)
    layer = middle.slice_bytes // 3
    embedding = 320 * 64 * 4
    assert entry.slice_bytes == embedding + layer
    assert end.slice_bytes == embedding + 64 * 4 + 2 * layer
    assert entry.slice_bytes + middle.slice_bytes + end.slice_bytes == whole.slice_bytes
    assert [piece.is_entry for piece in (entry, middle, end, whole)] == [True, False, False, True]
    assert [piece.is_exit for piece in (entry, middle, end, whole)] == [False, False, True, True]


def test_a_tied_head_is_the_embedding_and_is_counted_once(tmp_path: Path) -> None:
    model_dir = make_model(tmp_path, "llama", tied=True)
    whole = Slice.load(model_dir, 0, 6, "float32", max_context=8)
    entry, end = load_cut(model_dir, [0, 3, 6], "float32", 8)
    assert entry.slice_bytes + end.slice_bytes == whole.slice_bytes + 320 * 64 * 4


@pytest.mark.parametrize("family", ["llama", "qwen2_sliding", "gemma3_text"])
def test_truncated_kv_goes_on_as_if_the_rest_had_never_been(tmp_path: Path, family: str) -> None:
    piece = Slice.load(make_model(tmp_path, family), 0, 6, "float32", max_context=64)
    straight, detour = piece.new_kv(), piece.new_kv()
    piece.step(torch.tensor(PROMPT), straight)
    expected = piece.step(torch.tensor([9]), straight)
    piece.step(torch.tensor(PROMPT), detour)
    for wrong in (3, 4, 5):
        piece.step(torch.tensor([wrong]), detour)
    detour.truncate(len(PROMPT))
    assert torch.equal(piece.step(torch.tensor([9]), detour), expected)
    assert detour.length == straight.length == len(PROMPT) + 1


@pytest.mark.parametrize("family", ["llama", "qwen2_sliding", "mistral"])
def test_a_prompt_in_chunks_gives_the_same_tokens(tmp_path: Path, family: str) -> None:
    piece = Slice.load(make_model(tmp_path, family), 0, 6, "float32", max_context=64)
    whole, chunked = piece.new_kv(), piece.new_kv()
    expected = piece.step(torch.tensor(PROMPT), whole)
    logits = expected
    for begin in range(0, len(PROMPT), 5):
        logits = piece.step(torch.tensor(PROMPT[begin : begin + 5]), chunked)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert int(logits.argmax()) == int(expected.argmax())


def test_two_requests_by_turns_do_not_disturb_each_other(llama: Path) -> None:
    slices = load_cut(llama, [0, 3, 6], "float32")
    first, second = sharded(slices, PROMPT, 12).ids, sharded(slices, PROMPT[::-1], 12).ids
    pools = [KvPool(piece, 2, 64) for piece in slices]
    inputs = {"first": torch.tensor(PROMPT), "second": torch.tensor(PROMPT[::-1])}
    said: dict[str, list[int]] = {"first": [], "second": []}
    for _ in range(12):
        for name, x in inputs.items():
            for piece, pool in zip(slices, pools, strict=True):
                x = piece.step(x, pool.acquire(name))
            said[name].append(int(x.argmax()))
            inputs[name] = torch.tensor(said[name][-1:])
    assert said == {"first": first, "second": second}


def test_a_pool_gives_its_slots_and_takes_them_back(llama: Path) -> None:
    piece = Slice.load(llama, 0, 3, "bfloat16", max_context=64)
    pool = KvPool(piece, 2, 32)
    slot = pool.acquire("a")
    assert pool.acquire("a") is slot
    assert pool.bytes_per_slot == slot.memory.nbytes == 3 * 2 * 2 * 16 * 32 * 2
    piece.step(torch.tensor([5, 6]), slot)
    pool.acquire("b")
    with pytest.raises(NoKvSlot) as refused:
        pool.acquire("c")
    assert refused.value.code == "kv_exhausted"
    pool.release("a")
    pool.release("a")
    assert pool.used == 1
    again = pool.acquire("c")
    assert again is slot, "the memory is used again"
    assert again.length == 0


def test_a_step_that_does_not_fit_changes_nothing(llama: Path) -> None:
    piece = Slice.load(llama, 0, 3, "float32", max_context=4)
    kv = piece.new_kv()
    piece.step(torch.tensor([5, 6, 7]), kv)
    with pytest.raises(ContextExceeded) as refused:
        piece.step(torch.tensor([8, 9]), kv)
    assert (refused.value.code, kv.length) == ("context_exceeded", 3)
    with pytest.raises(ValueError, match="a step takes"):
        piece.step(torch.zeros(2, 64), kv)
    with pytest.raises(ValueError, match="token ids"):
        piece.step(torch.tensor([320]), kv)
    assert kv.length == 3
    with pytest.raises(ValueError, match="truncate"):
        kv.truncate(4)
    with pytest.raises(ContextExceeded):
        KvPool(piece, 1, 5)


@pytest.mark.parametrize(("first", "end"), [(3, 3), (-1, 2), (4, 7)])
def test_a_range_the_model_does_not_have_is_refused(llama: Path, first: int, end: int) -> None:
    with pytest.raises(SliceRangeInvalid) as refused:
        Slice.load(llama, first, end, "float32", max_context=8)
    assert refused.value.code == "slice_range_invalid"


def test_progress_counts_the_slices_bytes(llama: Path) -> None:
    seen: list[Loaded] = []
    piece = Slice.load(llama, 2, 5, "float32", max_context=8, progress=seen.append)
    counts = [now.bytes_done for now in seen]
    assert counts == sorted(counts)
    assert counts[-1] == seen[-1].bytes == piece.slice_bytes
    assert [now.tensors_done for now in seen] == list(range(1, seen[0].tensors + 1))
    assert {now.tensor.split(".")[2] for now in seen} == {"2", "3", "4"}
