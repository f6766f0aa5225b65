"""Paid sessions over HTTP: what is asked, what is refused and why, and one session for one voucher.

Real gateway, log, database, and anvil with the real contracts; payers are x402's own client. Nothing streams.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from eth_account.signers.local import LocalAccount
from sqlalchemy import text

from services import vouchers
from services.facilitator.shapes import (
    REQUIRED,
    RESPONSE,
    SIGNATURE,
    Payment,
    Required,
    Settlement,
    from_header,
)
from services.gateway import session_keys
from services.typed_data import sign_typed
from services.vouchers import VoucherRow
from shard_runtime import messages
from tests.contract.gateway_house import Peer, until
from tests.market import CHAT, Market, market_of
from tests.paid_chain import RATE
from tests.paying import signed_anew

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def market(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    directory = tmp_path_factory.mktemp("market")
    async with market_of(directory, _never, COMPUTEPOOL_STREAM_START_WITHIN_S="1") as built:
        yield built


async def _never(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
    """Whatever got here was computed without its money: the tests look at `peer.generated`."""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/sessions"])
async def test_what_is_not_paid_is_answered_by_402_with_terms_that_stand_for_an_escrow(
    market: Market, path: str
) -> None:
    answer = await market.post(path, "alpha", token="sk-anything" if path.startswith("/v1") else None)
    assert answer.status_code == 402
    body = answer.json()
    assert (body["error"] if path.startswith("/v1") else body)["code"] == "payment_required"
    required = from_header(answer.headers[REQUIRED], Required)
    (offer,) = required.accepts
    assert (offer.scheme, offer.network) == ("exact", "eip155:31337")
    assert offer.extra["paymentFlow"] == "upfront"
    assert offer.extra["computepool"]["terms"]["rate"] == str(RATE)
    assert await market.chain.rpc.code(offer.pay_to) == b""
    assert await market.sessions() == []


async def test_a_prompt_that_is_too_long_is_told_before_any_payment(market: Market) -> None:
    long = [{"role": "user", "content": "word " * 500}]
    answer = await market.post("/v1/chat/completions", "alpha", messages=long)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_priced_pool_without_a_coalition_takes_no_money(market: Market) -> None:
    answer = await market.post("/sessions", "unopened")
    assert (answer.status_code, answer.json()["code"]) == (503, "pool_unavailable")


async def test_a_budget_outside_what_the_pool_takes_is_refused(market: Market) -> None:
    for budget in (99_999, 1_000_000_001):
        answer = await market.post("/sessions", "alpha", budget_micro=budget)
        assert (answer.status_code, answer.json()["param"]) == (400, "budget_micro")
    assert (await market.asked(budget_micro=123_456)).accepts[0].amount == "123456"


async def test_every_wrong_payment_is_402_with_its_reason_and_starts_nothing(market: Market) -> None:
    payer, stranger = await market.till.payer(2_000_000), await market.till.payer(2_000_000)
    poor = await market.till.payer(99_999)
    required = await market.asked("/v1/chat/completions")
    good, now = await market.voucher(payer, required), int(time.time())
    (offer,) = required.accepts
    replace = msgspec.structs.replace

    def accepting(**changed: Any) -> Payment:
        return replace(good, accepted=replace(offer, **changed))

    ours = offer.extra["computepool"]
    cheap = {**offer.extra, "computepool": {**ours, "terms": {**ours["terms"], "rate": "1000000000000"}}}
    other_pool = await market.voucher(payer, await market.asked("/v1/chat/completions", "beta"))
    wrong = [
        ("invalid_exact_evm_payload_signature", signed_anew(stranger, market.till, good)),
        ("invalid_exact_evm_payload_signature", signed_anew(payer, market.till, good, chain_id=1)),
        (
            "invalid_exact_evm_payload_authorization_valid_before",
            signed_anew(payer, market.till, good, valid_before=str(now - 1)),
        ),
        ("network_mismatch", accepting(network="eip155:1")),
        ("invalid_exact_evm_asset_mismatch", accepting(asset="0x" + "66" * 20)),
        (
            "invalid_exact_evm_payload_authorization_value_mismatch",
            signed_anew(payer, market.till, good, value=str(int(offer.amount) - 1)),
        ),
        ("invalid_exact_evm_insufficient_balance", await market.voucher(poor, required)),
        ("terms_tampered", accepting(extra=cheap)),
        ("terms_tampered", accepting(max_timeout_seconds=1)),
        ("terms_unknown", accepting(extra={})),
        ("payment_for_another_pool", other_pool),
    ]
    cheaper = replace(offer, amount="1")
    wrong.append(("terms_tampered", await market.voucher(payer, replace(required, accepts=(cheaper,)))))
    elsewhere = replace(offer, pay_to=stranger.address)
    wrong.append(("terms_tampered", await market.voucher(payer, replace(required, accepts=(elsewhere,)))))
    for reason, payment in wrong:
        answer = await market.post("/v1/chat/completions", "alpha", payment)
        assert answer.status_code == 402, answer.text
        assert from_header(answer.headers[REQUIRED], Required).error == reason
        assert from_header(answer.headers[RESPONSE], Settlement).error_reason == reason
        assert reason in answer.json()["error"]["message"]
    for header in ("!", "e30=", "x" * 20_000):
        async with market.house.client(None) as client:
            body = {"model": "alpha", **CHAT}
            answer = await client.post("/v1/chat/completions", json=body, headers={SIGNATURE: header})
        assert answer.status_code == 402
        assert from_header(answer.headers[REQUIRED], Required).error == "invalid_payload"
    assert await market.till.held(payer.address) == 2_000_000
    assert await market.sessions() == []
    assert market.peer.generated == []


async def test_one_voucher_fifty_times_at_once_on_several_routes_and_pools_is_one_session(
    market: Market,
) -> None:
    payer = await market.till.payer(10_000_000)
    required = await market.asked()
    payment = await market.voucher(payer, required)
    ways = [
        (path, model)
        for path in ("/sessions", "/v1/chat/completions", "/v1/completions")
        for model in ("alpha", "beta")
    ]
    answers = await asyncio.gather(*(market.post(*ways[n % len(ways)], payment) for n in range(50)))
    # without a keeper a generating request that won ends with 503, its session stays
    won = [one for one in answers if one.status_code in (201, 503)]
    assert len(won) == 1, [
        (one.status_code, one.text) for one in answers if one.status_code not in (402, 409)
    ]
    lost = [one for one in answers if one is not won[0]]
    assert {one.status_code for one in lost} <= {402, 409}
    session_id = won[0].headers["x-computepool-session"]
    for one in lost:
        if one.status_code == 409:
            assert "payment_already_used" in one.text
            assert one.headers["x-computepool-session"] == session_id
            assert session_keys.HEADER not in one.headers
    assert [one["session_id"] for one in await market.sessions()] == [session_id]
    amount = int(required.accepts[0].amount)
    assert await market.till.held(payer.address) == 10_000_000 - amount
    assert await market.till.held(required.accepts[0].pay_to) == amount
    async with market.till.engine.connect() as connection:
        sent = text("SELECT count(*) FROM chain_transactions WHERE intent LIKE 'voucher:%' || :nonce")
        nonce = {"nonce": payment.payload.authorization.nonce.lower()}
        assert (await connection.execute(sent, nonce)).scalar_one() == 1
    again = await market.post("/sessions", "alpha", payment)
    assert (again.status_code, again.headers["x-computepool-session"]) == (409, session_id)
    assert market.peer.generated == []


async def test_a_paid_request_whose_money_does_not_flow_is_not_computed_and_not_paid_twice(
    market: Market,
) -> None:
    payer = await market.till.payer()
    payment = await market.voucher(payer, await market.asked("/v1/chat/completions"))
    answer = await market.post("/v1/chat/completions", "alpha", payment)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stream_not_started")
    assert answer.headers["x-should-retry"] == "false"
    assert from_header(answer.headers[RESPONSE], Settlement).success
    assert market.peer.generated == []
    key = answer.headers[session_keys.HEADER]

    async def is_shown() -> bool:
        shown = (await client.get(f"/sessions/{answer.headers['x-computepool-session']}")).json()
        return bool(shown["request_list"][0]["error_code"] == "stream_not_started")

    async with market.house.client(key) as client:
        await until(is_shown)


async def test_a_session_key_opens_its_session_alone_and_closing_asks_for_money_again(market: Market) -> None:
    payer = await market.till.payer(10_000_000)
    first, second = [
        (await market.post("/sessions", "alpha", await market.voucher(payer, await market.asked()))).json()
        for _ in range(2)
    ]
    assert first["payer"] == payer.address.lower()
    async with market.house.client(first["session_key"]) as client:
        listed = (await client.get("/sessions")).json()["items"]
        assert [one["session_id"] for one in listed] == [first["session_id"]]
        assert (await client.get(f"/sessions/{second['session_id']}")).status_code == 404
        assert (await client.post(f"/sessions/{second['session_id']}/settle")).status_code == 404
        assert (await client.post("/keys", json={})).status_code == 403
        wrong_pool = await client.post("/v1/chat/completions", json={"model": "beta", **CHAT})
        assert wrong_pool.json()["error"]["code"] == "session_not_of_pool"
        assert (await client.post(f"/sessions/{first['session_id']}/settle")).status_code == 200
        closed = await client.post("/v1/chat/completions", json={"model": "alpha", **CHAT})
        assert closed.status_code == 402
        assert REQUIRED in closed.headers
    forged = first["session_key"][:-1] + ("0" if first["session_key"][-1] != "0" else "1")
    assert (await market.post("/v1/chat/completions", "alpha", token=forged)).status_code == 401


async def test_a_lost_key_is_given_again_for_the_payers_signature_alone(market: Market) -> None:
    payer, stranger = await market.till.payer(), await market.till.payer()
    paid = (await market.post("/sessions", "alpha", await market.voucher(payer, await market.asked()))).json()
    path, soon = f"/sessions/{paid['session_id']}/key", int(time.time()) + 300

    async def asked(account: LocalAccount, deadline: int) -> httpx.Response:
        signature = "0x" + sign_typed(account, session_keys.asking(paid["session_id"], deadline, 31337))
        async with market.house.client(None) as client:
            return await client.post(path, json={"deadline": deadline, "signature": signature})

    assert (await asked(payer, soon)).json()["session_key"] == paid["session_key"]
    for account, deadline in ((stranger, soon), (payer, soon - 400), (payer, soon + 4000)):
        refused = await asked(account, deadline)
        assert (refused.status_code, refused.json()["code"]) == (403, "key_request_forged")


async def test_what_a_gateway_left_claimed_is_brought_to_its_end_by_the_next(market: Market) -> None:
    payer = await market.till.payer()
    required = await market.asked()
    payment = await market.voucher(payer, required)
    (offer,) = required.accepts
    ours, signed = offer.extra["computepool"], payment.payload
    voucher = {**msgspec.to_builtins(signed.authorization), "signature": signed.signature}
    row = VoucherRow(
        31337, offer.asset, payer.address, signed.authorization.nonce, ours["session"], ours["pool"],
        offer.pay_to, ours["terms"], voucher,
    )  # fmt: skip
    assert await vouchers.take(market.till.engine, row) is not None
    before = await market.till.held(payer.address)

    async def settled() -> bool:
        found = await vouchers.of_session(market.till.engine, ours["session"])
        return found is not None and found.state == "settled"

    await until(settled)
    assert await market.till.held(payer.address) == before - int(offer.amount)
    assert ours["session"] in {one["session_id"] for one in await market.sessions()}
    answer = await market.post("/sessions", "alpha", payment)
    assert (answer.status_code, json.loads(answer.text)["code"]) == (409, "payment_already_used")


async def test_a_pool_whose_coalition_has_ended_its_epoch_takes_no_money_until_it_opens_another(
    market: Market,
) -> None:
    """And does not let an open session start what it could not pay for; that session stays open."""
    payer = await market.till.payer(2_000_000)
    paid = await market.post(
        "/sessions", "beta", await market.voucher(payer, await market.asked(model="beta"))
    )
    assert paid.status_code == 201, paid.text
    key = paid.json()["session_key"]
    at, position = await market.end_epoch("beta")
    for answer in (
        await market.post("/sessions", "beta"),
        await market.post("/v1/chat/completions", "beta"),
        await market.post("/v1/chat/completions", "beta", token=key),
    ):
        assert answer.status_code == 503, answer.text
        assert (answer.json().get("error") or answer.json())["code"] == "pool_unavailable"
    shown = await market.pool("beta", position)
    assert [shown[name] for name in ("gda_pool", "paid_epoch", "chain_epoch")] == [None, None, 1]
    assert shown["coalition"] == market.chain.coalition
    (kept,) = [one for one in await market.sessions() if one["session_id"] == paid.json()["session_id"]]
    assert kept["status"] == "open"
    await market.take_back_end("beta", at)
    assert (await market.asked(model="beta")).accepts
