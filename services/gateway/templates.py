"""Messages to token ids: the model's own chat template and tokenizer; knows nothing of pools, prices or
sessions.

Tokenizers are loaded once per directory, in a thread, from local files only and never with code from
there.
"""

import asyncio
import re
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from jinja2.exceptions import TemplateError

from services.gateway.model_files import find_model, vocab_size
from services.gateway.refusals import ChatTemplateRefused, ModelUnreadable

log = structlog.get_logger("gateway")


@dataclass
class Templates:
    """`model_dirs` as in the settings."""

    model_dirs: tuple[Path, ...]
    _one_thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "tokenizer"))
    """A fast tokenizer, and the library's late imports, refuse to be used by two threads at once."""
    _warming: set["asyncio.Task[None]"] = field(default_factory=set)
    _loading: dict[Path, "asyncio.Future[Any]"] = field(default_factory=dict)

    async def token_ids(self, model: str, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The prompt of a chat. A model without a template gets the contents, joined by blank lines.

        Raises ModelUnreadable, ChatTemplateRefused.
        """
        tokenizer = await self.tokenizer(model)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._one_thread, _render, tokenizer, list(messages))

    async def text_ids(self, model: str, text: str) -> tuple[int, ...]:
        """A plain prompt, as the tokenizer itself reads it: control tokens count, and it may put one before.

        Raises ModelUnreadable.
        """
        tokenizer = await self.tokenizer(model)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._one_thread, lambda: tuple(tokenizer(text, verbose=False)["input_ids"])
        )

    async def text_of(self, model: str, ids: Sequence[int]) -> str:
        """What token ids spell, control tokens by their names. Raises ModelUnreadable."""
        tokenizer = await self.tokenizer(model)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._one_thread,
            lambda: str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)),
        )

    def vocab_size(self, model: str) -> int:
        """Ids that the model itself knows; more than its tokenizer's, often. Raises ModelUnreadable."""
        return vocab_size(find_model(model, self.model_dirs))

    async def warm(self, models: Sequence[str]) -> None:
        """Load ahead of the first request; what can't be loaded is only logged."""
        await asyncio.get_running_loop().run_in_executor(self._one_thread, _import)
        for model in models:
            try:
                await self.tokenizer(model)
            except ModelUnreadable as broken:
                log.warning("tokenizer_not_loaded", model=model, why=str(broken))

    def warm_soon(self, model: str) -> None:
        """As `warm`, in the background: a pool that was just proposed will be asked soon."""
        task = asyncio.create_task(self.warm([model]))
        self._warming.add(task)
        task.add_done_callback(self._warming.discard)

    async def tokenizer(self, model: str) -> Any:
        """Loads it at the first call; later calls, also at once, share that load. Raises ModelUnreadable."""
        directory = find_model(model, self.model_dirs)
        if directory not in self._loading:
            loop = asyncio.get_running_loop()
            self._loading[directory] = loop.run_in_executor(self._one_thread, _load, directory)
        try:
            return await asyncio.shield(self._loading[directory])
        except (OSError, ValueError) as broken:
            self._loading.pop(directory, None)
            raise ModelUnreadable(f"{directory.name} has no tokenizer that loads: {broken}") from broken


def _import() -> None:
    import transformers

    transformers.PreTrainedTokenizerFast  # noqa: B018  (the name itself is imported late)


def _load(directory: Path) -> Any:
    """By the generic class when `tokenizer.json` says it all: AutoTokenizer brings torch in."""
    if (directory / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast as Kind
    else:
        from transformers import AutoTokenizer as Kind
    loaded = Kind.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    log.info("tokenizer_loaded", model=directory.name)
    return loaded


def _render(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[int, ...]:
    if not tokenizer.chat_template:
        text = "\n\n".join(message["content"] for message in messages)
        return tuple(tokenizer(text, verbose=False)["input_ids"])
    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    if any(token in message["content"] for token in special for message in messages):
        return _render_apart(tokenizer, messages)
    return _encode(tokenizer, _templated(tokenizer, messages))


def _render_apart(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[int, ...]:
    """For contents that spell a control token such as the end of a turn: there they are plain characters.

    The template is rendered around placeholders, and each content is encoded with control tokens off.
    """
    mark = secrets.token_hex(16)
    held = [{**message, "content": f"{mark}{n:06d}"} for n, message in enumerate(messages)]
    pieces = re.split(f"{mark}([0-9]{{6}})", _templated(tokenizer, held))
    ids: list[int] = []
    for place, piece in enumerate(pieces):
        content = place % 2 == 1
        text = messages[int(piece)]["content"] if content else piece
        ids += _encode(tokenizer, text, split_special_tokens=content)
    return tuple(ids)


def _templated(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as refused:
        raise ChatTemplateRefused(f"The model's chat template says: {refused}") from refused


def _encode(tokenizer: Any, text: str, *, split_special_tokens: bool = False) -> tuple[int, ...]:
    encoded = tokenizer(
        text, add_special_tokens=False, verbose=False, split_special_tokens=split_special_tokens
    )
    return tuple(encoded["input_ids"])
