"""Payers of tests: x402's own client on a real anvil, and payments wrong in one way. Knows no gateway."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
from eth_account import Account
from eth_account.signers.local import LocalAccount
from sqlalchemy.ext.asyncio import AsyncEngine
from x402 import x402Client
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentPayload, PaymentRequired

from services.chain import abi, anvil
from services.chain.manifest import Manifest
from services.chain.rpc import Rpc
from services.chain.sender import Sender
from services.chain.transactions import receipt_of
from services.credentials import engine_of
from services.facilitator.settle import Facilitator
from services.facilitator.shapes import Payment, Required, Requirements, Resource, decoded
from services.facilitator.verify import token_at, typed
from services.typed_data import sign_typed
from tests.anvil import LOCAL, deployed_chain
from tests.postgres import database

PAYEE = "0x" + "e5" * 20
HOT_WALLET = anvil.dev_account(5)


@dataclass
class Till:
    """A facilitator on its chain."""

    rpc: Rpc
    manifest: Manifest
    engine: AsyncEngine
    facilitator: Facilitator

    async def payer(self, micro: int = 1_000_000) -> LocalAccount:
        """A new account with so much and no coins for gas."""
        account: LocalAccount = Account.create()
        await self.mint(account.address, micro)
        return account

    async def mint(self, account: str, micro: int) -> None:
        data = abi.call("mint(address,uint256)", account, micro)
        asked = {
            "from": anvil.dev_account().address,
            "to": self.manifest.at("USDC"),
            "data": "0x" + data.hex(),
        }
        made = await self.rpc.ask("eth_sendTransaction", asked)
        assert (await receipt_of(self.rpc, made, 30)).succeeded

    async def held(self, account: str) -> int:
        asked = abi.call("balanceOf(address)", account)
        return int.from_bytes(await self.rpc.call(self.manifest.at("USDC"), asked), "big")

    def asked(self, micro: int = 5000, **changed: Any) -> Requirements:
        token = self.facilitator.token
        domain = {"name": token.name, "version": token.version, "paymentFlow": "upfront"}
        terms = Requirements("exact", token.network, token.address, str(micro), PAYEE, 120, domain)
        return msgspec.structs.replace(terms, **changed)


@contextlib.asynccontextmanager
async def till() -> AsyncIterator[Till]:
    async with database() as url, deployed_chain() as (rpc, manifest):
        engine = engine_of(url)
        try:
            yield await till_on(rpc, manifest, engine)
        finally:
            await engine.dispose()


async def till_on(rpc: Rpc, manifest: Manifest, engine: AsyncEngine) -> Till:
    token = await token_at(rpc, LOCAL.chain_id, manifest.at("USDC"))
    sender = Sender(rpc, LOCAL, HOT_WALLET, engine)
    return Till(rpc, manifest, engine, Facilitator(rpc, token, sender, engine))


def x402_client(account: LocalAccount) -> x402Client:
    """x402's own, without its limits on which tokens it may spend."""
    client = x402Client().set_spend_controls(False)
    return client.register("eip155:*", ExactEvmScheme(EthAccountSigner(account)))


async def paid(account: LocalAccount, asked: Requirements) -> Payment:
    """What x402's own client answers to a 402 that asks for this."""
    required = msgspec.json.encode(Required("", Resource("http://127.0.0.1/"), (asked,)))
    made = await x402_client(account).create_payment_payload(PaymentRequired.model_validate_json(required))
    assert isinstance(made, PaymentPayload)
    return decoded(made.model_dump_json(by_alias=True, exclude_none=True).encode(), Payment)


def signed_anew(
    account: LocalAccount, till: Till, payment: Payment, *, chain_id: int | None = None, **changed: str
) -> Payment:
    """The same payment with another authorisation, signed by this account for this chain."""
    token = till.facilitator.token
    authorization = msgspec.structs.replace(payment.payload.authorization, **changed)
    content = typed(token, authorization)
    content["domain"]["chainId"] = token.chain_id if chain_id is None else chain_id
    signature = "0x" + sign_typed(account, content)
    payload = msgspec.structs.replace(payment.payload, authorization=authorization, signature=signature)
    return msgspec.structs.replace(payment, payload=payload)
