"""OpenAI's chat request, as far as it is served: its fields, what is refused by name, and what it means
for a ring.

Knows nothing of pools, tokens on the wire or HTTP.
Source: OpenAI's API description 2.3.0, POST /chat/completions.
"""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from services.gateway import asked
from services.gateway.refusals import InvalidRequest, UnsupportedParameter


class Part(BaseModel):
    """One piece of a message's content; only text is served."""

    type: str
    text: asked.Text | None = None


class Message(BaseModel):
    """`developer` is another word for `system`."""

    role: str
    content: asked.Text | list[Part] | None = None
    tool_calls: list[Any] | None = None


class ChatRequest(BaseModel):
    """What is read of the body. `top_k` (0: off) and `transcript` are extensions. Defaults are OpenAI's."""

    model_config = ConfigDict(
        strict=True,
        allow_inf_nan=False,
        extra="allow",
        json_schema_extra={
            "example": {
                "model": "tales",
                "messages": [{"role": "user", "content": "Tell me a story about a brave otter."}],
                "max_completion_tokens": 64,
            }
        },
    )

    model: asked.Text = Field(min_length=1)
    messages: list[Message] = Field(min_length=1, max_length=10_000)
    stream: bool | None = None
    stream_options: asked.StreamOptions | None = None
    max_completion_tokens: asked.Limit = None
    max_tokens: asked.Limit = None
    temperature: asked.Temperature = None
    top_p: asked.TopP = None
    top_k: asked.TopK = None
    seed: asked.Seed = None
    transcript: bool | None = None
    stop: asked.Text | list[asked.Text] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
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
    def limit_name(self) -> str:
        """The field that `limit` is of."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def likely(self) -> int | None:
        """How many likely tokens are told with each token's log-probability; None: neither."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def refuse_unserved(body: ChatRequest) -> None:
    """Raises UnsupportedParameter or InvalidRequest, naming the field, for what would otherwise be
    ignored.
    """
    asked.refuse_choices(body.n)
    asked.refuse_any(
        [
            ("tools", body.tools),
            ("functions", body.functions),
            ("tool_choice", body.tool_choice not in (None, "none", "auto")),
            ("function_call", body.function_call not in (None, "none", "auto")),
            ("presence_penalty", body.presence_penalty),
            ("frequency_penalty", body.frequency_penalty),
            ("logit_bias", body.logit_bias),
            ("response_format", (body.response_format or {}).get("type", "text") != "text"),
            ("modalities", body.modalities not in (None, [], ["text"])),
            ("audio", body.audio),
        ]
    )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs goes with logprobs: true.", param="top_logprobs")
    asked.refuse_stray_stream_options(body.stream, body.stream_options)
    asked.refuse_unknown(body.model_extra)


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
