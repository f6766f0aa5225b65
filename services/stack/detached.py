"""The process behind `computepool up`: holds a stack until it is told to stop, and restarts nothing.

Knows nothing of terminals: it tells its progress through `stack.json`, and everything else through its log.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from services.coalition_opening import open_coalition
from services.local_pool import form_pool
from services.logging import configure
from services.settings import Settings
from services.stack.client import local_model, operator_token
from services.stack.stack import Stack, stack_of


async def serve_model(stack: Stack, nodes: int, model: str, pool: str, price_wei_per_s: str) -> None:
    """Start `nodes` local nodes and form a pool over them that serves `model` under the name `pool`.

    A pool with a price gets its coalition, so that it can be paid, also after a change of its plan, and on
    the local chain its attestors.
    """
    directory = local_model(model, stack.settings.model_dirs)
    labels = [f"local-{number + 1}" for number in range(nodes)]
    async with operator_token(stack.settings) as token:
        stack.supervisor.say("starting", f"{nodes} nodes")
        model_dirs = (*stack.settings.model_dirs, directory.parent)
        await stack.add_nodes(labels, token, model_dirs)
        stack.supervisor.say("starting", f"pool {pool}: loading {directory.name}")
        directories = [stack.settings.state_dir / "nodes" / label for label in labels]

        def say(text: str) -> None:
            stack.supervisor.say("starting", text)

        formed = await form_pool(
            stack.settings.public_url,
            token,
            directories,
            directory,
            name=pool,
            price_wei_per_s=price_wei_per_s,
            say=say,
        )
        if price_wei_per_s != "0":
            await open_coalition(stack.settings, token, formed["pool_id"], directories, say=say)
            await stack.follow_plan(formed["pool_id"])
            if stack.chain_is_local:
                stack.supervisor.say("starting", f"{stack.settings.verifiers} attestors")
                await stack.add_verifiers(model_dirs)


async def hold(settings: Settings, nodes: int, model: str, pool: str, price_wei_per_s: str) -> None:
    """Until SIGTERM or SIGINT, also in the middle of starting."""
    whole = asyncio.current_task()
    assert whole is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, whole.cancel)

    async def prepare(stack: Stack) -> None:
        if nodes:
            await serve_model(stack, nodes, model, pool, price_wei_per_s)

    with contextlib.suppress(asyncio.CancelledError):
        async with stack_of(settings, prepare=prepare):
            await asyncio.Event().wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.stack.detached")
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--model", default="")
    parser.add_argument("--pool", default="")
    parser.add_argument("--price", default="0")
    given = parser.parse_args()
    pool = given.pool or Path(given.model).name
    settings = Settings()
    configure(settings.log_level)
    asyncio.run(hold(settings, given.nodes, given.model, pool, given.price))
    return 0


if __name__ == "__main__":
    sys.exit(main())
