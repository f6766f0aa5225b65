"""What a model's directory says about its size and shape, read without torch; knows nothing of pools or
requests.

Reads config.json and the headers of the safetensors files only, so it takes milliseconds for any model.
"""

import json
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from services.gateway.refusals import ModelUnreadable, UnsupportedArchitecture
from shard_runtime.architectures import ArchitectureUnsupported, check_architecture

Dtype = Literal["float32", "bfloat16"]
_ITEM_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class ModelFacts:
    """Sizes are bytes in the pool's dtype. A tied head counts twice: the last node holds a copy of its
    own.
    """

    architecture: str
    num_layers: int
    layer_bytes: int
    embedding_bytes: int
    head_bytes: int
    context_length: int


def find_model(model: str, model_dirs: tuple[Path, ...]) -> Path:
    """The directory of `model`: absolute, or a name below one of `model_dirs`. Raises ModelUnreadable."""
    if os.path.isabs(model):
        candidates = [Path(model)]
    elif not model or ".." in Path(model).parts:
        candidates = []
    else:
        candidates = [directory / model for directory in model_dirs]
    for path in candidates:
        if (path / "config.json").is_file():
            return path.resolve()
    raise ModelUnreadable(f"The gateway finds no config.json of {model!r} below its model directories.")


def inspect(directory: Path, dtype: Dtype, context_length: int | None = None) -> ModelFacts:
    """`context_length`: what it is to be served with; None: its own. Raises ModelUnreadable,
    UnsupportedArchitecture.
    """
    try:
        config = json.loads((directory / "config.json").read_bytes())
        check_architecture(config)
        check_architecture(config, context_length or int(config["max_position_embeddings"]))
        num_layers = int(config["num_hidden_layers"])
        context_length = int(config["max_position_embeddings"])
        architecture = str((config.get("architectures") or [config["model_type"]])[0])
        counts = _tensor_elements(directory)
    except ArchitectureUnsupported as refused:
        raise UnsupportedArchitecture(str(refused), param="model") from refused
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as broken:
        raise ModelUnreadable(f"{directory.name}: {type(broken).__name__}: {broken}") from broken
    layers, embedding, head = [0] * num_layers, 0, 0
    for name, elements in counts.items():
        layer = _LAYER.search(name)
        if layer is not None:
            if int(layer[1]) < num_layers:
                layers[int(layer[1])] += elements
        elif "embed" in name:
            embedding += elements
        else:
            head += elements
    if not num_layers or not all(layers) or not embedding or context_length < 2:
        raise ModelUnreadable(f"{directory.name}: its tensors do not make {num_layers} decoder layers.")
    if not any(name.startswith("lm_head") for name in counts):
        head += embedding
    item = _ITEM_BYTES[dtype]
    return ModelFacts(
        architecture, num_layers, max(layers) * item, embedding * item, head * item, context_length
    )


def vocab_size(directory: Path) -> int:
    """Raises ModelUnreadable."""
    try:
        config = json.loads((directory / "config.json").read_bytes())
        return int(config.get("text_config", config)["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as broken:
        raise ModelUnreadable(f"{directory.name}: {type(broken).__name__}: {broken}") from broken


def _tensor_elements(directory: Path) -> dict[str, int]:
    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    found: dict[str, int] = {}
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"the index names a file outside the directory: {name!r}")
        for tensor, entry in _header(directory / name).items():
            if tensor != "__metadata__":
                found[tensor] = math.prod(entry["shape"])
    return found


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > _MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} claims a header of {size} bytes")
        header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError(f"{path.name} has no header")
    return header
