"""Transactions on a real anvil with the journal in a real PostgreSQL: every intent happens once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chain import anvil, transactions
from services.chain.rpc import CallReverted, Receipt, Rpc, connected
from services.chain.sender import GIVE_UP_DEPTH, Entry, IntentChanged, Sender, SendRefused
from services.chain.transactions import ReceiptOverdue
from services.credentials import engine_of
from tests.anvil import LOCAL
from tests.postgres import database
from tests.rpc_proxy import FAULTS, rpc_proxy
from tests.tcp_proxy import TcpProxy, tcp_proxy

KEY = anvil.dev_account(4)
SOMEONE = "0x" + "5a" * 20
WITHIN_S = 60.0


@dataclass
class House:
    rpc: Rpc
    engine: AsyncEngine
    sender: Sender
    proxy: TcpProxy
    """Stands between the sender and the chain; `rpc` goes straight to it."""

    async def received(self) -> int:
        return await self.rpc.balance(SOMEONE)

    async def rows(self, intent: str) -> list[tuple[int, str]]:
        async with self.engine.connect() as connection:
            asked = text("SELECT attempt, state FROM chain_transactions WHERE intent = :i ORDER BY attempt")
            return [(row.attempt, row.state) for row in await connection.execute(asked, {"i": intent})]

    async def gift(self, intent: str, wei: int = 1) -> Receipt:
        return await self.sender.send(intent, SOMEONE, b"", value_wei=wei, within_s=WITHIN_S)

    async def submit(self, intent: str, wei: int = 1) -> Entry:
        return await self.sender.submit(intent, SOMEONE, b"", value_wei=wei)


@contextlib.asynccontextmanager
async def house(*options: str) -> AsyncIterator[House]:
    async with database() as url, anvil.running(*options) as rpc:
        engine = engine_of(url)
        async with (
            tcp_proxy(int(rpc.url.rpartition(":")[2])) as proxy,
            connected(f"http://127.0.0.1:{proxy.port}", attempts=1, timeout_s=5) as through,
        ):
            yield House(rpc, engine, Sender(through, LOCAL, KEY, engine), proxy)
        await engine.dispose()


async def test_the_same_intent_is_sent_once_however_often_it_is_asked_for() -> None:
    async with house() as h:
        receipts = await asyncio.gather(*(h.gift("rent", 7) for _ in range(8)))
        assert len({receipt.transaction for receipt in receipts}) == 1
        assert receipts[0].succeeded
        assert await h.received() == 7
        assert await h.rpc.nonce(KEY.address) == 1
        assert await h.rows("rent") == [(1, "mined")]


async def test_many_intents_from_two_processes_get_a_nonce_each() -> None:
    async with house() as h:
        other = Sender(h.rpc, LOCAL, KEY, h.engine)
        senders = [h.sender, other] * 10
        await asyncio.gather(
            *(
                sender.send(f"gift-{number}", SOMEONE, b"", value_wei=1, within_s=WITHIN_S)
                for number, sender in enumerate(senders)
            )
        )
        assert await h.received() == 20
        assert await h.rpc.nonce(KEY.address) == 20


async def test_an_intent_with_another_content_is_refused() -> None:
    async with house() as h:
        await h.gift("rent", 7)
        with pytest.raises(IntentChanged):
            await h.gift("rent", 8)
        strange = Sender(h.rpc, LOCAL, anvil.dev_account(5), h.engine)
        with pytest.raises(IntentChanged):
            await strange.send("rent", SOMEONE, b"", value_wei=7)
        assert await h.received() == 7


async def test_what_never_reached_the_node_is_sent_again_with_the_same_bytes() -> None:
    async with house() as h:
        h.proxy.cut_once(request=b"eth_sendRawTransaction")
        entry = await h.submit("rent")
        assert h.proxy.cuts == 1
        assert await h.rpc.transaction(entry.hash) is None
        (waiting,) = await h.sender.tend()
        assert waiting == entry
        assert (await h.sender.outcome("rent", WITHIN_S)).transaction == entry.hash
        assert await h.received() == 1


async def test_a_lost_answer_is_not_a_lost_transaction() -> None:
    async with house() as h:

        def look(chunk: bytes) -> bool:
            if b"eth_sendRawTransaction" in chunk:
                h.proxy.on_answer = cut
            return True

        def cut(_: bytes) -> bool:
            h.proxy.on_request = h.proxy.on_answer = lambda _: True
            h.proxy.cuts += 1
            return False

        h.proxy.on_request = look
        receipt = await h.gift("rent")
        assert h.proxy.cuts == 1
        assert receipt.succeeded
        assert await h.received() == 1
        assert await h.rows("rent") == [(1, "mined")]


@pytest.mark.parametrize("passed_on", [True, False])
@pytest.mark.parametrize("name", ["refusal -32603", "refusal -32005", "http 500 with a refusal", "garbage"])
async def test_a_node_that_fails_has_not_refused_what_was_sent(name: str, passed_on: bool) -> None:
    async with house() as h, rpc_proxy(int(h.rpc.url.rpartition(":")[2])) as proxy:
        async with connected(f"http://127.0.0.1:{proxy.port}", attempts=1) as through:
            sender = Sender(through, LOCAL, KEY, h.engine)
            proxy.passes_on = passed_on
            proxy.fault = lambda method: FAULTS[name] if method == "eth_sendRawTransaction" else None
            entry = await sender.submit("rent", SOMEONE, b"", value_wei=1)
            assert await h.rows("rent") == [(1, "signed")]
            proxy.fault = lambda _: None
            await sender.tend()
            assert (await sender.outcome("rent", WITHIN_S)).transaction == entry.hash
        assert await h.received() == 1
        assert await h.rows("rent") == [(1, "mined")]


async def test_a_transaction_that_the_node_forgot_is_sent_again() -> None:
    async with house("--no-mining") as h:
        entry = await h.submit("rent")
        await h.rpc.ask("anvil_dropTransaction", entry.hash)
        assert await h.rpc.transaction(entry.hash) is None
        with pytest.raises(ReceiptOverdue):
            await h.sender.outcome("rent", 0.2)
        await h.sender.tend()
        await h.rpc.ask("evm_mine")
        assert (await h.sender.outcome("rent", WITHIN_S)).transaction == entry.hash


async def test_a_refused_sending_gives_its_nonce_back_and_the_intent_may_be_signed_anew() -> None:
    async with house() as h:
        balance = await h.rpc.balance(KEY.address)
        await h.rpc.ask("anvil_setBalance", KEY.address, hex(10**12))
        with pytest.raises(SendRefused, match=r"[Ii]nsufficient"):
            await h.submit("rent")
        await h.rpc.ask("anvil_setBalance", KEY.address, hex(balance))
        await h.gift("other")
        receipt = await h.gift("rent")
        assert receipt.succeeded
        assert await h.rpc.nonce(KEY.address) == 2
        assert await h.rows("rent") == [(1, "refused"), (2, "mined")]


async def test_blocks_taken_back_open_the_fate_of_what_was_in_them_and_it_is_mined_once_again() -> None:
    async with house() as h:
        first = await h.gift("rent")
        before = (await h.rpc.block(first.block_number)).hash
        await h.rpc.ask("anvil_rollback", 1)
        await h.rpc.ask("evm_mine")
        assert (await h.rpc.block(first.block_number)).hash != before
        assert await h.received() == 0
        again = await h.sender.outcome("rent", WITHIN_S)
        assert again.transaction == first.transaction
        assert await h.received() == 1
        assert await h.rows("rent") == [(1, "mined")]


async def test_a_transaction_taken_back_does_not_hold_up_later_ones() -> None:
    async with house() as h:
        await h.gift("rent")
        await h.rpc.ask("anvil_rollback", 1)
        await h.submit("food")
        waiting = await h.sender.tend()
        assert "rent" in [entry.intent for entry in waiting]
        assert (await h.sender.outcome("food", WITHIN_S)).succeeded
        assert await h.received() == 2


async def test_a_nonce_that_somebody_else_used_frees_the_intent_only_when_that_is_deep() -> None:
    async with house("--no-mining") as h:
        entry = await h.submit("rent", 5)
        await h.rpc.ask("anvil_dropTransaction", entry.hash)
        fees = await transactions.fees(h.rpc, LOCAL)
        strange = transactions.sign(
            KEY, LOCAL, nonce=entry.nonce, to=KEY.address, data=b"", gas=21_000, fees=fees
        )
        await h.rpc.send(strange.raw)
        await h.rpc.ask("evm_mine")
        assert await h.sender.tend() == [entry]
        with pytest.raises(ReceiptOverdue):
            await h.sender.outcome("rent", 0.1)
        await h.rpc.ask("anvil_mine", hex(GIVE_UP_DEPTH))
        assert await h.sender.tend() == []
        await h.submit("rent", 5)
        await h.rpc.ask("evm_mine")
        assert (await h.sender.outcome("rent", WITHIN_S)).succeeded
        assert await h.received() == 5
        assert await h.rows("rent") == [(1, "lost"), (2, "mined")]


async def test_a_gap_in_the_nonces_is_closed_so_that_later_ones_are_mined() -> None:
    async with house("--no-mining") as h:
        first, second = await h.submit("first"), await h.submit("second")
        assert second.nonce == first.nonce + 1
        await h.rpc.ask("anvil_dropTransaction", first.hash)
        async with h.engine.begin() as connection:
            await connection.execute(
                text("UPDATE chain_transactions SET state = 'refused' WHERE intent = 'first'")
            )
        await h.sender.tend()
        await h.rpc.ask("evm_mine")
        assert (await h.sender.outcome("second", WITHIN_S)).succeeded
        assert await h.rpc.nonce(KEY.address, "latest") == 2


async def test_a_revert_is_a_receipt_that_did_not_succeed() -> None:
    """The call is fine when it is signed and reverts when it is mined: no estimate can see that."""
    async with house("--no-mining") as h:
        await h.submit("rent")
        always_reverts = "0x5f5ffd"
        await h.rpc.ask("anvil_setCode", SOMEONE, always_reverts)
        await h.rpc.ask("evm_mine")
        assert not (await h.sender.outcome("rent", WITHIN_S)).succeeded
        with pytest.raises(CallReverted):
            await h.submit("again")
        assert await h.rows("again") == []


async def test_nobody_waits_for_the_database_while_another_waits_for_the_chain() -> None:
    """A node that hangs must not take every connection of the pool, which others need."""
    told = asyncio.Event()

    async def late(_: web.Request, __: bytes, there: bytes) -> web.StreamResponse:
        await told.wait()
        return web.Response(body=there, content_type="application/json")

    async with house() as h, rpc_proxy(int(h.rpc.url.rpartition(":")[2])) as proxy:
        async with connected(f"http://127.0.0.1:{proxy.port}", attempts=1, timeout_s=30) as through:
            sender = Sender(through, LOCAL, KEY, h.engine)
            proxy.fault = lambda method: late if method == "eth_getTransactionCount" else None
            sending = [
                asyncio.create_task(sender.submit(f"gift-{number}", SOMEONE, b"", value_wei=1))
                for number in range(40)
            ]
            async with asyncio.timeout(25):
                while proxy.erred < len(sending):
                    await asyncio.sleep(0.01)
                assert await h.rows("gift-0") == []
            told.set()
            await asyncio.gather(*sending)
        assert await h.rpc.nonce(KEY.address) == 40
