"""OpenAI's chat request, as far as it is served: its fields, what is refused by name, and what it means
for a ring.

Knows nothing of pools, tokens on the wire or HTTP. Unknown fields are ignored, as OpenAI clients send
many. Source: OpenAI's API description 2.3.0, POST /chat/completions.
"""

import json
import secrets
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.gateway.refusals import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from shard_runtime.messages import Sampling

MAX_STOPS = 4
MAX_SEED = 2**63 - 1


def _is_text(text: str) -> str:
    """JSON can spell half a surrogate pair, which is no text and breaks every encoder behind us."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("is not valid Unicode")
    return text


Text = Annotated[str, AfterValidator(_is_text)]


class Part(BaseModel):
    """One piece of a message's content; only text is served."""

    type: str
    text: Text | None = None


class Message(BaseModel):
    """`developer` is another word for `system`."""

    role: str
    content: Text | list[Part] | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is read of the body. `top_k` is an extension (0: off). Defaults are OpenAI's."""

    model_config = ConfigDict(
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={
            "example": {
                "model": "tales",
                "messages": [{"role": "user", "content": "Tell me a story about a brave otter."}],
                "max_completion_tokens": 64,
            }
        },
    )

    model: Text = Field(min_length=1)
    messages: list[Message] = Field(min_length=1, max_length=10_000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None
    stop: Text | list[Text] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None

    @property
    def limit(self) -> int | None:
        """`max_completion_tokens` over the older `max_tokens`."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def refuse_unserved(body: ChatRequest) -> None:
    """Raises UnsupportedParameter or InvalidRequest, naming the field, for what would otherwise be
    ignored.
    """
    if body.n is not None and body.n != 1:
        raise InvalidRequest(f"n is {body.n}; one choice per request is served.", param="n")
    wanted: list[tuple[str, object]] = [
        ("tools", body.tools),
        ("functions", body.functions),
        ("tool_choice", body.tool_choice not in (None, "none", "auto")),
        ("function_call", body.function_call not in (None, "none", "auto")),
        ("logprobs", body.logprobs),
        ("top_logprobs", body.top_logprobs),
        ("presence_penalty", body.presence_penalty),
        ("frequency_penalty", body.frequency_penalty),
        ("logit_bias", body.logit_bias),
        ("response_format", (body.response_format or {}).get("type", "text") != "text"),
        ("modalities", body.modalities not in (None, [], ["text"])),
        ("audio", body.audio),
    ]
    for name, value in wanted:
        if value:
            raise UnsupportedParameter(f"{name} is not served.", param=name)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options goes with stream: true.", param="stream_options")


def plain_messages(body: ChatRequest) -> list[dict[str, str]]:
    """[{role, content}] with the contents as one text each. Raises InvalidRequest, UnsupportedParameter."""
    return [_plain(message, f"messages[{index}]") for index, message in enumerate(body.messages)]


def _plain(message: Message, where: str) -> dict[str, str]:
    if message.role in ("tool", "function") or message.tool_calls:
        raise UnsupportedParameter("Tool calls are not served.", param=f"{where}.role")
    if message.role not in ("system", "developer", "user", "assistant"):
        raise InvalidRequest(f"{message.role!r} is not a role.", param=f"{where}.role")
    role = "system" if message.role == "developer" else message.role
    match message.content:
        case str(text):
            return {"role": role, "content": text}
        case None:
            raise InvalidRequest("A message needs content.", param=f"{where}.content")
        case parts:
            for number, part in enumerate(parts):
                if part.type != "text" or part.text is None:
                    raise UnsupportedParameter(
                        f"Content of type {part.type!r} is not served; text is.",
                        param=f"{where}.content[{number}]",
                    )
            return {"role": role, "content": "".join(part.text or "" for part in parts)}


def committed_text(messages: list[dict[str, str]]) -> str:
    """What the prompt's commitment is of: canonical JSON (sorted keys, no spaces, UTF-8) of the plain
    messages.
    """
    return json.dumps(messages, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def stops(body: ChatRequest) -> tuple[str, ...]:
    """Up to four non-empty stop strings. Raises InvalidRequest."""
    found = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(found) > MAX_STOPS or not all(0 < len(stop) <= 256 for stop in found):
        raise InvalidRequest(f"stop is up to {MAX_STOPS} strings of 1 to 256 characters.", param="stop")
    return found


def sampling(body: ChatRequest) -> Sampling:
    """As asked; a missing seed is drawn here (63 bit) and stands in the log."""
    seed = secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed & MAX_SEED
    return Sampling(
        seed,
        1.0 if body.temperature is None else body.temperature,
        1.0 if body.top_p is None else body.top_p,
        body.top_k or 0,
    )


def token_budget(prompt_tokens: int, limit: int | None, context_length: int) -> int:
    """How many tokens the completion may have: as asked, else all that the context leaves.

    Raises ContextLengthExceeded with the numbers.
    """
    left = context_length - prompt_tokens
    if left < 1 or (limit is not None and limit > left):
        asked = "" if limit is None else f" and {limit} tokens of completion were asked for"
        raise ContextLengthExceeded(
            f"The context holds {context_length} tokens; the messages have {prompt_tokens}{asked}.",
            param="messages" if left < 1 else "max_completion_tokens",
        )
    return left if limit is None else limit
