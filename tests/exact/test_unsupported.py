"""Models that can't be cut are refused by name and with the reason, wherever one may be named."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from shard_runtime.architectures import SUPPORTED, ArchitectureUnsupported, check_architecture
from shard_runtime.slices import Slice
from shard_runtime.weights import resolve_model
from tests.exact.models import FAMILIES, make_model

ROOT = Path(__file__).resolve().parents[2]
REFUSED = {
    "gemma3n": "share KV",
    "gemma3n_text": "share KV",
    "gemma4": "share KV",
    "gemma4_text": "share KV",
    "gemma4_unified": "share KV",
    "qwen3_next": "recurrent state",
    "qwen3_5": "recurrent state",
    "qwen3_5_text": "recurrent state",
    "kimi_linear": "recurrent state",
    "minimax": "recurrent state",
    "mamba": "recurrent state",
    "mamba2": "recurrent state",
    "falcon_mamba": "recurrent state",
    "bamba": "recurrent state",
    "jamba": "recurrent state",
    "zamba2": "recurrent state",
    "recurrent_gemma": "recurrent state",
    "lfm2": "recurrent state",
    "nemotron_h": "recurrent state",
    "rwkv": "recurrent state",
    "qwen3_moe": "MoE",
    "qwen2_moe": "MoE",
    "mixtral": "MoE",
    "gpt_oss": "MoE",
    "deepseek_v3": "MoE",
    "llama4_text": "MoE",
    "granitemoe": "MoE",
    "gemma3": "multimodal",
    "gpt2": "not been tested",
    "olmo2": "not been tested",
}
"""By `model_type`: a word of the reason."""


def stated(family: str) -> dict[str, Any]:
    """What a config.json of this family says, as transformers writes it."""
    text: dict[str, Any] = json.loads(AutoConfig.for_model(family).to_json_string(use_diff=False))
    return text


def written(config: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def computepool(state_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMPUTEPOOL_")}
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        cwd=ROOT,
        env=environment | {"COMPUTEPOOL_STATE_DIR": str(state_dir)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("family", "reason"), REFUSED.items())
def test_a_family_is_refused_by_name_and_reason(tmp_path: Path, family: str, reason: str) -> None:
    folder = written(stated(family), tmp_path)
    with pytest.raises(ArchitectureUnsupported, match=reason) as refused:
        resolve_model(str(folder), [], False)
    assert str(refused.value).startswith(f"{family} is not supported: ")
    assert refused.value.code == "architecture_unsupported"
    with pytest.raises(ArchitectureUnsupported, match=reason):
        Slice.load(folder, 0, 1, "float32", max_context=8)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "llama", "layer_types": ["linear_attention"]}, "recurrent state"),
        ({"model_type": "llama", "layer_types": ["chunked_attention"]}, "chunked_attention"),
        ({"model_type": "llama", "num_local_experts": 8}, "MoE"),
        ({"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "NTK"),
        ({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}, "trust_remote_code"),
        ({"model_type": "never_heard_of"}, "not been tested"),
        ({}, "not been tested"),
    ],
)
def test_what_a_supported_name_hides_is_refused_too(
    tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ArchitectureUnsupported, match=reason) as refused:
        resolve_model(str(written(config, tmp_path)), [], False)
    assert str(refused.value).startswith(str(config.get("model_type", "unknown")))


def test_every_supported_family_is_one_whose_equality_is_tested() -> None:
    assert {"qwen2" if family == "qwen2_sliding" else family for family in FAMILIES} == SUPPORTED
    for family in SUPPORTED:
        check_architecture(stated(family))


@pytest.mark.parametrize("old_form", [False, True])
def test_longrope_is_served_only_as_far_as_its_short_factors_reach(tmp_path: Path, old_form: bool) -> None:
    """Past that length `generate` computes all keys anew; a shard has no tokens to do so."""
    model_dir = make_model(tmp_path, "phi3", layers=2, max_position=256)
    config = json.loads((model_dir / "config.json").read_bytes())
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    config["original_max_position_embeddings"] = 64
    del config["rope_parameters"]
    if old_form:
        config["rope_scaling"] = {"type": "longrope", **factors}
    else:
        longrope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
        config["rope_parameters"] = {**longrope, "original_max_position_embeddings": 64}
    (model_dir / "config.json").write_text(json.dumps(config))
    assert Slice.load(model_dir, 0, 1, "float32", max_context=64).is_entry
    with pytest.raises(ArchitectureUnsupported, match="at most 64 tokens"):
        Slice.load(model_dir, 0, 1, "float32", max_context=65)


@pytest.mark.parametrize("family", ["gemma3n", "qwen3_moe"])
def test_up_refuses_before_it_starts_anything(tmp_path: Path, family: str) -> None:
    folder = written(stated(family), tmp_path / "model")
    refused = computepool(tmp_path / "state", "up", "--model", str(folder))
    assert refused.returncode == 1
    assert "architecture_unsupported" in refused.stderr
    assert f"{family} is not supported: " in refused.stderr
    assert not (tmp_path / "state").exists()
