"""OpenAI's legacy completion request, as far as it is served: fields, kinds of prompt, refusals by name.

Knows nothing of pools, tokens on the wire or HTTP. Source: OpenAI's API description 2.3.0, POST /completions.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from services.gateway import asked
from services.gateway.refusals import InvalidRequest, UnsupportedParameter

MAX_PROMPTS = 16
DEFAULT_MAX_TOKENS = 16
"""OpenAI's, for this route only."""

Prompt = str | tuple[int, ...]
"""Text, or token ids."""

_ids = {"type": "array", "items": {"type": "integer"}}
_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "maxItems": MAX_PROMPTS},
        _ids,
        {"type": "array", "items": _ids, "maxItems": MAX_PROMPTS},
    ]
}


class CompletionRequest(BaseModel):
    """What is read of the body. `top_k` (0: off) and `transcript` are extensions. Defaults are OpenAI's."""

    model_config = ConfigDict(
        strict=True,
        allow_inf_nan=False,
        extra="allow",
        json_schema_extra={"example": {"model": "tales", "prompt": "Once upon a time", "max_tokens": 32}},
    )

    model: asked.Text = Field(min_length=1)
    prompt: Annotated[Any, WithJsonSchema(_PROMPT_SCHEMA)] = None
    stream: bool | None = None
    stream_options: asked.StreamOptions | None = None
    max_tokens: asked.Limit = None
    temperature: asked.Temperature = None
    top_p: asked.TopP = None
    top_k: asked.TopK = None
    seed: asked.Seed = None
    transcript: bool | None = None
    stop: asked.Text | list[asked.Text] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    n: int | None = None
    best_of: int | None = None
    suffix: str | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def limit(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def refuse_unserved(body: CompletionRequest) -> None:
    """Raises UnsupportedParameter or InvalidRequest, naming what would otherwise be ignored."""
    asked.refuse_choices(body.n)
    asked.refuse_any(
        [
            ("best_of", body.best_of not in (None, 1)),
            ("suffix", body.suffix),
            ("presence_penalty", body.presence_penalty),
            ("frequency_penalty", body.frequency_penalty),
            ("logit_bias", body.logit_bias),
        ]
    )
    if body.echo and body.logprobs is not None:
        raise UnsupportedParameter("Log-probabilities of the prompt are not served.", param="echo")
    asked.refuse_stray_stream_options(body.stream, body.stream_options)
    asked.refuse_unknown(body.model_extra)


def prompts(body: CompletionRequest) -> list[Prompt]:
    """One per choice. Raises InvalidRequest."""
    match body.prompt:
        case str(text):
            return [_checked(text)]
        case [str(), *_] as texts:
            return [_checked(text) for text in _few(texts)]
        case [int(), *_] as ids:
            return [_token_ids(ids)]
        case [list(), *_] as lists:
            return [_token_ids(ids) for ids in _few(lists)]
        case _:
            raise InvalidRequest(
                "prompt is a string, a list of strings, a list of token ids, or a list of such; not empty.",
                param="prompt",
            )


def _few(several: list[Any]) -> list[Any]:
    if len(several) > MAX_PROMPTS:
        raise InvalidRequest(f"{len(several)} prompts; at most {MAX_PROMPTS} at once.", param="prompt")
    return several


def _checked(text: object) -> str:
    if not isinstance(text, str) or not asked.is_text(text):
        raise InvalidRequest("A prompt among others is not a string of valid Unicode.", param="prompt")
    return text


def _token_ids(ids: object) -> tuple[int, ...]:
    if not isinstance(ids, list) or not ids or not all(type(number) is int for number in ids):
        raise InvalidRequest("A prompt of token ids is a list of integers, not empty.", param="prompt")
    return tuple(ids)


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Raises InvalidRequest."""
    if not ids:
        raise InvalidRequest("The prompt has no tokens.", param="prompt")
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise InvalidRequest(f"Token ids of this model are in [0, {vocab_size}).", param="prompt")


def committed_text(prompt: Prompt) -> str:
    """What the prompt's commitment is of: the text itself, or the token ids as a JSON list without spaces."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, separators=(",", ":"))
