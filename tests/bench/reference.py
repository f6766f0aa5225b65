"""Hugging Face `generate` in a process of its own with one thread, on demand, for interleaved comparison.

Reads one JSON line {prompt, count} after the other; answers {ids, token_s: moment of each token}.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from tests.exact.generation import whole_model


class _Clock(BaseStreamer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.token_s: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.token_s.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to do: every token has been put."""


def serve(model_dir: Path) -> None:
    torch.set_num_threads(1)
    model = whole_model(model_dir, "float32")
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        clock, begun = _Clock(), time.perf_counter()
        with torch.inference_mode():
            prompt = torch.tensor([asked["prompt"]])
            out = model.generate(prompt, max_new_tokens=asked["count"], do_sample=False, streamer=clock)
        ids = out[0, len(asked["prompt"]) :].tolist()
        # The first put is the prompt itself.
        print(json.dumps({"ids": ids, "token_s": [t - begun for t in clock.token_s[1:]]}), flush=True)


class Reference:
    """The process, seen from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, model_dir: Path) -> "Reference":
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.reference", str(model_dir), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2], limit=1 << 24,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
        )  # fmt: skip
        reference = cls(process)
        await reference._answer()
        return reference

    @property
    def pid(self) -> int:
        return self._process.pid

    async def generate(self, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
        """The ids and the moment of each, in seconds from the begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": prompt, "count": count}).encode() + b"\n")
        answer = await self._answer()
        return answer["ids"], answer["token_s"]

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the reference process ended")
        found: dict[str, Any] = json.loads(line)
        return found


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
