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

_RECURRENT = "its linear-attention or state-space layers keep a recurrent state, which is not a KV cache"
_SHARED_KV = "its layers share KV and per-layer inputs across the cut"
_MOE = "its experts (MoE) are fused at load, so stored tensors and modules do not match one to one"
_SHARED_KV_FAMILIES = (
    "gemma3n gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text gemma4_assistant "
    "gemma4_unified_assistant"
)
_RECURRENT_FAMILIES = (
    "bamba falcon_h1 falcon_mamba granitemoehybrid jamba lfm2 lfm2_moe mamba mamba2 nemotron_h qwen3_5 "
    "qwen3_5_moe qwen3_next recurrent_gemma rwkv xlstm zamba zamba2"
)
_REASONS: dict[str, str] = {
    "gemma3": "it is multimodal; extract its text model (gemma3_text)",
    **dict.fromkeys(_SHARED_KV_FAMILIES.split(), _SHARED_KV),
    **dict.fromkeys(_RECURRENT_FAMILIES.split(), _RECURRENT),
}
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")
_LAYERS_WITH_KV = frozenset({"full_attention", "sliding_attention"})


class ArchitectureUnsupported(Exception):
    """architecture_unsupported: this model can't be served in slices; choose one of a supported family."""

    code = "architecture_unsupported"


def check_architecture(config: Mapping[str, Any], max_context: int | None = None) -> None:
    """Raise ArchitectureUnsupported, with family and reason, unless this config.json can be sliced.

    With `max_context`: unless it can be served for that many tokens.
    """
    reason = _reason(config, max_context)
    if reason is not None:
        family = str(config.get("model_type", "unknown"))
        supported = ", ".join(sorted(SUPPORTED))
        raise ArchitectureUnsupported(f"{family} is not supported: {reason}. Supported families: {supported}")


def _reason(config: Mapping[str, Any], max_context: int | None) -> str | None:
    family = str(config.get("model_type", "unknown"))
    layer_types = set(config.get("layer_types") or ())
    if family in _REASONS:
        return _REASONS[family]
    if "linear_attention" in layer_types:
        return _RECURRENT
    if any(config.get(key) for key in _EXPERT_KEYS):
        return _MOE
    if layer_types - _LAYERS_WITH_KV:
        return f"it has layers of the type {', '.join(sorted(map(str, layer_types - _LAYERS_WITH_KV)))}"
    if _rope(config, "type") == "dynamic":
        return "dynamic-NTK RoPE depends on the longest earlier request, so requests would disturb each other"
    if _rope(config, "type") == "longrope" and max_context is not None:
        short = _rope(config, "original_max_position_embeddings")
        if not isinstance(short, int) or max_context > short:
            return (
                f"beyond {short} tokens its longrope computes every earlier key anew, which a shard can't; "
                f"serve it with a context of at most {short} tokens"
            )
    if family not in SUPPORTED:
        if config.get("auto_map"):
            return "it needs code from the model's author, which is never run (trust_remote_code is off)"
        return "its equality with an unsplit run has not been tested"
    return None


def _rope(config: Mapping[str, Any], key: str) -> Any:
    """Of the RoPE's settings, which newer files keep in `rope_parameters` and older ones in two places."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if key == "type":
        return rope.get("rope_type", rope.get("type"))
    return rope.get(key, config.get(key))
