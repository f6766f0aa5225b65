"""What an operator's machine does to leave: ask for the drain, and watch until no ring needs the node.

Knows REST paths, nothing behind.
"""

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from services.gateway_rest import checked, client
from services.node_keys import NodeKeys

LOOK_S = 0.3


class Left(NamedTuple):
    """`still_in`: pools that the node still serves; `blocked`: why, for those where nobody can succeed it."""

    node_id: str
    still_in: tuple[str, ...]
    blocked: dict[str, str]


async def drain(directory: Path, gateway_url: str, token: str, reason: str, wait_s: float) -> Left:
    """Ask once; then look until the node has left every ring, nobody can succeed it, or the time is over.

    Raises GatewayRefused.
    """
    node_id = NodeKeys.load_or_make(directory).node_id
    deadline = time.monotonic() + wait_s
    async with client(gateway_url, token) as rest:
        checked(await rest.post(f"/nodes/{node_id}/drain", json={"reason": reason}))
        while True:
            left = await _look(rest, node_id)
            if set(left.still_in) == set(left.blocked) or time.monotonic() > deadline:
                return left
            await asyncio.sleep(LOOK_S)


async def _look(rest: httpx.AsyncClient, node_id: str) -> Left:
    still_in: list[str] = []
    blocked: dict[str, str] = {}
    async for pool in _pools(rest):
        if pool["status"] != "active" or not _needs(pool, node_id):
            continue
        still_in.append(pool["pool_id"])
        if (why := pool.get("drain_blocked")) and why.startswith(node_id):
            blocked[pool["pool_id"]] = why
    return Left(node_id, tuple(still_in), blocked)


def _needs(pool: dict[str, Any], node_id: str) -> bool:
    """In the serving ring, or leaving it and not done yet."""
    serving = any(shard["node_id"] == node_id for shard in pool["shards"])
    return serving or any(shard["node_id"] == node_id for shard in pool["leaving"])


async def _pools(rest: httpx.AsyncClient) -> Any:
    after = ""
    while True:
        page = checked(
            await rest.get("/pools", params={"limit": "100", **({"after": after} if after else {})})
        )
        for pool in page["items"]:
            yield pool
        if not page.get("has_more"):
            return
        after = page["items"][-1]["pool_id"]
