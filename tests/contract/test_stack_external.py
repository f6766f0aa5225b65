"""A stack on servers that someone else runs: with their addresses set it starts only the roles."""

import httpx
from pydantic import SecretStr

from services.chain import anvil
from services.stack.stack import stack_of
from tests.contract.gateway_house import until
from tests.nats_server import nats_server
from tests.postgres import database


async def test_named_servers_are_used_instead_of_embedded_ones() -> None:
    async with nats_server() as server, database() as url, anvil.running() as rpc:
        addresses = {"database_url": SecretStr(url), "gateway_port": 0, "chain_rpc_url": rpc.url}
        settings = server.settings.model_copy(update=addresses)
        async with stack_of(settings) as stack:
            assert [entry.name for entry in stack.supervisor.alive()] == [
                "orchestrator",
                "projector",
                "keeper",
                "gateway",
            ]
            assert stack.settings.nats_url == server.url
            assert stack.settings.chain_rpc_url == rpc.url

            async def ready() -> bool:
                async with httpx.AsyncClient(base_url=stack.settings.public_url, trust_env=False) as client:
                    return (await client.get("/readyz")).status_code == 200

            await until(ready, 30)
        assert not stack.supervisor.alive()
        assert server.process is not None
        assert server.process.returncode is None
