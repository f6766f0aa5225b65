"""A range of a model's decoder layers as one function of hidden states and KV; knows nothing of sockets.

The modules are transformers' own, built on the meta device, cut, and filled with only this slice's tensors.
Masks, RoPE, sliding windows, soft-capping and logit scaling stay theirs; tests/exact demands bit equality.
"""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from shard_runtime.architectures import check_architecture
from shard_runtime.kv import KvSlot
from shard_runtime.lean import LeanDecode
from shard_runtime.loading import Loaded
from shard_runtime.weights import (
    Manifest,
    StoredTensor,
    WeightsMismatch,
    WeightsUnreadable,
    read_chunks,
    read_config,
    stored_tensors,
    trusted_manifest,
)

Progress = Callable[[Loaded], None]
"""Called after each tensor."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_STORED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_PROBE_STEPS = 3
_SIDE_BY_SIDE = re.compile(r"^(.+\.)(q_proj|k_proj|v_proj|gate_proj|up_proj)\.(weight|bias)$")
_GROUP_OF = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
_LAYER = re.compile(r"^(.*\blayers\.)(\d+)(\..+)$")


class SliceRangeInvalid(Exception):
    """slice_range_invalid: the plan names layers this model lacks; plan again for this model."""

    code = "slice_range_invalid"


class Slice:
    """Layers `[first_layer, end_layer)`, with embeddings if the entry, with norm and lm_head if the exit."""

    def __init__(
        self,
        model: nn.Module,
        first_layer: int,
        end_layer: int,
        num_layers: int,
        max_context: int,
        eos_ids: frozenset[int],
    ) -> None:
        self.first_layer, self.end_layer, self.num_layers = first_layer, end_layer, num_layers
        self.is_entry, self.is_exit = first_layer == 0, end_layer == num_layers
        self.max_context, self.eos_ids = max_context, eos_ids
        self._model: Any = model
        self._base: Any = model.get_decoder()  # type: ignore[operator]
        config = self._base.config
        self.d_model: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.dtype: torch.dtype = next(model.parameters()).dtype
        unique = {tensor.data_ptr(): tensor.nbytes for tensor in model.parameters()}
        self.slice_bytes = sum(unique.values())
        self._windows = tuple(
            layer.sliding_window if layer.is_sliding else None for layer in DynamicCache(config=config).layers
        )
        self._kv_heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self._head_dim: int = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        self._positions = torch.arange(max_context).unsqueeze(0)
        self._lean: LeanDecode | None = None
        self._lean_below = min(
            (window for window in self._windows if window is not None), default=max_context + 1
        )
        self._lean = self._checked_lean()

    @classmethod
    def load(
        cls,
        model_dir: Path,
        first_layer: int,
        end_layer: int,
        dtype: Literal["float32", "bfloat16"],
        *,
        max_context: int,
        expect_digest: str | None = None,
        progress: Progress | None = None,
    ) -> "Slice":
        """Read only this slice's tensors, each checked against the manifest of `expect_digest` as it is read.

        Peak memory is the slice plus a few MB. Raises ArchitectureUnsupported, SliceRangeInvalid,
        WeightsMismatch, WeightsUnreadable.
        """
        check_architecture(read_config(model_dir), max_context)
        manifest = None if expect_digest is None else trusted_manifest(model_dir, expect_digest)
        config = AutoConfig.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)
        num_layers = int(config.num_hidden_layers)
        if not 0 <= first_layer < end_layer <= num_layers:
            raise SliceRangeInvalid(f"[{first_layer}, {end_layer}) of a model with {num_layers} layers")
        model = _cut(config, first_layer, end_layer, _DTYPES[dtype])
        _fill(model, model_dir, first_layer, manifest, progress)
        return cls(model, first_layer, end_layer, num_layers, max_context, _eos_ids(model_dir))

    @property
    def is_lean(self) -> bool:
        """Whether decode steps skip transformers' modules (same bits, less time): known families only."""
        return self._lean is not None

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of KV that `tokens` tokens of one request take on this slice."""
        return len(self._windows) * 2 * self._kv_heads * self._head_dim * tokens * self.dtype.itemsize

    def new_kv(self, max_context: int | None = None) -> KvSlot:
        """An empty slot for one request of at most `max_context` (default: the slice's) tokens."""
        return KvSlot(
            self._windows, self._kv_heads, self._head_dim, max_context or self.max_context, self.dtype
        )

    @torch.inference_mode()
    def step(self, x: Tensor, kv: KvSlot) -> Tensor:
        """Run `x` at positions `kv.length...` and append it to `kv`.

        x: token ids (tokens,) int64 on the entry, else hidden states (tokens, d_model) in the slice's dtype.
        Returns hidden states (tokens, d_model); on the exit the LAST position's logits (vocab_size,) float32.
        When it raises (ContextExceeded, ValueError), `kv` is as before.
        """
        tokens = x.shape[0]
        if tokens == 0 or x.dim() != (1 if self.is_entry else 2):
            wanted = "(tokens,)" if self.is_entry else "(tokens, d_model)"
            raise ValueError(f"a step takes {wanted}, not {tuple(x.shape)}")
        if self.is_entry and not 0 <= int(x.min()) <= int(x.max()) < self.vocab_size:
            raise ValueError(f"token ids must be in [0, {self.vocab_size})")
        kv.room_for(tokens)
        if tokens == 1 and self._lean is not None and kv.length + 1 < self._lean_below:
            result = self._lean.step(x, kv)
        else:
            result = self._modules_step(x, kv)
        kv.length += tokens
        return result

    def _modules_step(self, x: Tensor, kv: KvSlot) -> Tensor:
        """transformers' own forward. Writes to `kv` after its length, and leaves the length as it is."""
        tokens = x.shape[0]
        call: dict[str, Any] = {
            "input_ids" if self.is_entry else "inputs_embeds": x.unsqueeze(0),
            "position_ids": self._positions[:, kv.length : kv.length + tokens],
            "past_key_values": kv.cache,
            "use_cache": True,
        }
        result: Tensor
        if self.is_exit:
            result = self._model(**call, logits_to_keep=1).logits[0, -1].float()
        else:
            result = self._base(**call).last_hidden_state[0]
        return result

    @torch.inference_mode()
    def _checked_lean(self) -> LeanDecode | None:
        """The lean path, if it covers this family and gives the modules' bits on this machine, else None."""
        lean = LeanDecode.of(self._model, self._kv_heads, self._head_dim, self.is_entry, self.is_exit)
        if lean is None:
            return None
        kv, random = self.new_kv(min(self.max_context, _PROBE_STEPS)), torch.Generator().manual_seed(0)
        for _ in range(kv.max_context):
            if self.is_entry:
                x = torch.randint(self.vocab_size, (1,), generator=random)
            else:
                x = torch.randn((1, self.d_model), generator=random).to(self.dtype)
            expected = self._modules_step(x, kv)
            if not torch.equal(lean.step(x, kv), expected):
                return None
            kv.length += 1
        return lean


def _cut(config: Any, first: int, end: int, dtype: torch.dtype) -> Any:
    """transformers' causal model with only layers [first, end), renumbered from 0; parameters on `meta`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.eval().requires_grad_(False)
    base = model.get_decoder()
    own = copy.deepcopy(base.config)
    own.num_hidden_layers = end - first
    if getattr(own, "layer_types", None):
        own.layer_types = own.layer_types[first:end]
    base.layers = nn.ModuleList(base.layers[first:end])
    for module in base.layers.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx -= first
    base.config = own
    if first > 0:
        base.embed_tokens = None
        if hasattr(base, "embedding_multiplier"):
            base.embedding_multiplier = 1.0  # Granite scales its input inside forward: the entry has done so
    if end < config.num_hidden_layers:
        base.norm = nn.Identity()
        model.lm_head = None
    _restore_buffers(model)
    return model


def _restore_buffers(model: Any) -> None:
    """Compute what no checkpoint holds (RoPE frequencies, Gemma's embedding scale), before weights."""
    for module in model.modules():
        lost = [name for name in module._non_persistent_buffers_set if module._buffers[name] is not None]
        for name in lost:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        if lost:
            model._init_weights(module)


def _fill(
    model: Any, model_dir: Path, first: int, manifest: Manifest | None, progress: Progress | None
) -> None:
    stored = stored_tensors(model_dir)
    wanted = model.state_dict()
    sources = {name: _stored_name(name, first, stored, model) for name in wanted}
    total = sum(stored[source].size for source in set(sources.values()))
    read: dict[str, Tensor] = {}
    done = 0
    places = _places(wanted)
    for name, source in sources.items():
        if source in read:
            continue
        place = places[name]
        if tuple(place.shape) != stored[source].shape:
            shapes = f"{stored[source].shape}, config.json asks for {tuple(place.shape)}"
            raise WeightsUnreadable(f"{source} is {shapes}")
        expected = None if manifest is None else manifest.tensors.get(source, "")
        _read_tensor(source, stored[source], place, expected)
        read[source] = place
        done += stored[source].size
        if progress is not None:
            progress(Loaded(source, len(read), len(set(sources.values())), done, total))
    model.load_state_dict({name: read[source] for name, source in sources.items()}, strict=True, assign=True)
    model.requires_grad_(False)


def _places(wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Empty memory for each tensor, no page touched; `lean` wants q, k, v and gate, up side by side."""
    groups: dict[str, list[str]] = {}
    for name in wanted:
        part = _SIDE_BY_SIDE.match(name)
        groups.setdefault(name if part is None else f"{part[1]}{_GROUP_OF[part[2]]}.{part[3]}", []).append(
            name
        )
    places: dict[str, Tensor] = {}
    for names in groups.values():
        rows = [wanted[name].shape[0] for name in names]
        first = wanted[names[0]]
        together = torch.empty((sum(rows), *first.shape[1:]), dtype=first.dtype)
        places |= dict(zip(names, torch.split(together, rows), strict=True))
    return places


def _stored_name(name: str, first: int, stored: dict[str, StoredTensor], model: Any) -> str:
    """The stored name of a module's tensor: layers renumbered, a tied lm_head taken from the embedding."""
    source = name
    if (layer := _LAYER.match(name)) is not None:
        source = f"{layer[1]}{int(layer[2]) + first}{layer[3]}"
    elif name == "lm_head.weight" and model.config.tie_word_embeddings:
        source = "model.embed_tokens.weight"
    if source not in stored:
        raise WeightsUnreadable(f"the checkpoint lacks {source}")
    return source


def _read_tensor(name: str, stored: StoredTensor, place: Tensor, expected: str | None) -> None:
    """Read, hash and convert in one pass over small chunks, so that what is used is what was checked."""
    source_dtype = _STORED_DTYPES.get(stored.dtype)
    if source_dtype is None:
        raise WeightsUnreadable(f"{name} is stored as {stored.dtype}; only F32, F16 and BF16 are read")
    flat, at = place.view(-1), 0
    fingerprint = stored.fingerprint() if expected is not None else None
    for chunk in read_chunks(stored):
        if fingerprint is not None:
            fingerprint.update(chunk)
        piece = torch.frombuffer(chunk, dtype=source_dtype)
        flat[at : at + piece.numel()].copy_(piece)
        at += piece.numel()
    if fingerprint is not None and fingerprint.hexdigest() != expected:
        raise WeightsMismatch(f"tensor {name} is not the agreed one")


def _eos_ids(model_dir: Path) -> frozenset[int]:
    """Tokens that end a text, as `generate` reads them: generation_config.json first, then config.json."""
    generation = model_dir / "generation_config.json"
    eos = json.loads(generation.read_bytes()).get("eos_token_id") if generation.is_file() else None
    if eos is None:
        eos = read_config(model_dir).get("eos_token_id")
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)
