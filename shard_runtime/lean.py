"""One decode token through Llama-like layers with a third of the calls, bit for bit; knows nothing of files.

A decode step of a small model spends a quarter of its time in Python between kernels. Here the kernels that
decide the bits stay (same matrices, same attention call, same order of rounding) and the rest goes: RoPE is a
table, no mask is built, and in fp32 q, k, v (and gate, up) are one product over weights that lie together.
Not in bf16: its kernels sum in another order for other row counts, seen once in some thousand tokens. `Slice`
checks at load that the bits agree on this machine, and uses transformers' modules when they do not.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from shard_runtime.kv import KvSlot

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
_ROPE_BLOCK = 256


def side_by_side(*parts: Tensor | None) -> Tensor | None:
    """The tensors as one, without copying, if they follow each other in memory; else None."""
    tensors = [part for part in parts if part is not None]
    if len(tensors) != len(parts):
        return None
    first, rows = tensors[0], sum(part.shape[0] for part in tensors)
    expected = first.data_ptr()
    for part in tensors:
        if part.data_ptr() != expected or not part.is_contiguous():
            return None
        expected += part.nbytes
    return torch.as_strided(first, (rows, *first.shape[1:]), first.stride())


class _Norm:
    """Llama's RMS norm: computed in fp32, rounded to the model's dtype, then weighted."""

    def __init__(self, module: Any, weight: Tensor | None = None) -> None:
        self.weight = module.weight if weight is None else weight
        self.eps: float = module.variance_epsilon
        self.width = (self.weight.shape[-1],)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return fn.rms_norm(x, self.width, None, self.eps) * self.weight
        return self.weight * fn.rms_norm(x.float(), self.width, None, self.eps).to(x.dtype)


class _Product:
    """Several linear modules of the same input, their outputs (1, rows) side by side."""

    def __init__(self, *modules: Any) -> None:
        weight = side_by_side(*(module.weight for module in modules))
        biases = [module.bias for module in modules]
        bias = side_by_side(*biases)
        fusible = modules[0].weight.dtype == torch.float32 and weight is not None
        if fusible and weight is not None and (bias is not None or biases == [None] * len(biases)):
            self.parts: list[tuple[Tensor, Tensor | None]] = [(weight, bias)]
        else:
            self.parts = [(module.weight, module.bias) for module in modules]

    def __call__(self, x: Tensor) -> Tensor:
        if len(self.parts) == 1:
            return fn.linear(x, *self.parts[0])
        return torch.cat([fn.linear(x, weight, bias) for weight, bias in self.parts], -1)


class _Layer:
    """What one decoder layer's modules hold, without the modules."""

    def __init__(self, module: Any, heads: int, kv_heads: int) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.qkv = _Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self.gate_up = _Product(mlp.gate_proj, mlp.up_proj)
        self.out, self.down = _Product(attention.o_proj), _Product(mlp.down_proj)
        self.norm_in, self.norm_out = _Norm(module.input_layernorm), _Norm(module.post_attention_layernorm)
        self.head_norm: _Norm | None = None
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm.weight, attention.k_norm.weight
            weight = torch.cat([query.expand(heads, -1), key.expand(kv_heads, -1)])
            self.head_norm = _Norm(attention.q_norm, weight)
        self.scale: float = attention.scaling


class LeanDecode:
    """Steps of one token on one slice."""

    def __init__(self, model: Any, kv_heads: int, head_dim: int, is_entry: bool, is_exit: bool) -> None:
        base = model.get_decoder()
        heads: int = base.config.num_attention_heads
        self._heads, self._kv_heads, self._head_dim = heads, kv_heads, head_dim
        self._layers = [_Layer(module, heads, kv_heads) for module in base.layers]
        self._embedding = base.embed_tokens.weight if is_entry else None
        self._head = model.lm_head.weight if is_exit else None
        self._norm = _Norm(base.norm) if is_exit else None
        self._rotary: Any = base.rotary_emb
        self._dtype: torch.dtype = base.layers[0].input_layernorm.weight.dtype
        self._rope: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(
        cls, model: Any, kv_heads: int, head_dim: int, is_entry: bool, is_exit: bool
    ) -> "LeanDecode | None":
        """A lean path for `model` (as `Slice` holds it), or None when its family is not of this kind."""
        config = model.get_decoder().config
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if (
            config.model_type not in FAMILIES
            or config._attn_implementation != "sdpa"
            or getattr(config, "hidden_act", None) != "silu"
            or rope not in _STATIC_ROPE
            or head_dim > 256
        ):
            return None
        return cls(model, kv_heads, head_dim, is_entry, is_exit)

    def step(self, x: Tensor, kv: KvSlot) -> Tensor:
        """As `Slice.step` for one token, without the checks; writes to `kv` but leaves `kv.length` as it is.

        Every layer must see the whole past (no window reached).
        """
        at, end = kv.length, kv.length + 1
        cos, sin = self._rope_at(at)
        rotated = self._heads + self._kv_heads
        gqa = self._heads != self._kv_heads
        hidden = x if self._embedding is None else fn.embedding(x, self._embedding)
        for layer, memory in zip(self._layers, kv.layers, strict=True):
            keys, values = memory
            qkv = layer.qkv(layer.norm_in(hidden)).view(-1, self._head_dim)
            heads = qkv[:rotated]
            if layer.head_norm is not None:
                heads = layer.head_norm(heads)
            heads = heads * cos + heads.roll(self._head_dim // 2, -1) * sin
            keys[0, :, at] = heads[self._heads :]
            values[0, :, at] = qkv[rotated:]
            attended = fn.scaled_dot_product_attention(
                heads[: self._heads].view(1, self._heads, 1, self._head_dim),
                keys[:, :, :end],
                values[:, :, :end],
                scale=layer.scale,
                enable_gqa=gqa,
            )
            hidden = hidden + layer.out(attended.view(1, -1))
            gate, up = layer.gate_up(layer.norm_out(hidden)).chunk(2, -1)
            hidden = hidden + layer.down(fn.silu(gate) * up)
        if self._head is None or self._norm is None:
            return hidden
        return fn.linear(self._norm(hidden), self._head)[0].float()

    def _rope_at(self, position: int) -> tuple[Tensor, Tensor]:
        """(cos, signed sin), each (head_dim,): the sin's first half is negated, as rotate_half does."""
        block, row = divmod(position, _ROPE_BLOCK)
        if block not in self._rope:
            positions = torch.arange(block * _ROPE_BLOCK, (block + 1) * _ROPE_BLOCK).unsqueeze(0)
            cos, sin = self._rotary(torch.empty(0, dtype=self._dtype), position_ids=positions)
            half = self._head_dim // 2
            self._rope[block] = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)
        cos, sin = self._rope[block]
        return cos[row], sin[row]
