"""Moves a payment's money, once, and finds out where the chain says so. Knows nothing of sessions.

EIP-3009 lets anybody who saw a signature send it: a settlement by a stranger is one too, and is found by the
token's own events.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from events.chain import ChainRef
from services.chain import abi, logs
from services.chain.revert import named
from services.chain.rpc import CallReverted, ChainAway, Log, Rpc, RpcRefused
from services.chain.sender import Sender, SendRefused
from services.chain.transactions import GasAboveCap, ReceiptOverdue
from services.facilitator import verify
from services.facilitator.shapes import Payment, Requirements
from services.facilitator.verify import PaymentInvalid, Token, is_used, same

USED = abi.topic("AuthorizationUsed(address,bytes32)")
CANCELLED = abi.topic("AuthorizationCanceled(address,bytes32)")
MOVED = abi.topic("Transfer(address,address,uint256)")
LOOK_BACK_S = 86_400
"""A stranger's settlement is looked for in the blocks of so long ago at most."""


class SettlementPending(Exception):
    """settlement_pending: the settlement is under way and its end is not known; it must not be paid again."""

    code = "settlement_pending"
    remedy = "Ask again in a moment with the same payment; never sign a second one for it."


@dataclass
class Facilitator:
    """One token, one hot wallet. `sender.key` pays the gas and holds nothing else."""

    rpc: Rpc
    token: Token
    sender: Sender
    engine: AsyncEngine

    async def verify(self, payment: Payment, asked: Requirements) -> str:
        """Who pays. Raises PaymentInvalid, ChainAway."""
        return await verify.verify(self.rpc, self.token, payment, asked)

    async def settle_once(self, payment: Payment, asked: Requirements) -> ChainRef:
        """For callers that keep no record of their own: of all calls with one payment, one succeeds.

        Raises PaymentInvalid, SettlementPending, ChainAway.
        """
        async with self.engine.connect() as connection:
            turn = {"intent": self.intent(payment)}
            lock = text("SELECT pg_try_advisory_lock(hashtextextended(:intent, 0))")
            if not (await connection.execute(lock, turn)).scalar_one():
                raise PaymentInvalid("invalid_exact_evm_nonce_already_used", "it is being settled already")
            try:
                await self.verify(payment, asked)
                return await self.settle(payment)
            finally:
                unlock = text("SELECT pg_advisory_unlock(hashtextextended(:intent, 0))")
                await asyncio.shield(connection.execute(unlock, turn))

    def intent(self, payment: Payment) -> str:
        """The name of this settlement in the journal of transactions."""
        given = payment.payload.authorization
        return f"voucher:{self.token.chain_id}:{self.token.address}:{given.source}:{given.nonce}".lower()

    async def settle(self, payment: Payment) -> ChainRef:
        """Where the money's transfer stands, with its confirmations; the same however often it is called.

        Raises PaymentInvalid (nothing moved), SettlementPending (call again: it may have moved).
        """
        try:
            receipt = await self.sender.send(
                self.intent(payment), self.token.address, verify.transfer(payment)
            )
        except CallReverted as refused:
            return await self._by_a_stranger(payment, named(refused.data))
        except (SendRefused, GasAboveCap) as refused:
            raise PaymentInvalid("transaction_failed", str(refused)) from refused
        except (ReceiptOverdue, RpcRefused, ChainAway) as unknown:
            raise SettlementPending(str(unknown)) from unknown
        if not receipt.succeeded:
            return await self._by_a_stranger(payment, f"{receipt.transaction} was reverted")
        return await self._ref(payment, receipt.logs)

    async def _by_a_stranger(self, payment: Payment, why: str) -> ChainRef:
        """The settlement that somebody else sent. Raises PaymentInvalid, SettlementPending."""
        given = payment.payload.authorization
        try:
            if not await is_used(self.rpc, self.token, given.source, given.nonce):
                raise PaymentInvalid("transaction_failed", why)
            newest = await self.rpc.block_number() - self.sender.network.confirmations + 1
            oldest = max(0, newest - round(LOOK_BACK_S / self.sender.network.block_time_s))
            topics = (
                (USED, CANCELLED),
                bytes(12) + bytes.fromhex(given.source[2:]),
                bytes.fromhex(given.nonce[2:]),
            )
            found = await logs.between(
                self.rpc, self.sender.network, oldest, newest, [self.token.address], topics
            )
            if not found:
                raise SettlementPending(f"{why}; its settlement has not its confirmations yet")
            if found[-1].topics[0] == CANCELLED:
                raise PaymentInvalid("invalid_exact_evm_nonce_already_used", "it was cancelled")
            receipt = await self.rpc.receipt(found[-1].transaction)
            if receipt is None:
                raise SettlementPending(f"{found[-1].transaction} is on no chain at the moment")
            return await self._ref(payment, receipt.logs)
        except (ChainAway, RpcRefused) as away:
            raise SettlementPending(str(away)) from away

    async def _ref(self, payment: Payment, receipt_logs: Sequence[Log]) -> ChainRef:
        """Raises PaymentInvalid when the authorisation was cancelled, or spent on something else."""
        given = payment.payload.authorization
        for log in receipt_logs:
            if not same(log.address, self.token.address) or log.topics[0] != MOVED:
                continue
            ends = tuple("0x" + topic[12:].hex() for topic in log.topics[1:])
            value = int.from_bytes(log.data, "big")
            if ends == (given.source.lower(), given.to.lower()) and value == int(given.value):
                try:
                    block = await self.rpc.block(log.block_number)
                except (ChainAway, RpcRefused) as away:
                    raise SettlementPending(str(away)) from away
                return ChainRef(
                    self.token.chain_id,
                    log.block_number,
                    log.block_hash,
                    block.timestamp,
                    log.transaction,
                    log.index,
                )
        raise PaymentInvalid(
            "invalid_exact_evm_transfer_event_mismatch", "this authorisation did not move the money here"
        )
