"""The reference: Hugging Face `generate` in one process and one thread, greedy; prints one JSON object last.

`python -m tests.bench.single_process MODEL_DIR MAX_TOKENS PROMPT...`: {prompt: {text, tokens, tokens_per_s}}.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def generate_all(model_dir: Path, max_tokens: int, prompts: list[str]) -> dict[str, dict[str, Any]]:
    """float32, chat template, special tokens skipped in the text; the first token is not in the rate."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True).eval()
    found = {}
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        batch = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        length = batch["input_ids"].shape[1]
        model.generate(**batch, do_sample=False, max_new_tokens=2)
        began = time.perf_counter()
        model.generate(**batch, do_sample=False, max_new_tokens=1)
        prefilled = time.perf_counter()
        tokens = model.generate(**batch, do_sample=False, max_new_tokens=max_tokens)[0, length:]
        decode_s = (time.perf_counter() - prefilled) - (prefilled - began)
        found[prompt] = {
            "text": tokenizer.decode(tokens, skip_special_tokens=True),
            "tokens": len(tokens),
            "tokens_per_s": (len(tokens) - 1) / decode_s,
        }
    return found


if __name__ == "__main__":
    print(json.dumps(generate_all(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
