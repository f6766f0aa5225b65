"""The facilitator on a real anvil, with x402's own client: what holds is settled once, else has a reason."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import uvicorn
from eth_typing import Hash32
from eth_utils.crypto import keccak
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.schemas import PaymentPayload
from x402.schemas import PaymentRequirements as X402Requirements

from services.chain import abi, anvil, play_money
from services.chain import manifest as manifests
from services.facilitator import server
from services.facilitator.shapes import FacilitatorRequest
from services.facilitator.verify import PaymentInvalid, transfer
from services.payer import Payer
from tests.paying import PAYEE, Till, paid, signed_anew, till

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Till]:
    async with till() as built:
        yield built


async def test_what_x402_own_client_signs_is_settled_where_the_chain_says(shop: Till) -> None:
    payer, before = await shop.payer(), await shop.held(PAYEE)
    payment = await paid(payer, shop.asked())
    assert await shop.facilitator.verify(payment, shop.asked()) == payer.address
    at = await shop.facilitator.settle(payment)
    assert await shop.facilitator.settle(payment) == at
    assert await shop.held(PAYEE) - before == 5000
    receipt = await shop.rpc.receipt(at.tx)
    assert receipt is not None
    assert receipt.block_hash == at.block_hash


async def test_what_our_own_payer_signs_holds_too(shop: Till) -> None:
    account = await shop.payer()
    payment = Payer(account, 5000).sign(shop.asked())
    assert await shop.facilitator.verify(payment, shop.asked()) == account.address


async def test_every_wrong_payment_has_its_reason(shop: Till) -> None:
    payer, stranger, now = await shop.payer(), await shop.payer(), int(time.time())
    asked = shop.asked()
    good = await paid(payer, asked)
    poor = await shop.payer(4999)
    accepted = msgspec.structs.replace
    wrong = {
        "invalid_exact_evm_payload_signature": [
            signed_anew(stranger, shop, good),
            signed_anew(payer, shop, good, chain_id=1),
            accepted(good, payload=accepted(good.payload, signature="0x" + "ff" * 65)),
        ],
        "invalid_exact_evm_payload_authorization_valid_before": [
            signed_anew(payer, shop, good, valid_before=str(now - 1)),
            signed_anew(payer, shop, good, valid_before=str(now + 2)),
        ],
        "invalid_exact_evm_payload_authorization_valid_after": [
            signed_anew(payer, shop, good, valid_after=str(now + 3600))
        ],
        "invalid_exact_evm_payload_authorization_value_mismatch": [
            signed_anew(payer, shop, good, value="4999"),
            accepted(good, accepted=shop.asked(4999)),
            signed_anew(payer, shop, good, value="5001"),
        ],
        "invalid_exact_evm_payload_recipient_mismatch": [signed_anew(payer, shop, good, to="0x" + "77" * 20)],
        "network_mismatch": [accepted(good, accepted=shop.asked(network="eip155:1"))],
        "invalid_exact_evm_asset_mismatch": [accepted(good, accepted=shop.asked(asset="0x" + "66" * 20))],
        "unsupported_scheme": [accepted(good, accepted=shop.asked(scheme="upto"))],
        "invalid_x402_version": [accepted(good, x402_version=1)],
        "invalid_exact_evm_insufficient_balance": [await paid(poor, asked)],
    }
    for reason, payments in wrong.items():
        for payment in payments:
            with pytest.raises(PaymentInvalid) as refused:
                await shop.facilitator.verify(payment, asked)
            assert refused.value.reason == reason
    assert await shop.facilitator.verify(good, asked) == payer.address


async def test_a_blacklisted_payer_is_found_by_simulation(shop: Till) -> None:
    payer = await shop.payer()
    payment = await paid(payer, shop.asked())
    data = abi.call("setBlacklisted(address,bool)", payer.address, True)
    owner, usdc = anvil.dev_account().address, shop.manifest.at("USDC")
    await shop.rpc.ask("eth_sendTransaction", {"from": owner, "to": usdc, "data": "0x" + data.hex()})
    with pytest.raises(PaymentInvalid, match="Blacklisted") as refused:
        await shop.facilitator.verify(payment, shop.asked())
    assert refused.value.reason == "invalid_exact_evm_transaction_simulation_failed"


async def test_a_used_authorisation_is_refused_and_its_settlement_by_a_stranger_is_found(shop: Till) -> None:
    payment = await paid(await shop.payer(), shop.asked())
    stranger, usdc = anvil.dev_account(7).address, shop.manifest.at("USDC")
    pushed = {"from": stranger, "to": usdc, "data": "0x" + transfer(payment).hex()}
    made = await shop.rpc.ask("eth_sendTransaction", pushed)
    with pytest.raises(PaymentInvalid, match="nonce_already_used"):
        await shop.facilitator.verify(payment, shop.asked())
    at = await shop.facilitator.settle(payment)
    assert at.tx == made


async def test_a_cancelled_authorisation_is_no_settlement(shop: Till) -> None:
    payer = await shop.payer()
    payment = await paid(payer, shop.asked())
    usdc, nonce = shop.manifest.at("USDC"), bytes.fromhex(payment.payload.authorization.nonce[2:])
    typehash = abi.decode(
        ("bytes32",), await shop.rpc.call(usdc, abi.call("CANCEL_AUTHORIZATION_TYPEHASH()"))
    )
    body = keccak(typehash[0] + abi.encode(("address", "bytes32"), payer.address, nonce))
    digest = Hash32(keccak(b"\x19\x01" + shop.facilitator.token.domain_separator + body))
    signature = bytes(payer.unsafe_sign_hash(digest).signature)
    data = abi.call("cancelAuthorization(address,bytes32,bytes)", payer.address, nonce, signature)
    sent = {"from": anvil.dev_account(7).address, "to": usdc, "data": "0x" + data.hex()}
    await shop.rpc.ask("eth_sendTransaction", sent)
    with pytest.raises(PaymentInvalid, match="cancelled"):
        await shop.facilitator.settle(payment)
    assert await shop.held(payer.address) == 1_000_000


async def test_of_many_settlements_at_once_over_http_one_succeeds(shop: Till) -> None:
    payer, before = await shop.payer(), await shop.held(PAYEE)
    asked = shop.asked()
    payment = await paid(payer, asked)
    payload = PaymentPayload.model_validate_json(msgspec.json.encode(payment))
    terms = X402Requirements.model_validate_json(msgspec.json.encode(asked))
    async with served(shop) as client:
        kinds = await client.get_supported()
        assert kinds.kinds[0].network == "eip155:31337"
        assert kinds.signers["eip155:*"]
        assert (await client.verify(payload, terms)).is_valid
        answers = await asyncio.gather(*(client.settle(payload, terms) for _ in range(12)))
        good = [answer for answer in answers if answer.success]
        assert [answer.payer for answer in good] == [payer.address]
        reasons = {answer.error_reason for answer in answers if not answer.success}
        assert reasons == {"invalid_exact_evm_nonce_already_used"}
        again = await client.verify(payload, terms)
        assert not again.is_valid
        assert again.invalid_reason == "invalid_exact_evm_nonce_already_used"
    assert await shop.held(PAYEE) - before == 5000


async def test_the_command_serves_alone(shop: Till, tmp_path: Path) -> None:
    manifests.write(tmp_path / "manifest.json", shop.manifest)
    url = shop.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    environment = {
        **os.environ,
        "CHAIN_RPC_URL": shop.rpc.url,
        "DATABASE_URL": url,
        "COMPUTEPOOL_STATE_DIR": str(tmp_path),
        "COMPUTEPOOL_CHAIN_MANIFEST": str(tmp_path / "manifest.json"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "facilitator", "--port", "0",
        env=environment, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        port = json.loads(line)["listening"]["port"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            answer = (await client.get("/supported")).json()
            assert answer["kinds"] == [{"x402Version": 2, "scheme": "exact", "network": "eip155:31337"}]
            assert (await client.post("/verify", content=b"{}")).status_code == 400
            asked = shop.asked()
            payment = await paid(await shop.payer(), asked)
            body = msgspec.json.encode(FacilitatorRequest(2, payment, asked))
            settled = (await client.post("/settle", content=body)).json()
            assert settled["success"]
            assert settled["transaction"].startswith("0x")
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def served(shop: Till) -> AsyncIterator[Any]:
    """x402's own client of a facilitator that listens on a free port."""
    config = uvicorn.Config(server.create_app(shop.facilitator), port=0, log_config=None)
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield Threaded(HTTPFacilitatorClient(FacilitatorConfig(url=f"http://127.0.0.1:{port}")))
    running.should_exit = True
    await task


class Threaded:
    """`get_supported` is synchronous, and the server lives in this thread's loop."""

    def __init__(self, client: HTTPFacilitatorClient) -> None:
        self.client = client
        self.verify, self.settle = client.verify, client.settle

    async def get_supported(self) -> Any:
        return await asyncio.to_thread(self.client.get_supported)


async def test_the_local_chain_gives_play_money_to_whoever_asks(shop: Till) -> None:
    account = "0x" + "7a" * 20
    assert await play_money.mint(shop.rpc, shop.manifest, account, 5) == 5
    assert await play_money.mint(shop.rpc, shop.manifest, account, 7) == 12
    stranger = msgspec.structs.replace(shop.manifest, owner=PAYEE)
    with pytest.raises(play_money.NoPlayMoney):
        await play_money.mint(shop.rpc, stranger, account, 1)
    assert await shop.held(account) == 12
