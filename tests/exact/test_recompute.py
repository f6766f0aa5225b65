"""An answer computed again has the receipts' hashes of all that the stages took and gave; no ring."""

import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec.structs import replace

from shard_runtime.activations import to_bytes
from shard_runtime.messages import Sampling
from shard_runtime.receipts import SegmentHashes
from shard_runtime.recompute import answer, find_model, recompute
from shard_runtime.recomputed import Pass, Progress, Recomputed, Rerun, StagePasses
from shard_runtime.sampling import pick
from shard_runtime.slices import Slice
from shard_runtime.weights import MANIFEST_NAME, ModelNotFound, manifest_of
from tests.exact.generation import Dtype, load_cut
from tests.exact.models import make_model

PROMPT = (5, 17, 80, 200, 33, 41, 9, 120, 64, 250, 7, 300, 19, 88, 143, 56, 210)
SAMPLED = Sampling(seed=2**63 + 11, temperature=1.3, top_k=40, top_p=0.95)
CONTEXT = 96


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "llama", "llama", eos=False)


def ran(slices: list[Slice], count: int) -> tuple[tuple[int, ...], list[list[Pass]]]:
    """As a ring runs it, every token through all stages before the next; what each stage took and gave."""
    caches, passes = [piece.new_kv() for piece in slices], [list[Pass]() for _ in slices]
    hashes = [SegmentHashes(SAMPLED if piece.is_exit else None) for piece in slices]
    ids, step, given = list(PROMPT), 0, torch.tensor(PROMPT)
    for _ in range(count):
        n = given.shape[0]
        taken = struct.pack(f"<{n}q", *given.tolist())
        for piece, kv, told, running in zip(slices, caches, passes, hashes, strict=True):
            given = piece.step(given, kv)
            gave = bytes(to_bytes(given)) if not piece.is_exit else b""
            if piece.is_exit:
                token = pick(given, SAMPLED, step + n)
                gave = struct.pack("<q", token)
            running.add(step, n, taken, gave)
            now = running.latest()
            told.append(Pass(step, n, now.segment, now.input_hash, now.output_hash))
            taken = gave
        step, given = step + n, torch.tensor([token])
        ids.append(token)
    return tuple(ids), passes


def rerun_of(model_dir: Path, ids: tuple[int, ...], *cuts: int, dtype: Dtype = "float32") -> Rerun:
    digest = manifest_of(model_dir).digest
    return Rerun(digest, dtype, 6, CONTEXT, cuts, ids, len(PROMPT), SAMPLED)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_gives_the_bits_of_the_run(llama: Path, dtype: Dtype) -> None:
    slices = load_cut(llama, [0, 1, 4, 6], dtype, CONTEXT)
    assert slices[1].is_lean
    ids, passes = ran(slices, 12)
    told: list[Progress] = []
    rerun = rerun_of(llama, ids[:-1], 0, 1, 4, 6, dtype=dtype)
    again = recompute(rerun, llama, told.append)
    assert [(one.first_layer, one.end_layer) for one in again] == [(0, 1), (1, 4), (4, 6)]
    assert [list(one.passes) for one in again] == passes
    assert told[-1] == Progress(36, 36)


def test_other_cuts_before_a_stage_do_not_change_its_bits(llama: Path) -> None:
    """So that whoever has less memory may load fewer layers at a time."""
    ids, passes = ran(load_cut(llama, [0, 3, 6], "bfloat16", CONTEXT), 6)
    rerun = rerun_of(llama, ids[:-1], 0, 1, 2, 3, 6, dtype="bfloat16")
    assert recompute(rerun, llama, lambda told: None)[-1].passes == tuple(passes[-1])


@pytest.mark.long
def test_the_process_answers_in_json_and_tells_its_progress(llama: Path) -> None:
    ids, passes = ran(load_cut(llama, [0, 2, 6], "float32", CONTEXT), 3)
    rerun = rerun_of(llama, ids[:-1], 0, 2)
    done = subprocess.run(
        [sys.executable, "-m", "shard_runtime.recompute", str(llama.parent)],
        input=msgspec.json.encode(rerun), capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    said = msgspec.json.decode(done.stdout, type=Recomputed)
    assert said == Recomputed((StagePasses(0, 2, tuple(passes[0])),))
    assert msgspec.json.decode(done.stderr.splitlines()[-1], type=Progress) == Progress(3, 3)


def test_a_model_is_found_by_its_weights_wherever_it_lies(llama: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "owner" / "small", "llama", layers=1, seed=8)
    wanted = manifest_of(other).digest
    assert find_model((llama.parent, tmp_path), wanted) == other
    assert find_model((llama, other), wanted) == other
    (other / MANIFEST_NAME).write_bytes(manifest_of(llama).to_json())
    with pytest.raises(ModelNotFound):
        find_model((tmp_path,), wanted)
    with pytest.raises(ModelNotFound):
        find_model((tmp_path / "owner" / "nobody",), wanted)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"weights_digest": "0" * 64}, "model_not_found"),
        ({"num_layers": 7}, "rerun_invalid"),
        ({"cuts": (0, 4, 4)}, "rerun_invalid"),
        ({"cuts": (1, 4)}, "rerun_invalid"),
        ({"cuts": (0, 9)}, "rerun_invalid"),
        ({"first_pass": 0}, "rerun_invalid"),
        ({"first_pass": len(PROMPT) + 1}, "rerun_invalid"),
        ({"ids": (*PROMPT[:-1], 320)}, "rerun_invalid"),
        ({"max_context": 8}, "rerun_invalid"),
        ({"max_context": 2**40}, "rerun_invalid"),
        ({"ids": ()}, "rerun_invalid"),
        ({"dtype": "float8"}, "rerun_invalid"),
    ],
)
def test_what_cannot_be_computed_is_named(llama: Path, changes: dict[str, object], code: str) -> None:
    rerun = replace(rerun_of(llama, PROMPT, 0, 2), **changes)
    said = answer(msgspec.json.encode(rerun), (llama,), lambda told: None)
    assert (said.error, said.stages) == (code, ())
    assert said.detail
