"""What both of OpenAI's generating routes ask for in the same words: length, sampling, stop strings,
streaming.

Knows nothing of messages, prompts, pools or HTTP. Source: OpenAI's API description 2.3.0.
"""

import secrets
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.gateway.refusals import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from shard_runtime.messages import Sampling

MAX_STOPS = 4
MAX_SEED = 2**63 - 1
HARMLESS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields of OpenAI's that change nothing in an answer of ours: taken and ignored."""


def is_text(text: str) -> bool:
    """JSON can spell half a surrogate pair, which is no text and breaks every encoder behind us."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _text(text: str) -> str:
    if not is_text(text):
        raise ValueError("is not valid Unicode")
    return text


Text = Annotated[str, AfterValidator(_text)]
Limit = Annotated[int, Field(ge=1)] | None
Temperature = Annotated[float, Field(ge=0, le=2)] | None
TopP = Annotated[float, Field(gt=0, le=1)] | None
TopK = Annotated[int, Field(ge=0, le=1_000_000)] | None
Seed = Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None


class StreamOptions(BaseModel):
    """`include_obfuscation` pads OpenAI's own streams; here it is taken and ignored."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool | None = None


def refuse_unknown(others: dict[str, Any] | None) -> None:
    """Raises UnsupportedParameter for a field we do not know: it may be meant to change the answer."""
    for name, value in (others or {}).items():
        if name not in HARMLESS and value is not None:
            raise UnsupportedParameter(f"{name} is not served.", param=name[:128])


def refuse_any(wanted: list[tuple[str, object]]) -> None:
    """Raises UnsupportedParameter for the first name whose value asks for something."""
    for name, value in wanted:
        if value:
            raise UnsupportedParameter(f"{name} is not served.", param=name)


def refuse_choices(n: int | None) -> None:
    """Raises InvalidRequest."""
    if n is not None and n != 1:
        raise InvalidRequest(f"n is {n}; one choice per prompt is served.", param="n")


def refuse_stray_stream_options(stream: bool | None, options: StreamOptions | None) -> None:
    """Raises InvalidRequest."""
    if options is not None and not stream:
        raise InvalidRequest("stream_options goes with stream: true.", param="stream_options")


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """Up to four non-empty stop strings. Raises InvalidRequest."""
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(found) > MAX_STOPS or not all(0 < len(one) <= 256 for one in found):
        raise InvalidRequest(f"stop is up to {MAX_STOPS} strings of 1 to 256 characters.", param="stop")
    return found


def sampling_of(
    seed: int | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    logprobs: int | None,
) -> Sampling:
    """As asked, with OpenAI's defaults; a missing seed is drawn here (63 bit) and stands in the log."""
    return Sampling(
        secrets.randbelow(MAX_SEED + 1) if seed is None else seed & MAX_SEED,
        1.0 if temperature is None else temperature,
        1.0 if top_p is None else top_p,
        top_k or 0,
        logprobs,
    )


def token_budget(
    prompt_tokens: int, limit: int | None, context_length: int, *, prompt_name: str, limit_name: str
) -> int:
    """How many tokens the completion may have: as asked, else all that the context leaves.

    Raises ContextLengthExceeded with the numbers, naming the field that asks for too much.
    """
    left = context_length - prompt_tokens
    if left < 1 or (limit is not None and limit > left):
        asked = "" if limit is None else f" and {limit} tokens of completion were asked for"
        raise ContextLengthExceeded(
            f"The context holds {context_length} tokens; {prompt_name} has {prompt_tokens}{asked}.",
            param=prompt_name if left < 1 else limit_name,
        )
    return left if limit is None else limit
