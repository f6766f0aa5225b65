"""Tensors as bytes and back, without loss; knows nothing of frames or of where the bytes go."""

import torch
from torch import Tensor

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ActivationInvalid(Exception):
    """activation_invalid: a neighbour sent hidden states that the model can't have; check its slice."""

    code = "activation_invalid"


def to_bytes(hidden: Tensor) -> memoryview:
    """hidden: (tokens, d_model). The view keeps the tensor's memory alive; nothing is copied."""
    return hidden.contiguous().view(torch.uint8).reshape(-1).numpy().data


def from_bytes(payload: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of its own, aligned memory. Raises ActivationInvalid."""
    kind = DTYPES.get(dtype)
    if kind is None:
        raise ActivationInvalid(f"dtype {dtype}")
    return torch.frombuffer(bytearray(payload), dtype=kind).view(shape)
