"""Finds a model's directory and tells, tensor by tensor, whether its weights are the agreed ones.

Knows nothing of torch, of layers or of the network (except when a hub download was allowed by the operator).
"""

import contextlib
import hashlib
import json
import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shard_runtime.architectures import ArchitectureUnsupported, check_architecture

__all__ = [
    "MANIFEST_NAME",
    "ArchitectureUnsupported",
    "HubRefused",
    "Manifest",
    "ModelNotFound",
    "StoredTensor",
    "WeightsMismatch",
    "WeightsUnreadable",
    "manifest_of",
    "read_chunks",
    "read_config",
    "resolve_model",
    "stored_tensors",
    "trusted_manifest",
]

MANIFEST_NAME = "computepool-manifest.json"
CHUNK_BYTES = 1 << 20
_MAX_HEADER_BYTES = 100_000_000
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelNotFound(Exception):
    """model_not_found: no such model on this machine; put its directory below a model directory."""

    code = "model_not_found"


class HubRefused(Exception):
    """hub_refused: a hub id, and downloads are off; fetch the model yourself or allow downloads."""

    code = "hub_refused"


class WeightsMismatch(Exception):
    """weights_mismatch: the files here are not the agreed weights; fetch that revision again."""

    code = "weights_mismatch"


class WeightsUnreadable(Exception):
    """weights_unreadable: not a complete safetensors model; convert it or complete the download."""

    code = "weights_unreadable"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: `size` bytes at `offset` of `path`, little-endian and row-major."""

    path: Path
    dtype: str
    """As safetensors spells it: "F32", "BF16", "F16", ..."""
    shape: tuple[int, ...]
    offset: int
    size: int

    def fingerprint(self) -> "hashlib._Hash":
        """A SHA-256 already fed with dtype and shape: equal bytes of another shape are another tensor."""
        return hashlib.sha256(f"{self.dtype}|{','.join(map(str, self.shape))}|".encode())


@dataclass(frozen=True)
class Manifest:
    """SHA-256 of everything that decides what a model computes and where it stops.

    `config` and `generation` are of config.json and generation_config.json (None when the latter is absent);
    `tensors` maps each name to the hash of "dtype|shape|" followed by the tensor's bytes.
    """

    config: str
    tensors: dict[str, str]
    generation: str | None = field(default=None)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of `to_json()`: the `weights_digest` of a `LoadSlice`."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """Canonical: sorted keys, no spaces, ASCII."""
        fields = {"config": self.config, "generation": self.generation, "tensors": self.tensors}
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> "Manifest":
        """Raises ValueError when `raw` is not a manifest."""
        try:
            fields = json.loads(raw)
            tensors = {str(name): str(digest) for name, digest in fields["tensors"].items()}
            generation = fields["generation"]
            return cls(str(fields["config"]), tensors, None if generation is None else str(generation))
        except (AttributeError, KeyError, TypeError) as broken:
            raise ValueError(f"not a weights manifest: {broken!r}") from broken


def manifest_of(model_dir: Path) -> Manifest:
    """Hash every tensor, streaming (constant memory, one read of all weights). Raises WeightsUnreadable."""
    tensors = {}
    for name, stored in sorted(stored_tensors(model_dir).items()):
        fingerprint = stored.fingerprint()
        for chunk in read_chunks(stored):
            fingerprint.update(chunk)
        tensors[name] = fingerprint.hexdigest()
    return Manifest(_file_digest(model_dir / "config.json"), tensors, _generation_digest(model_dir))


def trusted_manifest(model_dir: Path, expect_digest: str) -> Manifest:
    """The manifest with digest `expect_digest`: from the file beside the model, else by hashing all.

    The file needs no trust: it is believed only when it hashes to the expected digest. Tensors are not
    checked here; who reads one compares it with `tensors[name]`. Raises WeightsMismatch, WeightsUnreadable.
    """
    manifest: Manifest | None = None
    with contextlib.suppress(OSError, ValueError):
        manifest = Manifest.from_json((model_dir / MANIFEST_NAME).read_bytes())
    if manifest is None or manifest.digest != expect_digest:
        manifest = manifest_of(model_dir)
    if manifest.digest != expect_digest:
        raise WeightsMismatch(
            f"weights in {model_dir.name} have digest {manifest.digest}, not {expect_digest}"
        )
    if manifest.config != _file_digest(model_dir / "config.json"):
        raise WeightsMismatch(f"config.json of {model_dir.name} is not the agreed one")
    if manifest.generation != _generation_digest(model_dir):
        raise WeightsMismatch(f"generation_config.json of {model_dir.name} is not the agreed one")
    return manifest


def read_config(model_dir: Path) -> dict[str, Any]:
    """config.json as a dict. Raises WeightsUnreadable."""
    try:
        config = json.loads((model_dir / "config.json").read_bytes())
    except (OSError, ValueError) as broken:
        raise WeightsUnreadable(f"no readable config.json in {model_dir.name}: {broken}") from broken
    if not isinstance(config, dict):
        raise WeightsUnreadable(f"config.json in {model_dir.name} is not an object")
    return config


def stored_tensors(model_dir: Path) -> dict[str, StoredTensor]:
    """Every tensor of the model's safetensors, sharded (index) or single. Raises WeightsUnreadable."""
    index_path = model_dir / "model.safetensors.index.json"
    if not index_path.is_file():
        return _tensors_of_file(model_dir / "model.safetensors")
    try:
        weight_map: dict[str, str] = json.loads(index_path.read_bytes())["weight_map"]
    except (ValueError, KeyError) as broken:
        raise WeightsUnreadable(f"bad index in {model_dir.name}: {broken!r}") from broken
    found: dict[str, StoredTensor] = {}
    for file_name in sorted(set(weight_map.values())):
        if Path(file_name).name != file_name:
            raise WeightsUnreadable(f"the index names a file outside the model's directory: {file_name!r}")
        held = _tensors_of_file(model_dir / file_name)
        found.update(
            {name: held[name] for name, where in weight_map.items() if where == file_name and name in held}
        )
    if missing := sorted(set(weight_map) - set(found)):
        raise WeightsUnreadable(f"the index promises tensors that are not in the files: {missing[:3]}")
    return found


def read_chunks(stored: StoredTensor) -> Iterator[memoryview]:
    """The tensor's bytes in order, at most CHUNK_BYTES at a time; each view is valid until the next one."""
    buffer = memoryview(bytearray(min(CHUNK_BYTES, stored.size)))
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.offset)
        for begin in range(0, stored.size, CHUNK_BYTES):
            chunk = buffer[: min(CHUNK_BYTES, stored.size - begin)]
            filled = 0
            while filled < len(chunk):
                count = file.readinto(chunk[filled:])
                if not count:
                    raise WeightsUnreadable(f"{stored.path.name} ends before its tensors do")
                filled += count
            yield chunk


def resolve_model(model: str, model_dirs: Sequence[Path], allow_hub: bool) -> Path:
    """The directory of `model`: an absolute path, a name below one of `model_dirs`, or (if allowed) a hub id.

    Raises ModelNotFound, HubRefused, ArchitectureUnsupported (by name, with the reason), WeightsUnreadable.
    """
    found = _local_directory(model, model_dirs)
    if found is None and _HUB_ID.fullmatch(model):
        if not allow_hub:
            raise HubRefused(f"{model!r} is not below {_named(model_dirs)} and hub downloads are off")
        found = _download(model)
    if found is None:
        raise ModelNotFound(f"{model!r} is neither a model directory nor a name below {_named(model_dirs)}")
    check_architecture(read_config(found))
    return found


def _local_directory(model: str, model_dirs: Sequence[Path]) -> Path | None:
    if os.path.isabs(model):
        candidates = [Path(model)]
    elif not model or ".." in Path(model).parts:
        candidates = []
    else:
        candidates = [directory / model for directory in model_dirs]
    return next((path.resolve() for path in candidates if (path / "config.json").is_file()), None)


def _named(model_dirs: Sequence[Path]) -> str:
    return ", ".join(map(str, model_dirs)) or "any model directory (none is configured)"


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as failed:
        raise ModelNotFound(f"{model!r} could not be downloaded: {failed}") from failed


def _tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if header_bytes > _MAX_HEADER_BYTES:
                raise WeightsUnreadable(f"{path.name}: its header claims {header_bytes} bytes")
            header = json.loads(file.read(header_bytes))
            file_bytes = os.fstat(file.fileno()).st_size
        header.pop("__metadata__", None)
        found = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            start = 8 + header_bytes + begin
            if not 0 <= begin <= end or start + (end - begin) > file_bytes:
                raise WeightsUnreadable(f"{path.name}: tensor {name} lies outside the file")
            found[name] = StoredTensor(path, entry["dtype"], tuple(entry["shape"]), start, end - begin)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as broken:
        raise WeightsUnreadable(f"{path.name} is not a readable safetensors file: {broken!r}") from broken


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as broken:
        raise WeightsUnreadable(f"no readable {path.name} in {path.parent.name}") from broken


def _generation_digest(model_dir: Path) -> str | None:
    path = model_dir / "generation_config.json"
    return _file_digest(path) if path.is_file() else None


def _main(arguments: Sequence[str]) -> int:
    """`python -m shard_runtime.weights DIR [--write]`: prints {"weights_digest", "tensors"} as JSON.

    --write leaves the manifest beside the model, so that a shard hashes only its own tensors.
    """
    directories = [argument for argument in arguments if argument != "--write"]
    if len(directories) != 1:
        print("usage: python -m shard_runtime.weights DIR [--write]", file=sys.stderr)
        return 2
    try:
        model_dir = resolve_model(os.path.abspath(directories[0]), (), allow_hub=False)
        manifest = manifest_of(model_dir)
        if len(arguments) > len(directories):
            (model_dir / MANIFEST_NAME).write_bytes(manifest.to_json())
    except (ModelNotFound, ArchitectureUnsupported, WeightsUnreadable) as refused:
        print(f"{refused.code}: {refused}", file=sys.stderr)
        return 1
    except OSError as failed:
        print(f"{directories[0]}: {failed}", file=sys.stderr)
        return 1
    print(json.dumps({"weights_digest": manifest.digest, "tensors": len(manifest.tensors)}))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
