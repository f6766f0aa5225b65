"""A network that is paid: real gateway, log, database, anvil with the real contracts, a peer, priced pools.

Payers are x402's own client. With `keeper` money streams; without, nothing does. Knows no assertion.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
from eth_account.signers.local import LocalAccount
from x402.schemas import PaymentRequired

from events.chain import ChainRef
from events.pool import CoalitionEnded, CoalitionOpened
from services import bus, control
from services.chain import manifest as manifests
from services.credentials import engine_of
from services.facilitator.shapes import REQUIRED, SIGNATURE, Payment, Required, as_header, from_header
from tests.anvil import deployed_chain
from tests.contract.gateway_house import House, Peer, Script, form, house
from tests.paid_chain import RATE, PaidChain
from tests.paying import Till, till_on, x402_client

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 8}


@dataclass
class Market:
    """Two priced pools over one peer, one coalition; `unopened` has a price and no coalition."""

    house: House
    chain: PaidChain
    till: Till
    peer: Peer
    pools: dict[str, str]

    async def asked(self, path: str = "/sessions", model: str = "alpha", **more: Any) -> Required:
        answer = await self.post(path, model, **more)
        assert answer.status_code == 402, answer.text
        return from_header(answer.headers[REQUIRED], Required)

    async def post(
        self, path: str, model: str, payment: Payment | None = None, token: str | None = None, **more: Any
    ) -> httpx.Response:
        body = {"/sessions": {}, "/v1/completions": {"prompt": "Hello", "max_tokens": 8}}.get(path, CHAT)
        headers = {} if payment is None else {SIGNATURE: as_header(payment)}
        async with self.house.client(token) as client:
            return await client.post(path, json={"model": model, **body, **more}, headers=headers)

    async def voucher(self, payer: LocalAccount, required: Required) -> Payment:
        made = await x402_client(payer).create_payment_payload(
            PaymentRequired.model_validate_json(msgspec.json.encode(required))
        )
        return msgspec.json.decode(made.model_dump_json(by_alias=True, exclude_none=True), type=Payment)

    async def pool(self, name: str, at_least: int) -> dict[str, Any]:
        async with self.house.client() as client:
            answer = await client.get(f"/pools/{self.pools[name]}", params={"at_least": at_least})
            return dict(answer.json())

    async def end_epoch(self, name: str) -> tuple[ChainRef, int]:
        """As the keeper tells it; where it is said to stand, and the log's sequence that has it."""
        block = await self.chain.rpc.block()
        at = ChainRef(31337, block.number, block.hash, block.timestamp, "0x" + "ed" * 32, 0)
        ended = CoalitionEnded(self.chain.coalition, 1, at)
        return at, await self._tell(control.EndCoalition(self.pools[name], ended))

    async def take_back_end(self, name: str, at: ChainRef) -> int:
        return await self._tell(control.RevertCoalitionEnd(self.pools[name], at))

    async def _tell(self, fact: control.KeeperAsk) -> int:
        client = await bus.connect(self.house.nats.settings, "keeper")
        try:
            answer = await control.tell(client, fact, f"test {msgspec.json.encode(fact).decode()}")
        finally:
            await bus.close(client)
        assert answer.error_code is None, answer
        return answer.sequence

    async def sessions(self) -> list[dict[str, Any]]:
        async with self.house.client() as client:
            return list((await client.get("/sessions", params={"limit": 200})).json()["items"])


@contextlib.asynccontextmanager
async def market_of(
    directory: Path, script: Script, *, keeper: bool = False, **environment: str
) -> AsyncIterator[Market]:
    """`script` says what the peer computes."""
    async with deployed_chain() as (rpc, manifest):
        manifests.write(directory / "manifest.json", manifest)
        environment = {
            "CHAIN_RPC_URL": rpc.url,
            "COMPUTEPOOL_CHAIN_MANIFEST": str(directory / "manifest.json"),
            **environment,
        }
        chain = PaidChain(rpc, manifest)
        await chain.prepare()
        async with house(directory, gateway=True, **environment) as built:
            if keeper:
                await built.start("keeper", **environment, COMPUTEPOOL_GATEWAY_URL=built.url)
            peer = await Peer.join(built, "one", script)
            pools = {
                name: await form(built, [peer], name, price_wei_per_s=str(RATE), context_length=64)
                for name in ("alpha", "beta", "unopened")
            }
            for name in ("alpha", "beta"):
                await open_coalition(built, chain, pools[name])
            engine = engine_of(built.database_url)
            yield Market(built, chain, await till_on(rpc, manifest, engine), peer, pools)
            await engine.dispose()
            await peer.leave()


async def open_coalition(built: House, chain: PaidChain, pool_id: str) -> None:
    """As the gateway tells the orchestrator once it has found the coalition on the chain."""
    block = await chain.rpc.block()
    at = ChainRef(31337, block.number, block.hash, block.timestamp, "0x" + "c0" * 32, 0)
    opened = CoalitionOpened(chain.coalition, 31337, 1, 1, chain.gda_pool, at)
    client_ = await bus.connect(built.nats.settings, "gateway")
    try:
        command_id = f"open-{pool_id}"
        answer = await control.ask(client_, control.OpenCoalition(pool_id, opened), command_id, command_id)
    finally:
        await bus.close(client_)
    assert answer.error_code is None, answer
