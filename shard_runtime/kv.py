"""Key/value memory of requests on one slice: preallocated and reused; knows nothing of weights or tokens."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from shard_runtime.activations import DTYPES

if TYPE_CHECKING:
    from shard_runtime.slices import Slice


class NoKvSlot(Exception):
    """kv_exhausted: every KV slot of this shard is in use; retry later or give the pool more `kv_slots`."""

    code = "kv_exhausted"


class ContextExceeded(Exception):
    """context_exceeded: the request has more tokens than the pool's `max_context`; shorten the prompt."""

    code = "context_exceeded"


class KvInvalid(Exception):
    """kv_invalid: a peer sent keys and values that do not fit this slice; check its layers."""

    code = "kv_invalid"


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One decoder layer's share of a slot. It reads the slot's length, so a failed step leaves nothing."""

    def __init__(self, slot: "KvSlot", keys: Tensor, values: Tensor, window: int | None) -> None:
        super().__init__()
        self.slot, self.keys, self.values, self.window = slot, keys, values, window
        self.is_sliding = window is not None
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the memory exists from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens after the slot's length; return views (1, kv_heads, visible, head_dim)."""
        begin = self.slot.length
        end = begin + key_states.shape[2]
        self.keys[:, :, begin:end] = key_states
        self.values[:, :, begin:end] = value_states
        first = 0 if self.window is None else max(0, begin - self.window + 1)
        return self.keys[:, :, first:end], self.values[:, :, first:end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(visible keys, position of the first of them), as transformers' mask builder asks."""
        length = self.slot.length
        first = 0 if self.window is None else max(0, length - self.window + 1)
        return length + query_length - first, first

    def get_seq_length(self) -> int:
        return self.slot.length

    def get_max_length(self) -> int:
        return self.slot.max_context


class _View(Cache):  # type: ignore[misc]
    """What transformers' models take as `past_key_values`."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        return self.layers[layer_idx].update(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.layers[layer_idx].slot.length)


class KvSlot:
    """One request's keys and values on one slice.

    `memory` is (layers, 2, kv_heads, max_context, head_dim) in the slice's dtype; the second axis is key,
    value. Pages are touched only as tokens arrive. Sliding layers keep all history, so `truncate` is exact.
    `layers` are (keys, values) views of it, each (1, kv_heads, max_context, head_dim).
    """

    def __init__(
        self,
        windows: tuple[int | None, ...],
        kv_heads: int,
        head_dim: int,
        max_context: int,
        dtype: torch.dtype,
    ) -> None:
        self.length = 0
        self.max_context = max_context
        self.memory = torch.empty((len(windows), 2, kv_heads, max_context, head_dim), dtype=dtype)
        self.layers = [(memory[0].unsqueeze(0), memory[1].unsqueeze(0)) for memory in self.memory]
        self.cache = _View(
            layers=[
                _Layer(self, keys, values, window)
                for (keys, values), window in zip(self.layers, windows, strict=True)
            ]
        )

    def room_for(self, tokens: int) -> None:
        """Raises ContextExceeded when `tokens` more do not fit."""
        if self.length + tokens > self.max_context:
            raise ContextExceeded(f"{self.length} + {tokens} tokens do not fit into {self.max_context}")

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on; O(1). Raises ValueError when there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"can't truncate to {length}: the slot holds {self.length} tokens")
        self.length = length

    @property
    def bytes_per_token(self) -> int:
        return self.memory[:, :, :, :1].numel() * self.memory.itemsize

    def export(self, first: int, tokens: int) -> memoryview:
        """Keys and values of positions [first, first + tokens), a copy, bit for bit.

        (layers * 2, kv_heads, tokens, head_dim) in the slot's dtype. Raises ValueError when the slot holds
        fewer.
        """
        if not 0 <= first < first + tokens <= self.length:
            raise ValueError(f"can't export [{first}, {first + tokens}): the slot holds {self.length} tokens")
        block = torch.empty(self.block_shape(tokens), dtype=self.memory.dtype)
        block.copy_(self.memory[:, :, :, first : first + tokens].flatten(0, 1))
        return block.view(torch.uint8).reshape(-1).numpy().data

    def take_in(self, block: bytes | memoryview, dtype: str, shape: tuple[int, ...], tokens: int) -> None:
        """Append what `export` gave elsewhere. Raises KvInvalid, ContextExceeded: the slot is as before."""
        if DTYPES.get(dtype) != self.memory.dtype or shape != self.block_shape(tokens):
            raise KvInvalid(f"{dtype} {shape} for {self.memory.dtype} {self.block_shape(tokens)}")
        self.room_for(tokens)
        layers, end = self.memory.shape[0], self.length + tokens
        given = torch.frombuffer(bytearray(block), dtype=self.memory.dtype).view(layers, 2, *shape[1:])
        self.memory[:, :, :, self.length : end].copy_(given)
        self.length = end

    def block_shape(self, tokens: int) -> tuple[int, int, int, int]:
        layers, _, kv_heads, _, head_dim = self.memory.shape
        return 2 * layers, kv_heads, tokens, head_dim


class KvPool:
    """At most `slots` requests' KV on one slice; memory of a finished request serves the next one."""

    def __init__(self, slice: "Slice", slots: int, max_context: int) -> None:
        if max_context > slice.max_context:
            raise ContextExceeded(f"the slice was loaded for {slice.max_context} tokens, not {max_context}")
        self._slice, self._slots, self._max_context = slice, slots, max_context
        self._held: dict[str, KvSlot] = {}
        self._free: list[KvSlot] = []

    @property
    def used(self) -> int:
        """Requests that hold a slot now."""
        return len(self._held)

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of one full slot."""
        return self._slice.kv_bytes(self._max_context)

    def acquire(self, request_id: str) -> KvSlot:
        """The request's slot: the one it has, or an empty one. Raises NoKvSlot when all are taken."""
        if (held := self._held.get(request_id)) is not None:
            return held
        if len(self._held) >= self._slots:
            raise NoKvSlot(f"all {self._slots} KV slots are in use")
        slot = self._free.pop() if self._free else self._slice.new_kv(self._max_context)
        self._held[request_id] = slot
        return slot

    def release(self, request_id: str) -> None:
        """Give the slot back; a request without one is no error."""
        if (slot := self._held.pop(request_id, None)) is not None:
            slot.truncate(0)
            self._free.append(slot)
