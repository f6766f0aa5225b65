"""Sends transactions so that an intent happens once: journalled before it is sent, never signed twice.

The journal is the table chain_transactions. An intent (any text, such as an event's id) has at most one
transaction whose fate is open or which was mined; only when that one can never be mined any more is another
signed. Nonces are slots: the lowest free one is taken, so a refused sending leaves no gap for long.
Knows no contract.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from eth_account.signers.local import LocalAccount
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chain import logs, transactions
from services.chain.networks import Network
from services.chain.rpc import ChainAway, Receipt, Rpc, RpcRefused

LIVE = "state IN ('signed', 'mined')"
LANE = "chain_id = :chain_id AND sender = :sender"
COLUMNS = "chain_id, sender, intent, attempt, nonce, to_address, data, value_wei, raw, hash, state"
ALREADY = ("already known", "already imported", "known transaction", "already in mempool")
RESEND_EVERY_S = 5.0
GIVE_UP_DEPTH = 12
"""Blocks beyond the confirmations, so that a node that lags behind another is not taken for a denial."""


class IntentChanged(Exception):
    """intent_changed: this intent was signed before with another content; two contents need two intents."""

    code = "intent_changed"


class SendRefused(Exception):
    """send_refused: the node refused a new transaction, which nobody else has: nothing happened."""

    code = "send_refused"
    remedy = "The message quotes the node; most often the account lacks coins for gas."


@dataclass(frozen=True)
class Entry:
    """A row of the journal. `state`: signed (fate open), mined, refused or lost (both: never to be mined)."""

    chain_id: int
    sender: str
    intent: str
    attempt: int
    nonce: int
    to: str
    data: bytes
    value_wei: int
    raw: bytes
    hash: str
    state: str


class Sender:
    """One account on one chain. Any number of processes may send for it: PostgreSQL makes them take turns."""

    def __init__(self, rpc: Rpc, network: Network, key: LocalAccount, engine: AsyncEngine) -> None:
        self.rpc = rpc
        self.network = network
        self.key = key
        self._engine = engine
        self._lane: dict[str, Any] = {"chain_id": network.chain_id, "sender": key.address}

    async def send(
        self, intent: str, to: str, data: bytes, *, value_wei: int = 0, within_s: float | None = None
    ) -> Receipt:
        """`submit`, then `outcome`."""
        await self.submit(intent, to, data, value_wei=value_wei)
        return await self.outcome(intent, within_s)

    async def known(self, intent: str) -> Entry | None:
        """What was signed for it, when its fate is open or it was mined."""
        return await self._live(intent)

    async def submit(
        self,
        intent: str,
        to: str,
        data: bytes,
        *,
        value_wei: int = 0,
        tip_wei: int = 0,
        gas_margin: float = transactions.GAS_MARGIN,
    ) -> Entry:
        """Sign, write down and send; or what was written down for this intent before.

        `tip_wei`: the least priority fee, when that is more than the network's. A lost answer is no error
        here: `outcome` and `tend` send the same bytes again. Raises CallReverted, GasAboveCap (nothing was
        signed), SendRefused (signed, and known to be worthless), IntentChanged, ChainAway (before anything
        was signed).
        """
        known = await self._live(intent)
        if known is None:
            gas = await transactions.gas_for(
                self.rpc, self.network, self.key.address, to, data, value_wei, gas_margin
            )
            known, new = await self._sign(intent, to, data, value_wei, gas, tip_wei)
            if new:
                await self._send_first(known)
        ours = (self.network.chain_id, self.key.address, to, data, value_wei)
        if (known.chain_id, known.sender, known.to, known.data, known.value_wei) != ours:
            raise IntentChanged(f"{intent} was signed as {known.hash} with another content or account")
        return known

    async def outcome(self, intent: str, within_s: float | None = None) -> Receipt:
        """The receipt once it has its confirmations; `succeeded` tells a revert. Raises ReceiptOverdue.

        Ask again for the same intent after an overdue one, also after a restart: nothing is signed anew.
        """
        within_s = self.network.receipt_within_s if within_s is None else within_s
        deadline, poll_s, resend_at = time.monotonic() + within_s, 0.02, time.monotonic() + RESEND_EVERY_S
        while True:
            entry = await self._live(intent)
            if entry is None:
                raise transactions.ReceiptOverdue(f"{intent} has no live transaction: submit it again")
            receipt = await self._confirmed(entry)
            if receipt is not None:
                return receipt
            if time.monotonic() > deadline:
                raise transactions.ReceiptOverdue(
                    f"{entry.hash} has no confirmed receipt after {within_s:.0f} s"
                )
            if entry.state == "mined" or time.monotonic() > resend_at:
                await self._resend(entry)
                resend_at = time.monotonic() + RESEND_EVERY_S
            await asyncio.sleep(poll_s)
            poll_s = min(poll_s * 1.5, self.network.block_time_s / 2)

    async def tend(self) -> list[Entry]:
        """Once at start and then now and then: sends again what waits, closes gaps; returns what still waits.

        A mined one waits again when the chain took its block back: those after it need its nonce. Raises
        ChainAway.
        """
        waiting = []
        mined = await self.rpc.nonce(self.key.address, "latest")
        open_ = f"{LANE} AND (state = 'signed' OR state = 'mined' AND nonce >= :mined)"
        for entry in await self._rows(open_, **self._lane, mined=mined):
            if await self._confirmed(entry) is None and not await self._give_up(entry):
                await self._resend(entry)
                waiting.append(entry)
        await self._close_gap(waiting)
        return waiting

    async def _sign(
        self, intent: str, to: str, data: bytes, value_wei: int, gas: int, tip_wei: int
    ) -> tuple[Entry, bool]:
        """Written down before anybody sees it. False: another process was quicker with the same intent."""
        fees = await transactions.fees(self.rpc, self.network, tip_wei)
        mined = await self.rpc.nonce(self.key.address, "latest")
        async with self._engine.begin() as connection:
            await connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:lane, 0))"),
                {"lane": f"{self.network.chain_id}:{self.key.address}"},
            )
            known = await self._live(intent, connection)
            if known is not None:
                return known, False
            nonce = await self._free_nonce(connection, mined)
            signed = transactions.sign(
                self.key, self.network, nonce=nonce, to=to, data=data, gas=gas, fees=fees, value_wei=value_wei
            )
            written = await connection.execute(
                text(
                    "INSERT INTO chain_transactions (intent, attempt, chain_id, sender, nonce,"
                    " to_address, data, value_wei, raw, hash, state)"
                    " SELECT :intent, count(*) + 1, :chain_id, :sender, :nonce,"
                    " :to, :data, :value_wei, :raw, :hash, 'signed'"
                    f" FROM chain_transactions WHERE intent = :intent RETURNING {COLUMNS}"
                ),
                {
                    **self._lane,
                    "intent": intent,
                    "nonce": nonce,
                    "to": to,
                    "data": data,
                    "value_wei": value_wei,
                    "raw": signed.raw,
                    "hash": signed.hash,
                },
            )
            return _entry(written.one()), True

    async def _free_nonce(self, connection: AsyncConnection, mined: int) -> int:
        """The lowest from `mined` on that no live row has.

        `mined` may be a moment old, for the chain is never asked while others wait for this lane: what was
        mined since has rows.
        """
        rows = await connection.execute(
            text(f"SELECT nonce FROM chain_transactions WHERE {LANE} AND nonce >= :mined AND {LIVE}"),
            {**self._lane, "mined": mined},
        )
        taken = {row.nonce for row in rows}
        return next(nonce for nonce in range(mined, mined + len(taken) + 1) if nonce not in taken)

    async def _send_first(self, entry: Entry) -> None:
        """Only here is a refusal final: these bytes were never given to anybody before.

        A node that fails may have passed them on before it did.
        """
        try:
            await self.rpc.send(entry.raw)
        except ChainAway:
            return
        except RpcRefused as refused:
            if refused.of_the_node or any(word in refused.message.lower() for word in ALREADY):
                return
            if await self.rpc.transaction(entry.hash) is not None:
                return
            await self._mark(entry, "refused")
            raise SendRefused(str(refused)) from refused

    async def _resend(self, entry: Entry) -> None:
        """Whatever the node says: the receipt decides."""
        try:
            await self.rpc.send(entry.raw)
        except (RpcRefused, ChainAway):
            return

    async def _confirmed(self, entry: Entry) -> Receipt | None:
        """The receipt when it is deep enough; a mined one that the chain took back is open again."""
        receipt = await self.rpc.receipt(entry.hash)
        if receipt is not None:
            depth = await self.rpc.block_number() - receipt.block_number + 1
            on_chain = await logs.is_canonical(self.rpc, receipt.block_number, receipt.block_hash)
            if depth >= self.network.confirmations and on_chain:
                if entry.state != "mined":
                    await self._mark(entry, "mined")
                return receipt
        if entry.state == "mined":
            await self._mark(entry, "signed")
        return None

    async def _give_up(self, entry: Entry) -> bool:
        """True when another transaction with this nonce is deep in the chain: this one can never be mined."""
        head = await self.rpc.block_number()
        deep = head - self.network.confirmations + 1 - GIVE_UP_DEPTH
        try:
            if deep < 0 or await self.rpc.nonce(self.key.address, deep) <= entry.nonce:
                return False
        except (
            RpcRefused
        ):  # The node keeps no state of so old a block: nothing is known, so nothing given up.
            return False
        if await self.rpc.receipt(entry.hash) is not None:
            return False
        await self._mark(entry, "lost")
        return True

    async def _close_gap(self, waiting: list[Entry]) -> None:
        """A nonce that a refused transaction gave back holds up all later ones: take it with an empty one."""
        mined = await self.rpc.nonce(self.key.address, "latest")
        nonces = {entry.nonce for entry in waiting}
        if nonces and mined < min(nonces):
            await self.submit(
                f"gap:{self.network.chain_id}:{self.key.address}:{mined}", self.key.address, b""
            )

    async def _live(self, intent: str, connection: AsyncConnection | None = None) -> Entry | None:
        found = await self._rows(f"intent = :intent AND {LIVE}", connection, intent=intent)
        return found[0] if found else None

    async def _rows(
        self, condition: str, connection: AsyncConnection | None = None, **values: Any
    ) -> list[Entry]:
        statement = text(f"SELECT {COLUMNS} FROM chain_transactions WHERE {condition} ORDER BY nonce")
        if connection is not None:
            return [_entry(row) for row in await connection.execute(statement, values)]
        async with self._engine.connect() as own:
            return [_entry(row) for row in await own.execute(statement, values)]

    async def _mark(self, entry: Entry, state: str) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(
                text(
                    "UPDATE chain_transactions SET state = :state, moved_at = now()"
                    " WHERE intent = :intent AND attempt = :attempt"
                ),
                {"state": state, "intent": entry.intent, "attempt": entry.attempt},
            )


def _entry(row: Any) -> Entry:
    return Entry(
        row.chain_id,
        row.sender,
        row.intent,
        row.attempt,
        row.nonce,
        row.to_address,
        bytes(row.data),
        int(row.value_wei),
        bytes(row.raw),
        row.hash,
        row.state,
    )
