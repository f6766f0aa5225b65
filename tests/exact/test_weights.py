"""A model is found, or refused by name, and wrong weights never reach a slice; knows nothing of pools."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shard_runtime.slices import Slice
from shard_runtime.weights import (
    MANIFEST_NAME,
    HubRefused,
    Manifest,
    ModelNotFound,
    WeightsMismatch,
    WeightsUnreadable,
    manifest_of,
    resolve_model,
    stored_tensors,
)
from tests.exact.models import make_model


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return make_model(tmp_path / "zoo" / "tiny", "llama", layers=3)


def load(model_dir: Path, first: int, end: int, digest: str | None) -> Slice:
    return Slice.load(model_dir, first, end, "float32", max_context=8, expect_digest=digest)


def change_tensor(model_dir: Path, name: str) -> None:
    tensors = load_file(model_dir / "model.safetensors")
    tensors[name].view(-1)[3] += 1
    save_file(tensors, model_dir / "model.safetensors", {"format": "pt"})


def change_config(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_manifest_survives_json_and_does_not_depend_on_how_files_are_split(tmp_path: Path) -> None:
    single = make_model(tmp_path / "single", "llama")
    several = make_model(tmp_path / "several", "llama", max_shard_size="100KB")
    assert (several / "model.safetensors.index.json").is_file()
    manifest = manifest_of(single)
    assert manifest == manifest_of(several)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert len(manifest.digest) == 64
    assert set(manifest.tensors) == set(load_file(single / "model.safetensors"))


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"config":"a","tensors":[]}', b"\xff"])
def test_what_is_no_manifest_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json's own error is one as well)
        Manifest.from_json(raw)


@pytest.mark.parametrize("sidecar", [True, False])
def test_a_changed_tensor_is_refused_by_the_slice_that_reads_it(model_dir: Path, sidecar: bool) -> None:
    manifest = manifest_of(model_dir)
    if sidecar:
        (model_dir / MANIFEST_NAME).write_bytes(manifest.to_json())
    load(model_dir, 0, 3, manifest.digest)
    change_tensor(model_dir, "model.layers.2.mlp.up_proj.weight")
    with pytest.raises(WeightsMismatch) as refused:
        load(model_dir, 2, 3, manifest.digest)
    assert refused.value.code == "weights_mismatch"


def test_with_a_manifest_beside_the_model_other_slices_tensors_are_not_read(model_dir: Path) -> None:
    manifest = manifest_of(model_dir)
    (model_dir / MANIFEST_NAME).write_bytes(manifest.to_json())
    change_tensor(model_dir, "model.layers.2.mlp.up_proj.weight")
    assert load(model_dir, 0, 2, manifest.digest).slice_bytes > 0


def test_a_forged_or_stale_manifest_beside_the_model_does_not_help_or_harm(model_dir: Path) -> None:
    honest = manifest_of(model_dir)
    (model_dir / MANIFEST_NAME).write_bytes(Manifest("0" * 64, {}).to_json())
    load(model_dir, 0, 3, honest.digest)
    (model_dir / MANIFEST_NAME).write_text("no manifest at all")
    load(model_dir, 0, 3, honest.digest)
    with pytest.raises(WeightsMismatch):
        load(model_dir, 0, 3, "0" * 64)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("sidecar", [True, False])
def test_a_changed_config_is_refused(model_dir: Path, name: str, sidecar: bool) -> None:
    manifest = manifest_of(model_dir)
    if sidecar:
        (model_dir / MANIFEST_NAME).write_bytes(manifest.to_json())
    change_config(model_dir / name, eos_token_id=7)
    with pytest.raises(WeightsMismatch):
        load(model_dir, 0, 3, manifest.digest)


def digest_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "shard_runtime.weights", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60, check=False)


def test_the_command_prints_the_digest_and_writes_the_manifest(model_dir: Path) -> None:
    shown = digest_command(str(model_dir))
    assert json.loads(shown.stdout)["weights_digest"] == manifest_of(model_dir).digest
    assert not (model_dir / MANIFEST_NAME).exists()
    assert digest_command(str(model_dir), "--write").stdout == shown.stdout
    assert Manifest.from_json((model_dir / MANIFEST_NAME).read_bytes()) == manifest_of(model_dir)


def test_the_command_says_by_code_why_it_cannot(tmp_path: Path) -> None:
    refused = digest_command(str(tmp_path / "nothing"))
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("model_not_found: ")
    assert digest_command().returncode == 2


def test_a_model_is_found_by_path_and_by_name(model_dir: Path) -> None:
    zoo = model_dir.parent
    assert resolve_model(str(model_dir), [], False) == model_dir
    assert resolve_model("tiny", [zoo / "none", zoo], False) == model_dir
    assert resolve_model("zoo/tiny", [zoo.parent], False) == model_dir


@pytest.mark.parametrize("name", ["nothing", "", "../zoo/tiny", "/nowhere/at/all", "."])
def test_an_unknown_model_is_refused_by_name(model_dir: Path, name: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        resolve_model(name, [model_dir.parent], False)
    assert refused.value.code == "model_not_found"
    assert repr(name) in str(refused.value)


def test_a_hub_id_is_refused_unless_configured(tmp_path: Path) -> None:
    with pytest.raises(HubRefused) as refused:
        resolve_model("someone/some-model", [tmp_path], False)
    assert refused.value.code == "hub_refused"


def test_an_allowed_hub_id_that_cannot_be_fetched_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match="could not be downloaded"):
        resolve_model("someone/some-model-nobody-has", [tmp_path], True)


def test_broken_files_are_named(model_dir: Path) -> None:
    weights = model_dir / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (
        b"",
        whole[:4],
        whole[:200],
        whole[:-1],
        b"\xff" * 8 + whole[8:],
        (8).to_bytes(8, "little") + b"[1, 2]  ",
    ):
        weights.write_bytes(broken)
        with pytest.raises(WeightsUnreadable, match=r"model\.safetensors") as refused:
            stored_tensors(model_dir)
        assert refused.value.code == "weights_unreadable"
    weights.unlink()
    with pytest.raises(WeightsUnreadable):
        manifest_of(model_dir)


def test_an_index_may_not_lead_out_of_the_directory(model_dir: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../other/model.safetensors"}}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsUnreadable, match="outside"):
        stored_tensors(model_dir)


def test_a_missing_tensor_and_a_wrong_shape_are_named(model_dir: Path) -> None:
    tensors = load_file(model_dir / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, model_dir / "model.safetensors", {"format": "pt"})
    assert load(model_dir, 0, 2, None).is_entry
    with pytest.raises(WeightsUnreadable, match=r"lacks model\.norm\.weight"):
        load(model_dir, 2, 3, None)
    save_file(tensors | {"model.norm.weight": norm[:7].clone()}, model_dir / "model.safetensors")
    with pytest.raises(WeightsUnreadable, match=r"model\.norm\.weight is \(7,\)"):
        load(model_dir, 2, 3, None)


def test_quantised_weights_are_refused(model_dir: Path) -> None:
    tensors = load_file(model_dir / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, model_dir / "model.safetensors")
    with pytest.raises(WeightsUnreadable, match="I8"):
        load(model_dir, 0, 1, None)


_PEAK = """
import json, resource, sys
from pathlib import Path
import torch
from shard_runtime.slices import Slice
torch.set_num_threads(1)
def rss(): return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
def peak(): return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if "VmHWM" in line)
folder, warm, first, end, digest = sys.argv[1:]
tiny = Slice.load(Path(warm), 0, 3, "float32", max_context=64)
tiny.step(torch.tensor([3, 4, 5]), tiny.new_kv())
baseline = rss()
piece = Slice.load(Path(folder), int(first), int(end), "float32", max_context=64, expect_digest=digest)
kv = piece.new_kv()
x = torch.arange(3, 11) if piece.is_entry else torch.randn(8, piece.d_model)
for _ in range(3):
    piece.step(x, kv)
print(json.dumps({"peak": peak() - baseline, "slice": piece.slice_bytes, "before": baseline}))
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`big` (120 MB, tied) and `tiny`."""
    folder = tmp_path_factory.mktemp("zoo")
    make_model(folder / "tiny", "llama", layers=3)
    make_model(folder / "big", "llama", layers=8, hidden=512, intermediate=2048, vocab=8192, tied=True)
    return folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("first", "end"), [pytest.param(0, 4, marks=pytest.mark.long), (4, 8)])
def test_peak_memory_is_the_slice_even_when_it_is_verified(zoo: Path, first: int, end: int) -> None:
    """Half of `big` is loaded, hashed and run in its own process. VmHWM, as ru_maxrss is inherited."""
    digest = manifest_of(zoo / "big").digest
    arguments = [
        sys.executable,
        "-c",
        _PEAK,
        str(zoo / "big"),
        str(zoo / "tiny"),
        str(first),
        str(end),
        digest,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    output = subprocess.run(arguments, capture_output=True, check=True, env=environment, timeout=120).stdout
    measured = json.loads(output)
    assert measured["peak"] <= 1.10 * measured["slice"], measured
