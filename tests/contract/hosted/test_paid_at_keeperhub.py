"""A paid session whose runs are carried out elsewhere: the keeper knows only a URL and a key, and no wei is
missing afterwards.

What answers there is our own runner behind KeeperHub's paths, with a database and a wallet of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from eth_account import Account
from pydantic import SecretStr

from services.chain.wallets import fund_local
from services.keeper.backend import BackendRefused
from services.keeper.callbacks import PATH
from services.keeper.hosted.rest import Rest
from services.keeper.runner.masking import MASK
from services.keeper.runner_http.keys import AccessKeys
from services.stack.stack import free_port
from tests.contract.hosted.served import QUICK, Served, served
from tests.keeping import CAP, House, house
from tests.tcp_proxy import TcpProxy, tcp_proxy

pytestmark = pytest.mark.long
LETS_GO_WITHIN_S = 3
"""Less than a server waits before it lets an idle connection go by itself."""


@contextlib.asynccontextmanager
async def hosted(transport: str) -> AsyncIterator[tuple[House, Served, TcpProxy]]:
    """A keeper's surroundings, where its runs go to, and the way between them."""
    wallet = Account.create()
    async with house() as here:
        await fund_local(here.chain.rpc, wallet.address)
        here.chain.controller = wallet.address
        called = here.callbacks.url + PATH
        async with (
            served(rpc=here.chain.rpc, wallet=wallet, http_allowed=(called,)) as there,
            tcp_proxy(int(there.url.rpartition(":")[2])) as proxy,
        ):
            here.around.settings = here.around.settings.model_copy(
                update={
                    "keeperhub_url": f"http://127.0.0.1:{proxy.port}",
                    "keeperhub_api_key": SecretStr(there.organisation),
                    "keeperhub_transport": transport,
                    "keeper_wallet": wallet.address,
                }
            )
            yield here, there, proxy


@pytest.mark.parametrize("transport", ["rest", "mcp"])
async def test_a_paid_session_runs_at_a_hosted_backend_to_the_wei(transport: str) -> None:
    async with hosted(transport) as (here, there, proxy):
        async with here.keeping():
            key, _ = await here.pay(600)
            proxy.cut_once(answer=b"executionId")
            await here.start(key, 1)
            await here.flows(key, 1)
            await here.chain.wait(5)
            await here.end(key, 1)
            stopped = await here.flows(key, 0)
            await here.close(key)
            settled = await here.settled(key)
        async with asyncio.timeout(LETS_GO_WITHIN_S):
            await proxy.unused()
        assert proxy.cuts == 1
        assert int(settled.refund_wei) == CAP - stopped.paid_wei
        await here.sound()
        made = {one["name"]: one["id"] for one in await there.transport("rest").workflows()}
        assert set(made) == {"computepool-stream-start", "computepool-stream-stop"}
        opened = await there.runner.list_executions(made["computepool-stream-start"])
        assert [one.status for one in opened] == ["success"], "the answer was lost, and the run executed once"
        assert {body["event"] for _, body in here.callbacks.bodies} == {"stream_started", "stream_stopped"}
        for headers, _ in here.callbacks.bodies:
            assert headers["authorization"].startswith("Bearer cpcb1.")
            assert "x-keeperhub-signature" not in headers


@pytest.mark.parametrize("transport", ["rest", "mcp"])
async def test_workflows_that_somebody_removed_are_made_again(transport: str) -> None:
    async with hosted(transport) as (here, there, proxy):
        sends = there.runner._means.sender
        assert sends is not None
        called = (here.callbacks.url + PATH,)
        async with (
            served(rpc=here.chain.rpc, wallet=sends.key, http_allowed=called, like=there) as empty,
            here.keeping(),
        ):
            key, _ = await here.pay(600)
            await here.start(key, 1)
            await here.flows(key, 1)
            proxy.target_port = int(empty.url.rpartition(":")[2])
            proxy.cut_once(request=b"HTTP/1.1")
            await here.start(key, 2)
            await here.flows(key, 2)
            await here.end(key, 1)
            await here.end(key, 2)
            await here.flows(key, 0)
            await here.close(key)
            await here.settled(key)
            assert len(await empty.transport("rest").workflows()) == 2
        await here.sound()


async def test_the_keeper_serves_the_paths_of_its_own_runs() -> None:
    async with house() as here:
        port = free_port()
        here.around.settings = here.around.settings.model_copy(update={"keeper_port": port})
        settings = here.around.settings
        settings.access_keys.parent.mkdir(parents=True, exist_ok=True)
        _, token = AccessKeys(settings.access_keys).issue("organisation", "tests", "mcp:read")
        async with here.keeping():
            key, _ = await here.pay(600)
            await here.start(key, 1)
            await here.flows(key, 1)
            rest = Rest(f"http://127.0.0.1:{port}", SecretStr(token), QUICK)
            (started,) = await rest.workflows()
            assert started["name"] == "computepool-stream-start"
            (run,) = await rest.executions(started["id"])
            assert (run["input"]["session_id"], run["input"]["callback_secret"]) == (key, MASK)
            with pytest.raises(BackendRefused, match="insufficient_scope"):
                await rest.execute(started["id"], {}, "key-1")
            await rest.close()
