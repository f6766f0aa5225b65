"""Forms a pool out of nodes whose directories are on this machine, over the gateway's REST.

Used by `computepool up --model` and the demo. Knows nothing of the log, of NATS or of starting processes.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from services.gateway_rest import checked, client
from services.join import accept
from services.node_keys import NodeKeys

Say = Callable[[str], None]


class PoolNotFormed(Exception):
    """pool_not_formed: the pool did not come up; the message says at which step and why."""

    code = "pool_not_formed"


async def form_pool(
    gateway_url: str,
    operator_token: str,
    node_dirs: Sequence[Path],
    model_dir: Path,
    *,
    name: str,
    dtype: str = "float32",
    kv_slots: int = 4,
    price_wei_per_s: str = "0",
    deterministic: bool = False,
    within_s: float = 180.0,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Propose `model_dir` as pool `name`, let every node accept, plan, and wait until it serves.

    A pool of that name, digest, price and nodes that serves is returned.

    Raises PoolNotFormed, GatewayRefused.
    """
    digest = await weights_digest(model_dir)
    say(f"weights digest {digest[:16]}…")
    async with client(gateway_url, operator_token) as rest:
        node_ids = [NodeKeys.load_or_make(path).node_id for path in node_dirs]
        await _until_usable(rest, node_ids, within_s, say)
        known = await _serving(rest, name, digest, price_wei_per_s, node_ids)
        if known is not None:
            return known
        body = {
            "name": name,
            "model": str(model_dir.resolve()),
            "weights_digest": digest,
            "dtype": dtype,
            "kv_slots": kv_slots,
            "price_wei_per_s": price_wei_per_s,
            "deterministic": deterministic,
        }
        proposed = checked(await rest.post("/pools", json=body))
        pool_id = str(proposed["pool_id"])
        say(f"pool.proposed      {pool_id}")
        position = int(proposed["position"])
        for path in node_dirs:
            await _until_visible(rest, pool_id, position)
            position = await accept(path, pool_id, gateway_url, operator_token)
            say(f"pool.member_accepted by {NodeKeys.load_or_make(path).node_id}")
        planned = checked(await rest.post(f"/pools/{pool_id}/plan", json={"node_ids": node_ids}))
        return await _until_active(rest, pool_id, int(planned["position"]), within_s, say)


async def weights_digest(model_dir: Path) -> str:
    """The model's digest, computed by the worker's own code in a process of its own. Raises PoolNotFormed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "shard_runtime.weights",
        str(model_dir),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    if child.returncode != 0:
        last = err.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise PoolNotFormed(f"weights of {model_dir}: {last[0]}")
    return str(json.loads(out)["weights_digest"])


async def _until_usable(rest: httpx.AsyncClient, node_ids: Sequence[str], within_s: float, say: Say) -> None:
    """A node counts once it is reachable and has measured itself."""
    waiting = list(node_ids)
    deadline = time.monotonic() + within_s
    while waiting:
        answer = await rest.get(f"/nodes/{waiting[0]}")
        if answer.status_code == 200:
            found = answer.json()
            if found.get("memory_bytes") and found["status"] == "reachable":
                gib = found["memory_bytes"] / 2**30
                say(f"node {waiting.pop(0)}: {gib:.1f} GiB, {found['matmul_gflops']:.1f} GFLOP/s")
                continue
        elif answer.status_code != 404:
            checked(answer)
        if time.monotonic() > deadline:
            raise PoolNotFormed(
                f"node {waiting[0]} did not come up within {within_s:.0f} s: see `computepool logs`"
            )
        await asyncio.sleep(0.1)


async def _serving(
    rest: httpx.AsyncClient, name: str, digest: str, price_wei_per_s: str, node_ids: Sequence[str]
) -> dict[str, Any] | None:
    page = checked(await rest.get("/pools", params={"limit": 100}))
    for item in page["items"]:
        terms = (item["name"], item["weights_digest"], item["price_wei_per_s"])
        same = terms == (name, digest, price_wei_per_s) and item["status"] == "active"
        if same and {shard["node_id"] for shard in item["shards"]} == set(node_ids):
            return dict(item)
    return None


async def _until_visible(rest: httpx.AsyncClient, pool_id: str, position: int) -> None:
    checked(await rest.get(f"/pools/{pool_id}", params={"at_least": position}))


async def _until_active(
    rest: httpx.AsyncClient, pool_id: str, position: int, within_s: float, say: Say
) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    told = False
    while True:
        found = checked(await rest.get(f"/pools/{pool_id}", params={"at_least": position}))
        if not told:
            say(f"pool.planned       epoch {found.get('planned_epoch', 1)}")
            told = True
        if found["status"] == "active":
            return found
        failed = [shard for shard in found["shards"] if shard.get("failed")]
        if failed:
            raise PoolNotFormed(
                f"node {failed[0]['node_id']} could not load its layers: {failed[0]['failed']}"
            )
        if time.monotonic() > deadline:
            raise PoolNotFormed(
                f"pool {pool_id} was not active within {within_s:.0f} s: see `computepool logs`"
            )
        await asyncio.sleep(0.1)
