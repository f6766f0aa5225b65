"""A drill on this machine: a fresh network answers the same questions in clear and in foul weather.

Every claim of the verdict is counted: what the gates did to the messages, how many the workers sent, and
which texts came out. Knows nothing of frames. Bounded in questions and time; everything is stopped.
"""

import asyncio
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from services.chaos.gate import Gate, gate
from services.chaos.weather import CLEAR, Weather
from services.gateway_rest import checked
from services.gateway_rest import client as rest_client
from services.join import WORKER_CONFIG_FILE
from services.local_pool import form_pool
from services.settings import Settings
from services.stack import register
from services.stack.identity import signal_group
from services.stack.node import start_node
from services.stack.stack import Stack, stack_of
from services.stack.supervisor import sweep

POOL = "drill"
STILL_S = 2.0
"""How long everything stands still, in each of the pauses."""
SUBJECTS = ("a brave fox", "a shy otter", "an old kettle", "a lost key", "the last train", "two small boats")
NOT_TAKEN = (
    "digest_mismatch", "bad_signature", "bad_header", "bad_shape", "bad_parts", "size_mismatch", "too_short",
    "header_too_long", "unknown_version", "misdirected", "wrong_sender", "not_a_member", "old_epoch",
    "unknown_epoch", "unknown_pool",
)  # fmt: skip
"""Codes under which a worker counts a frame with a flipped bit."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    weather: Weather
    shards: int = 2
    generations: int = 5
    tokens: int = 32
    seconds: float = 120.0
    """No question is asked after so long."""
    seed: int = 0


@dataclass
class Verdict:
    """`frames` are messages that workers handed to their mesh nodes, `happened` what became of them in foul
    weather, `dropped` what workers said they did not take, by code."""

    generations: int = 0
    identical: int = 0
    frames_clear: int = 0
    frames_foul: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    pauses: dict[str, bool] = field(default_factory=dict)
    """Trouble that stands still for a while: was the text the same?"""
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def held(self) -> bool:
        """Every text was the same, at least one was asked for, and no damage went unseen."""
        unseen = self.happened["corrupted"] > 0 and not self.dropped
        return 0 < self.generations == self.identical and all(self.pauses.values()) and not unseen

    def as_dict(self, plan: Plan) -> dict[str, Any]:
        ratio = round(self.frames_foul / self.frames_clear, 3) if self.frames_clear else None
        return {
            **asdict(plan), "asked": self.generations, "identical": self.identical,
            "frames_clear": self.frames_clear, "frames_foul": self.frames_foul, "frames_ratio": ratio,
            "happened": dict(self.happened), "pauses": self.pauses, "dropped": dict(self.dropped),
            "held": self.held,
        }  # fmt: skip


async def drill(plan: Plan, model_dir: Path, say: Say) -> Verdict:
    """Raises StackBusy, NotReady, PoolNotFormed, GatewayRefused."""
    state_dir = (Settings().state_dir / "chaos").resolve()
    with register.owned(state_dir):
        await sweep(state_dir)
        for path in state_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
    own = {"state_dir": state_dir, "gateway_port": 0, "nats_url": None, "database_url": None}
    settings = Settings().model_copy(
        update={**own, "nats_seeds_dir": None, "model_dirs": (model_dir.parent,)}
    )
    say("starting a fresh network, with a gate between each worker and its mesh node")
    async with AsyncExitStack() as gates, stack_of(settings, sweep_first=True) as stack:
        labels = [f"shard{number}" for number in range(plan.shards)]
        token = await stack.new_token("operator", "chaos drill")
        await stack.join_nodes(labels, token, (model_dir.parent,))
        directories = [state_dir / "nodes" / label for label in labels]
        before = [await gates.enter_async_context(_gate_before(path, plan.seed)) for path in directories]
        for directory in directories:
            await start_node(stack.supervisor, directory)
        await form_pool(stack.settings.public_url, token, directories, model_dir, name=POOL, say=say)
        key = await stack.new_token("api_key", "chaos drill")
        async with rest_client(stack.settings.public_url, key) as rest:
            verdict = await _Drill(plan, stack, before, rest, say).run()
        logs = [Path(entry.log) for entry in stack.supervisor.entries() if entry.name.startswith("worker-")]
    for log in logs:
        verdict.dropped += not_taken(log.read_text(errors="replace"))
    return verdict


@asynccontextmanager
async def _gate_before(directory: Path, seed: int) -> AsyncIterator[Gate]:
    """Of a node that is joined and not started yet: its worker will speak to the gate."""
    path = directory / WORKER_CONFIG_FILE
    config = json.loads(path.read_bytes())
    async with gate(config["axl_url"], seed=seed) as opened:
        path.write_text(json.dumps({**config, "axl_url": opened.url}, indent=2))
        yield opened


class _Drill:
    """The questions, and the trouble between them."""

    def __init__(
        self, plan: Plan, stack: Stack, gates: Sequence[Gate], rest: httpx.AsyncClient, say: Say
    ) -> None:
        self._plan, self._stack, self._gates, self._rest, self._say = plan, stack, gates, rest, say

    async def run(self) -> Verdict:
        verdict = Verdict()
        texts: list[str] = []
        questions = [
            f"Tell me story {n} about {SUBJECTS[n % len(SUBJECTS)]}." for n in range(self._plan.generations)
        ]
        deadline = time.monotonic() + self._plan.seconds
        await self._answer("Hello.")  # the mesh finds its paths
        self._say("clear weather")
        begin = self._sent()
        for question in questions:
            if time.monotonic() < deadline - self._plan.seconds / 2 or not texts:
                texts.append(await self._answer(question))
        verdict.frames_clear = self._sent() - begin
        self._say(f"foul weather: {self._plan.weather}")
        begin, happened = self._sent(), self._happened()
        for gate_ in self._gates:
            gate_.weather = self._plan.weather
        for number, (question, text) in enumerate(zip(questions, texts, strict=False)):
            verdict.generations += 1
            same = await self._answer(question) == text
            verdict.identical += same
            self._say(f"  {number + 1}/{len(texts)} {'the same' if same else 'ANOTHER TEXT'}")
        for gate_ in self._gates:
            gate_.weather = CLEAR
        verdict.frames_foul = self._sent() - begin
        verdict.happened = self._happened() - happened
        troubles = {
            "receiver_stalled": self._stalled, "partition": self._cut, "mesh_node_stopped": self._stopped,
        }  # fmt: skip
        for name, trouble in troubles.items():
            self._say(f"{STILL_S:.0f} s in mid-answer: {name}")
            verdict.pauses[name] = await self._in_mid_answer(questions[0], trouble) == texts[0]
        return verdict

    def _sent(self) -> int:
        return sum(gate_.count["sent"] for gate_ in self._gates)

    def _happened(self) -> Counter[str]:
        return sum((gate_.count for gate_ in self._gates), Counter())

    async def _answer(self, question: str) -> str:
        body = {
            "model": POOL, "messages": [{"role": "user", "content": question}], "temperature": 0,
            "max_tokens": self._plan.tokens,
        }  # fmt: skip
        answer = checked(await self._rest.post("/v1/chat/completions", json=body, timeout=120))
        return str(answer["choices"][0]["message"]["content"])

    async def _in_mid_answer(self, question: str, trouble: Callable[[], Awaitable[None]]) -> str:
        begin = self._sent()
        asked = asyncio.create_task(self._answer(question))
        while self._sent() < begin + 4 * len(self._gates) and not asked.done():
            await asyncio.sleep(0.002)
        await trouble()
        return await asked

    async def _stalled(self) -> None:
        self._gates[-1].stall()
        await asyncio.sleep(STILL_S)
        self._gates[-1].resume()

    async def _cut(self) -> None:
        last = self._gates[-1]
        last.cut = last.deaf_to = {"*"}
        await asyncio.sleep(STILL_S)
        last.cut, last.deaf_to = set(), set()

    async def _stopped(self) -> None:
        entries = self._stack.supervisor.entries()
        [node] = [entry.identity for entry in entries if entry.name == f"mesh-shard{self._plan.shards - 1}"]
        signal_group(node, signal.SIGSTOP)
        try:
            await asyncio.sleep(STILL_S)
        finally:
            signal_group(node, signal.SIGCONT)


def not_taken(log: str) -> Counter[str]:
    """What a worker that has stopped says it dropped for being damaged, by code; `log` is its log."""
    found = Counter[str]()
    for line in log.splitlines():
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("event") in ("frames", "mesh"):
            for name, number in said.items():
                if name.removeprefix("rejected_") in NOT_TAKEN:
                    found[name.removeprefix("rejected_")] += number
    return found
