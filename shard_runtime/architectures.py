"""Which decoder families can be cut by layers exactly, and why others can't; knows nothing of tensors."""

from collections.abc import Mapping
from typing import Any

SUPPORTED: frozenset[str] = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "granite",
        "llama",
        "mistral",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)
"""`model_type`s whose 1, 2 and 3 shard outputs are tested equal to Hugging Face `generate` (tests/exact)."""

_LINEAR = "its linear-attention layers keep a recurrent state, which is not a KV cache"
_SHARED_KV = "its layers share KV and per-layer inputs across the cut"
_REASONS: dict[str, str] = {
    "gemma3": "it is multimodal; extract its text model (gemma3_text)",
    "gemma3n": _SHARED_KV,
    "gemma3n_text": _SHARED_KV,
    "gemma4": _SHARED_KV,
    "gemma4_text": _SHARED_KV,
    "mamba": _LINEAR,
    "mamba2": _LINEAR,
    "qwen3_5": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_next": _LINEAR,
    "rwkv": _LINEAR,
}
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


class ArchitectureUnsupported(Exception):
    """architecture_unsupported: this model can't be served in slices; choose one of a supported family."""

    code = "architecture_unsupported"


def check_architecture(config: Mapping[str, Any]) -> None:
    """Raise ArchitectureUnsupported, with family and reason, unless this config.json can be sliced."""
    family = str(config.get("model_type", "unknown"))
    if any(config.get(key) for key in _EXPERT_KEYS):
        reason = "its experts (MoE) are fused at load, so stored tensors and modules do not match one to one"
    elif "linear_attention" in (config.get("layer_types") or ()):
        reason = _LINEAR
    elif _rope_type(config) == "dynamic":
        reason = (
            "dynamic-NTK RoPE depends on the longest earlier request, so requests would disturb each other"
        )
    elif config.get("auto_map") and family not in SUPPORTED:
        reason = "it needs code from the model's author, which is never run (trust_remote_code is off)"
    elif family not in SUPPORTED:
        reason = _REASONS.get(family, "its equality with an unsplit run has not been tested")
    else:
        return
    raise ArchitectureUnsupported(
        f"{family} is not supported: {reason}. Supported families: {', '.join(sorted(SUPPORTED))}"
    )


def _rope_type(config: Mapping[str, Any]) -> str | None:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    return None if kind is None else str(kind)
