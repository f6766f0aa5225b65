"""Joining: an operator's machine makes its keys, proves them to the gateway, and writes its configuration.

Talks to the gateway's REST and to the node's own directory; knows nothing of the log. The worker and the mesh
node are started by someone else (`services.stack`, compose, or `computepool worker run`).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from events.registration import acceptance, registration
from services.gateway_rest import checked, client
from services.node_keys import MESH_KEY_FILE, NATS_SEED_FILE, RECEIPT_KEY_FILE, SEAL_KEY_FILE, NodeKeys

WORKER_CONFIG_FILE = "worker.json"
MESH_CONFIG_FILE = "mesh.json"


@dataclass(frozen=True)
class Joined:
    """`position` is the log sequence of the registration (0: it stood there already)."""

    node_id: str
    position: int


@dataclass(frozen=True)
class Endpoints:
    """Where a node's two processes listen and dial, all on loopback or the mesh."""

    mesh_listen: str
    """`tls://host:port` for other mesh nodes; a worker itself has no listening port."""
    mesh_api_port: int
    mesh_peers: tuple[str, ...]
    nats_url: str


async def join(node_dir: Path, label: str, gateway_url: str, operator_token: str) -> Joined:
    """Make missing keys and register them; repeating it changes nothing. Raises GatewayRefused."""
    keys = NodeKeys.load_or_make(node_dir)
    async with client(gateway_url, operator_token) as rest:
        challenge = await _post(rest, "/nodes/challenges", {})
        bound: dict[str, Any] = {
            "node_id": keys.node_id,
            "mesh_key": keys.mesh_key,
            "nats_key": keys.nats_key,
            "receipt_key": keys.receipt_key,
            "seal_key": keys.seal_key,
            "payout_wallet": keys.payout_wallet,
            "challenge": challenge["challenge"],
            "expires_unix_s": challenge["expires_unix_s"],
        }
        typed = registration(chain_id=challenge["chain_id"], **bound)
        body = {"label": label, **bound, "signatures": keys.sign_registration(typed)}
        answer = await _post(rest, "/nodes", body)
    return Joined(keys.node_id, int(answer["position"]))


async def accept(node_dir: Path, pool_id: str, gateway_url: str, operator_token: str) -> int:
    """Sign the consent to serve a pool and hand it in; returns the log position. Raises GatewayRefused."""
    keys = NodeKeys.load_or_make(node_dir)
    async with client(gateway_url, operator_token) as rest:
        terms = checked(await rest.get(f"/pools/{pool_id}"))
        typed = acceptance(
            chain_id=terms["chain_id"],
            pool_id=pool_id,
            node_id=keys.node_id,
            weights_digest=terms["weights_digest"],
        )
        body = {"node_id": keys.node_id, "signature": keys.sign_acceptance(typed)}
        answer = await _post(rest, f"/pools/{pool_id}/members", body)
    return int(answer["position"])


def write_configs(
    node_dir: Path, endpoints: Endpoints, model_dirs: Sequence[Path], allowed_peers: Sequence[str] = ()
) -> None:
    """Write `mesh.json` and `worker.json` beside the keys. `allowed_peers`: mesh keys; none = all."""
    keys = NodeKeys.load_or_make(node_dir)
    base = node_dir.resolve()
    token = os.urandom(24).hex()
    mesh: dict[str, Any] = {
        "PrivateKeyPath": str(base / MESH_KEY_FILE),
        "Listen": [endpoints.mesh_listen],
        "Peers": list(endpoints.mesh_peers),
        "bridge_addr": "127.0.0.1",
        "api_port": endpoints.mesh_api_port,
        "api_token": token,
    }
    if allowed_peers:
        mesh["allowed_peers"] = sorted(allowed_peers)
    worker = {
        "node_id": keys.node_id,
        "nats_url": endpoints.nats_url,
        "nats_seed_file": str(base / NATS_SEED_FILE),
        "seal_key_file": str(base / SEAL_KEY_FILE),
        "receipt_key_file": str(base / RECEIPT_KEY_FILE),
        "axl_url": f"http://127.0.0.1:{endpoints.mesh_api_port}",
        "axl_token": token,
        "model_dirs": [str(path.resolve()) for path in model_dirs],
        "allow_hub": False,
        "state_dir": str(base / "state"),
    }
    for name, content in ((MESH_CONFIG_FILE, mesh), (WORKER_CONFIG_FILE, worker)):
        descriptor = os.open(node_dir / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=2)


async def _post(rest: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    return checked(await rest.post(path, json=body))
