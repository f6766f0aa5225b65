"""Takes payments for sessions: offers terms, and turns one voucher into one open session, whatever crashes.

Order: verify; a unique row; `session.payment_verified`; the transfer; `session.payment_settled` and
`session.opened`. A row that was claimed is brought to its end by whoever finds it. Knows no HTTP.
"""

import asyncio
import contextlib
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from events import payment as money
from events.chain import EscrowTerms
from events.envelope import Cause
from events.shares import WEI_PER_MICRO
from services import vouchers
from services.chain import manifest
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.networks import Network, network_of
from services.chain.rpc import ChainAway, Rpc, connected
from services.chain.sender import Sender
from services.chain.wallets import fund_local, keeper_address, wallet
from services.facilitator import verify
from services.facilitator.settle import Facilitator, SettlementPending
from services.facilitator.shapes import Authorization, NotX402, Payment, Requirements, Signed, from_header
from services.facilitator.verify import PaymentInvalid, token_at
from services.gateway import quotes
from services.gateway.gone import cancel_all
from services.gateway.quotes import EscrowTermsJson, Quote, QuoteInvalid, Wanted
from services.gateway.refusals import ChainAwayProblem, InvalidRequest, PaymentAlreadyUsed
from services.gateway.secret import Secret
from services.handle import handle
from services.log import EventLog, LogUnavailable
from services.settings import Settings
from services.vouchers import VoucherRow

log = structlog.get_logger("gateway")
RESUME_EVERY_S = 1.0
SESSION_HEADER = "x-computepool-session"
NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients honour it: a retry of theirs would be answered 402 and pay a second time."""


class PaymentRefused(Exception):
    """payment_refused: a payment was not taken, nothing was started; `reason` says why."""

    code = "payment_refused"
    remedy = "Sign a new payment for the terms of the last 402."

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Offer:
    quote: Quote
    requirements: Requirements


@dataclass(frozen=True)
class Paid:
    """`transaction` moved `micro` from `payer` to the session's escrow."""

    session_id: str
    payer: str
    transaction: str
    network: str
    micro: str


@dataclass(frozen=True)
class Chain:
    """What is known once the chain has answered."""

    network: Network
    rpc: Rpc
    facilitator: Facilitator
    factory: Contract
    controller: str


@dataclass
class Till:
    settings: Settings
    events: EventLog
    engine: AsyncEngine
    secret: Secret
    _chain: Chain | None = None
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    _settling: dict[str, "asyncio.Task[Paid]"] = field(default_factory=dict)
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def close(self) -> None:
        await cancel_all(*self._settling.values())
        await self._open.aclose()

    async def chain(self) -> Chain:
        """Connected at the first use. Raises ChainAwayProblem."""
        async with self._connecting:
            if self._chain is None:
                try:
                    self._chain = await self._connect()
                except (ChainAway, manifest.NotDeployed, PaymentInvalid) as away:
                    raise ChainAwayProblem(str(away)) from away
            return self._chain

    async def _connect(self) -> Chain:
        url = self.settings.chain_rpc_url
        if not url:
            raise ChainAwayProblem("This gateway has no chain: CHAIN_RPC_URL is not set.")
        rpc = await self._open.enter_async_context(connected(url))
        chain_id = await rpc.chain_id()
        if chain_id != self.settings.chain_id:
            raise ChainAwayProblem(
                f"The chain is {chain_id}; COMPUTEPOOL_CHAIN_ID is {self.settings.chain_id}."
            )
        network = network_of(chain_id)
        known = manifest.read(self.settings.manifest_of(chain_id))
        hot = wallet(self.settings, "facilitator")
        await fund_local(rpc, hot.address)
        token = await token_at(rpc, chain_id, known.at("USDC"))
        facilitator = Facilitator(rpc, token, Sender(rpc, network, hot, self.engine), self.engine)
        factory = Contract(artifact("SessionEscrowFactory"), known.at("SessionEscrowFactory"))
        return Chain(network, rpc, facilitator, factory, keeper_address(self.settings))

    async def offer(self, wanted: Wanted) -> Offer:
        """Raises ChainAwayProblem, InvalidRequest (more than the coalition takes)."""
        chain = await self.chain()
        try:
            limit_micro, longest_s = await self._limits_of(chain, wanted.coalition)
            quote = quotes.quote_of(
                wanted, chain.controller, self.settings.least_voucher_micro, int(time.time())
            )
            longest_s -= quotes.GRACE_S
            if wanted.ttl_s > longest_s:
                raise InvalidRequest(f"A session of this pool lasts {longest_s} s at most.", param="ttl_s")
            if not self.settings.least_voucher_micro <= quote.cap_micro <= limit_micro:
                raise InvalidRequest(
                    f"A session of this pool takes {self.settings.least_voucher_micro} to {limit_micro}"
                    f" micro-USDC; this one would take {quote.cap_micro}.",
                    param="budget_micro",
                )
            escrow = await chain.factory.read(chain.rpc, "addressOf", quote.terms.as_contract())
        except ChainAway as away:
            raise ChainAwayProblem(str(away)) from away
        return Offer(quote, quotes.offer(self.secret, chain.facilitator.token, quote, str(escrow)))

    async def _limits_of(self, chain: Chain, coalition: str) -> tuple[int, int]:
        """(micro-USDC, seconds) at most in one session; a coalition never changes them."""
        if coalition not in self._limits:
            contract = Contract(artifact("Coalition"), coalition)
            limit = await contract.read(chain.rpc, "sessionLimit")
            self._limits[coalition] = (limit, await contract.read(chain.rpc, "longestSession"))
        return self._limits[coalition]

    async def pay(self, header: str, pool_id: str, correlation_id: str) -> Paid:
        """The session that this payment opened. Raises PaymentRefused, PaymentAlreadyUsed, SettlementPending,
        ChainAwayProblem, LogUnavailable. Once the row is taken, a caller who goes away stops nothing.
        """
        chain = await self.chain()
        facilitator = chain.facilitator
        try:
            given = from_header(header, Payment)
            accepted = given.accepted
            verify.check_terms(facilitator.token, given, accepted)
            payer = verify.check_signature(facilitator.token, given)
            quote = quotes.recognised(self.secret, accepted)
            await self._check_unused(chain, payer, given)
            quotes.check_use(quote, pool_id, int(time.time()))
            await facilitator.verify(given, accepted)
        except NotX402 as broken:
            raise PaymentRefused("invalid_payload", str(broken)) from broken
        except (PaymentInvalid, QuoteInvalid) as invalid:
            raise PaymentRefused(invalid.reason, invalid.detail) from invalid
        except ChainAway as away:
            raise ChainAwayProblem(str(away)) from away
        row = _row(chain, quote, given, payer)
        taken = await vouchers.take(self.engine, row)
        if taken is None:
            await self._check_unused(chain, payer, given)
            raise PaymentRefused("quote_used", "these terms were paid by another voucher")
        return await asyncio.shield(self._in_background(taken, correlation_id))

    async def resume(self) -> None:
        """Bring what an earlier gateway left claimed to its end; then again and again, until cancelled."""
        while True:
            with contextlib.suppress(ChainAwayProblem, LogUnavailable, SQLAlchemyError):
                for row in await vouchers.in_state(self.engine, "claimed"):
                    with contextlib.suppress(PaymentRefused, SettlementPending):
                        await self._in_background(row, row.session_id)
            await asyncio.sleep(RESUME_EVERY_S)

    async def _check_unused(self, chain: Chain, payer: str, given: Payment) -> None:
        """Raises PaymentAlreadyUsed."""
        nonce, token = given.payload.authorization.nonce, chain.facilitator.token
        known = await vouchers.of_nonce(self.engine, token.chain_id, token.address, payer, nonce)
        if known is not None:
            raise PaymentAlreadyUsed(
                f"This payment was used for session {known.session_id}, which is {known.state}.",
                headers={SESSION_HEADER: known.session_id, **NO_RETRY},
            )

    def _in_background(self, row: VoucherRow, correlation_id: str) -> "asyncio.Task[Paid]":
        """One task per session in this process; its end does not depend on who waits for it."""
        running = self._settling.get(row.session_id)
        if running is None:
            running = asyncio.create_task(self._finish(row, correlation_id))
            self._settling[row.session_id] = running
            running.add_done_callback(lambda task: self._forget(row.session_id, task))
        return running

    def _forget(self, session_id: str, task: "asyncio.Task[Paid]") -> None:
        del self._settling[session_id]
        if not task.cancelled() and task.exception() is not None:
            log.warning("payment_not_finished", session_id=session_id, why=repr(task.exception()))

    async def _finish(self, row: VoucherRow, correlation_id: str) -> Paid:
        """From a claimed row to an open session, or to a failed one; each step once, however often it runs.

        Raises PaymentRefused, SettlementPending, LogUnavailable, ChainAwayProblem.
        """
        chain = await self.chain()

        async def step(name: str, command: money.PaymentCommand) -> None:
            command_id = f"voucher-{row.session_id}-{name}"
            cause = Cause(command_id, correlation_id, command_id, time.time_ns() // 1_000_000)
            await handle(self.events, "session", row.session_id, command, cause)

        await step("verified", money.VerifyPayment(_verified(row)))
        given = _payment(chain, row)
        try:
            at = await chain.facilitator.settle(given)
        except PaymentInvalid as invalid:
            await step("failed", money.FailPayment(invalid.reason))
            await vouchers.move(self.engine, row.session_id, "failed", invalid.reason)
            raise PaymentRefused(invalid.reason, invalid.detail) from invalid
        await step("settled", money.ConfirmPayment(at))
        await vouchers.move(self.engine, row.session_id, "settled")
        micro = given.payload.authorization.value
        log.info("session_paid", session_id=row.session_id, payer=row.payer, micro=micro, transaction=at.tx)
        return Paid(row.session_id, row.payer, at.tx, chain.facilitator.token.network, micro)


def _row(chain: Chain, quote: Quote, given: Payment, payer: str) -> VoucherRow:
    signed, token = given.payload, chain.facilitator.token
    voucher = {**msgspec.to_builtins(signed.authorization), "signature": signed.signature}
    del voucher["to"]
    nonce, terms = signed.authorization.nonce, msgspec.to_builtins(quote.terms)
    return VoucherRow(
        token.chain_id, token.address, payer, nonce, quote.session, quote.pool, signed.authorization.to,
        terms, voucher,
    )  # fmt: skip


def _payment(chain: Chain, row: VoucherRow) -> Payment:
    """The payment of a row, as it was sent."""
    token, given = chain.facilitator.token, {**row.voucher, "to": row.escrow}
    authorization = msgspec.convert(given, Authorization)
    terms = Requirements("exact", token.network, token.address, authorization.value, row.escrow, 0)
    return Payment(2, terms, Signed(row.voucher["signature"], authorization))


def _verified(row: VoucherRow) -> money.PaymentVerified:
    terms = msgspec.convert(row.terms, EscrowTermsJson)
    cap_wei = int(row.voucher["value"]) * WEI_PER_MICRO
    agreed = EscrowTerms(row.pool_id, row.chain_id, row.escrow, row.payer, terms.rate, str(cap_wei))
    return money.PaymentVerified(
        row.asset,
        row.nonce.removeprefix("0x"),
        agreed,
        max_concurrent=int(terms.max_concurrent),
        single_request=False,
        close_by_unix_ms=quotes.close_by_unix_ms(terms),
    )
