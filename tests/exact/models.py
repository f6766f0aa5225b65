"""Makes Hugging Face model directories, random weights and a small tokenizer; knows nothing of shards.

Weights are drawn wider than a training start would be, so that greedy text wanders more.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

FAMILIES = (
    "llama",
    "qwen2",
    "qwen2_sliding",
    "qwen3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "smollm3",
    "granite",
)
EOS, BOS, UNK = "<|end|>", "<|begin|>", "<|unk|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|begin|>' + message['role'] + ': ' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|begin|>assistant: ' }}{% endif %}"
)
_CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the old fox sleeps under the tree",
    "once upon a time there was a small robot who wanted to see the sea",
    "naïve café, Grüße aus München, żółć, привет мир, 你好世界, こんにちは, 🙂🚀🌍 🙂🚀🌍",
]


def make_tokenizer(vocab_size: int = 320) -> PreTrainedTokenizerFast:
    """Byte-level BPE: all 256 bytes, three special tokens, then merges learnt from a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[UNK, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, bos_token=BOS, unk_token=UNK)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(
    model_dir: Path,
    family: str,
    *,
    tied: bool = False,
    dtype: Literal["float32", "bfloat16"] = "float32",
    layers: int = 6,
    hidden: int = 64,
    intermediate: int | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 320,
    max_position: int = 2048,
    sliding_window: int = 12,
    seed: int = 7,
    eos: bool = True,
    max_shard_size: str = "5GB",
) -> Path:
    """Write config, weights, generation config and tokenizer to `model_dir` (made if absent) and return it.

    family: one of FAMILIES. `eos=False` makes a model that never ends by itself, for runs of a fixed length.
    """
    values: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": intermediate or hidden * 3,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": vocab,
        "max_position_embeddings": max_position,
        "tie_word_embeddings": tied,
        "initializer_range": 0.6 / hidden**0.5,
        "bos_token_id": 1,
        "eos_token_id": 2 if eos else None,
        "pad_token_id": 0,
    }
    values |= _particular(family, layers, sliding_window, hidden // heads)
    config = AutoConfig.for_model("qwen2" if family == "qwen2_sliding" else family, **values)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    if tied:  # otherwise a random model mostly says its last token again
        model.get_input_embeddings().weight.data.mul_(0.1)
    model.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2 if eos else None, pad_token_id=0
    )
    model.save_pretrained(model_dir, max_shard_size=max_shard_size)
    make_tokenizer(min(vocab, 320)).save_pretrained(model_dir)
    return model_dir


def _particular(family: str, layers: int, sliding_window: int, head_dim: int) -> dict[str, Any]:
    """Settings that make a small model exercise what is special about its family."""
    half = ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(layers)]
    match family:
        case "qwen2_sliding":
            types = [
                "full_attention" if layer < layers // 2 else "sliding_attention" for layer in range(layers)
            ]
            return {"use_sliding_window": True, "sliding_window": sliding_window, "layer_types": types}
        case "mistral" | "phi3":
            return {"sliding_window": sliding_window}
        case "gemma2" | "gemma3_text":
            return {"sliding_window": sliding_window, "layer_types": half, "query_pre_attn_scalar": head_dim}
        case "granite":
            return {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.7}
        case "smollm3":
            return {"no_rope_layers": [int(layer % 3 != 2) for layer in range(layers)]}
        case _:
            return {}
