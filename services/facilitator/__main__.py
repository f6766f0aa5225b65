"""`python -m services.facilitator`: the facilitator's process, until SIGTERM; knows nothing of routes."""

import asyncio
import json

import structlog
import uvicorn

from services.chain import manifest
from services.chain.networks import network_of
from services.chain.rpc import connected
from services.chain.sender import Sender
from services.chain.wallets import fund_local, wallet
from services.credentials import engine_of
from services.database import database_url
from services.facilitator.server import create_app
from services.facilitator.settle import Facilitator
from services.facilitator.verify import token_at
from services.logging import configure
from services.settings import Settings

log = structlog.get_logger("facilitator")


class NoChain(Exception):
    """no_chain: CHAIN_RPC_URL is not set, so there is nothing to settle on."""

    code = "no_chain"
    remedy = "Set CHAIN_RPC_URL, or `computepool up` for a local chain."


async def serve(settings: Settings, host: str, port: int) -> None:
    """Until the process is asked to stop. Raises NoChain, NotDeployed, ChainUnknown, ChainAway."""
    if not settings.chain_rpc_url:
        raise NoChain("CHAIN_RPC_URL is not set")
    engine = engine_of(database_url(settings))
    try:
        async with connected(settings.chain_rpc_url) as rpc:
            network = network_of(await rpc.chain_id())
            known = manifest.read(settings.manifest_of(network.chain_id))
            key = wallet(settings, "facilitator")
            await fund_local(rpc, key.address)
            token = await token_at(rpc, network.chain_id, known.at("USDC"))
            sender = Sender(rpc, network, key, engine)
            await sender.tend()
            facilitator = Facilitator(rpc, token, sender, engine)
            config = uvicorn.Config(
                create_app(facilitator), host, port, access_log=False, log_config=None, server_header=False
            )
            await _Announcing(config).serve()
    finally:
        await engine.dispose()


class _Announcing(uvicorn.Server):
    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if not self.should_exit and self.servers:
            port = self.servers[0].sockets[0].getsockname()[1]
            log.info("listening", host=self.config.host, port=port)
            print(json.dumps({"listening": {"host": self.config.host, "port": port}}), flush=True)


def main(host: str = "127.0.0.1", port: int = 0) -> None:
    settings = Settings()
    configure(settings.log_level)
    asyncio.run(serve(settings, host, port))


if __name__ == "__main__":
    main()
