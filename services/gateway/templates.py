"""Messages to token ids: the model's own chat template and tokenizer; knows nothing of pools, prices or
sessions.

Tokenizers are loaded once per directory, in a thread, from local files only and never with code from
there.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from jinja2.exceptions import TemplateError

from services.gateway.model_files import find_model
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

    transformers.AutoTokenizer  # noqa: B018  (the name itself is imported late, and takes seconds)


def _load(directory: Path) -> Any:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    log.info("tokenizer_loaded", model=directory.name)
    return loaded


def _render(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[int, ...]:
    if not tokenizer.chat_template:
        text = "\n\n".join(message["content"] for message in messages)
        return tuple(tokenizer(text, verbose=False)["input_ids"])
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as refused:
        raise ChatTemplateRefused(f"The model's chat template says: {refused}") from refused
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
