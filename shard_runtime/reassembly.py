"""Puts the parts of a large tensor together again, under a byte cap and a time limit.

Knows nothing of acknowledgements or of what the tensor is for.
"""

from dataclasses import dataclass

from shard_runtime.frames import Header

CAP_BYTES = 512 * 1024 * 1024
TTL_NS = 30_000_000_000


class ReassemblyFull(Exception):
    """reassembly_full: parts of unfinished tensors fill the cap already; the sender will repeat this one."""

    code = "reassembly_full"


_Key = tuple[int, str, int, str, tuple[int, ...]]
"""(sender, rid, step, dtype, shape): parts that disagree about their tensor are never mixed."""


@dataclass(slots=True)
class _Tensor:
    parts: dict[int, bytes]
    touched_ns: int
    held_bytes: int = 0


class Reassembly:
    """Unfinished tensors by (sender, request, step). Only bytes that arrived take memory."""

    def __init__(self, cap_bytes: int = CAP_BYTES) -> None:
        self.held_bytes = 0
        self._cap_bytes = cap_bytes
        self._tensors: dict[_Key, _Tensor] = {}

    def __len__(self) -> int:
        return len(self._tensors)

    def put(self, sender: int, header: Header, payload: bytes | memoryview, now_ns: int) -> bytes | None:
        """Keep one part; the whole tensor when it was the last one missing. Raises ReassemblyFull."""
        key = (sender, header.rid, header.step, header.dtype, header.shape)
        tensor = self._tensors.get(key) or _Tensor({}, now_ns)
        if header.part not in tensor.parts:
            if self.held_bytes + len(payload) > self._cap_bytes:
                raise ReassemblyFull(str(self.held_bytes))
            tensor.parts[header.part] = bytes(payload)
            tensor.held_bytes += len(payload)
            self.held_bytes += len(payload)
        tensor.touched_ns = now_ns
        self._tensors[key] = tensor
        if len(tensor.parts) < header.parts:
            return None
        self._drop(key)
        return b"".join(tensor.parts[part] for part in range(header.parts))

    def forget(self, rid: str) -> None:
        for key in [key for key in self._tensors if key[1] == rid]:
            self._drop(key)

    def expire(self, now_ns: int) -> int:
        """Let go of tensors of which nothing came for TTL_NS; how many those were."""
        old = [key for key, tensor in self._tensors.items() if now_ns - tensor.touched_ns > TTL_NS]
        for key in old:
            self._drop(key)
        return len(old)

    def _drop(self, key: _Key) -> None:
        self.held_bytes -= self._tensors.pop(key).held_bytes
