"""One real worker process for tests; knows nothing of rings or of what the worker is told."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from ulid import ULID

from services.access import NatsAccess
from services.nkey import new_seed, public_key
from shard_runtime.signing import ReceiptKey
from tests.mesh_nodes import MeshNode


@dataclass
class WorkerProcess:
    """One worker process (`python -m shard_runtime.worker`) and the mesh node it talks to."""

    node_id: str
    mesh_node: MeshNode
    home: Path
    seal_key: X25519PrivateKey
    receipt_key: ReceiptKey
    config: dict[str, Any]
    process: asyncio.subprocess.Process | None = None
    lie: str = ""
    """Which one it is to tell (`tests.lying_worker`); an honest worker tells none."""

    @property
    def seal_public(self) -> str:
        return self.seal_key.public_key().public_bytes_raw().hex()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        config = self.home / "worker.json"
        config.write_text(json.dumps(self.config))
        program = ["tests.lying_worker", self.lie] if self.lie else ["shard_runtime.worker"]
        with (self.home / "worker.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *program, "--config", str(config),
                stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
            )  # fmt: skip

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        try:
            return await asyncio.wait_for(self.process.wait(), 20)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise

    def log_text(self) -> str:
        return (self.home / "worker.log").read_text(errors="replace")


def make_worker(
    home: Path, node: MeshNode, nats_url: str, access: NatsAccess, options: dict[str, Any]
) -> WorkerProcess:
    """Not started yet: new keys in the new directory `home`, admitted to NATS; `options` of worker.json."""
    home.mkdir()
    node_id = str(ULID()).lower()
    seed, seal_key, receipt_secret = new_seed(), X25519PrivateKey.generate(), secrets.token_bytes(32)
    (home / "nats.nk").write_bytes(seed)
    (home / "seal.key").write_text(seal_key.private_bytes_raw().hex())
    (home / "receipt.key").write_text(receipt_secret.hex())
    access.admit(node_id, public_key(seed))
    config = {
        "node_id": node_id, "nats_url": nats_url, "nats_seed_file": "nats.nk", "seal_key_file": "seal.key",
        "receipt_key_file": "receipt.key", "axl_url": node.api_url, "state_dir": "state", **options,
    }  # fmt: skip
    return WorkerProcess(node_id, node, home, seal_key, ReceiptKey(receipt_secret), config)
