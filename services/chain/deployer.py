"""Carries out a plan on a chain, from wherever an earlier run ended. Knows no contract by name.

Every step says how to see that it is done, so nothing has to be remembered between two runs, and a second run
over a finished deployment sends nothing.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from services.chain import transactions
from services.chain.manifest import Entry, Manifest
from services.chain.networks import Network
from services.chain.plan import Answers, Done, HasCode, Placed, Plan, Slot, Step, digest, init_code_hash
from services.chain.revert import named
from services.chain.rpc import CallReverted, Receipt, Rpc, RpcRefused

MANIFEST_FORMAT = 1
ASKED_AT_ONCE = 8


class DeploymentUnfinished(Exception):
    """deployment_unfinished: an earlier run ended in the middle; go on with it by --resume."""

    code = "deployment_unfinished"
    remedy = "computepool chain deploy --resume, with the same --rpc"


class StepFailed(Exception):
    """step_failed: a step of the deployment was refused or had no effect; the message says which and why."""

    code = "step_failed"
    remedy = "Mend the cause in the message, then: computepool chain deploy --resume"


class UnprotectedRefused(Exception):
    """unprotected_refused: this RPC refuses transactions signed without a chain id (before EIP-155).

    The ERC-1820 registry and the CREATE2 proxy exist on a chain only by such a transaction.
    """

    code = "unprotected_refused"
    remedy = (
        "Send the transaction through another RPC of the same chain, then: computepool chain deploy --resume"
    )


class DeployerPoor(Exception):
    """deployer_poor: the deployer's account holds too little of the chain's coin for the next step."""

    code = "deployer_poor"
    remedy = "Send the deployer some coin, then: computepool chain deploy --resume"


@dataclass(frozen=True)
class Progress:
    """After each step. `how`: "stood" when nothing had to be sent for it."""

    number: int
    of: int
    title: str
    how: Literal["stood", "sent"]
    gas_used: int = 0


async def standing(rpc: Rpc, plan: Plan) -> list[bool]:
    """Of each step, whether it is done."""
    turns = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(step: Step) -> bool:
        async with turns:
            return await is_done(rpc, step.done)

    return list(await asyncio.gather(*map(ask, plan)))


async def is_done(rpc: Rpc, done: Done) -> bool:
    match done:
        case HasCode(address):
            return bool(await rpc.code(address))
        case Slot(address, slot, expected):
            return await rpc.storage(address, slot) == expected
        case Answers(to, data, expected):
            try:
                return await rpc.call(to, data) == expected
            except CallReverted:
                return False


class Deployer:
    """`key` belongs to the plan's owner."""

    def __init__(self, rpc: Rpc, network: Network, key: LocalAccount) -> None:
        self.rpc = rpc
        self.network = network
        self.key = key

    async def run(
        self, plan: Plan, *, resume: bool = False, say: Callable[[Progress], None] = lambda _: None
    ) -> Manifest:
        """Raises DeploymentUnfinished, StepFailed, UnprotectedRefused, DeployerPoor, ReceiptOverdue."""
        await self._until_nothing_is_under_way()
        if not resume and await self.rpc.code(plan.genesis):
            await self._refuse_unfinished(plan)
        for number, step in enumerate(plan.steps, 1):
            stands = await is_done(self.rpc, step.done)
            gas = 0 if stands else await self._carry_out(step)
            how: Literal["stood", "sent"] = "stood" if stands else "sent"
            say(Progress(number, len(plan.steps), step.title, how, gas))
        return await self.manifest(plan)

    async def _refuse_unfinished(self, plan: Plan) -> None:
        stands = await standing(self.rpc, plan)
        if not all(stands):
            first = plan.steps[stands.index(False)].title
            done = f"{sum(stands)} of {len(stands)} steps are done"
            raise DeploymentUnfinished(f"{done} on chain {self.network.chain_id}; the next is: {first}")

    async def manifest(self, plan: Plan) -> Manifest:
        """What stands, read back from the chain."""
        entries = {name: await self._entry(placed) for name, placed in plan.placed.items()}
        return Manifest(
            MANIFEST_FORMAT,
            self.network.chain_id,
            plan.owner,
            await self._first_block(plan),
            digest(plan),
            plan.superfluid_build,
            entries,
        )

    async def _entry(self, placed: Placed) -> Entry:
        hashed = init_code_hash(placed)
        return Entry(
            placed.address,
            placed.artifact,
            placed.made_by,
            "0x" + keccak(await self.rpc.code(placed.address)).hex(),
            placed.origin or "",
            "0x" + placed.salt.hex() if placed.salt else "",
            "0x" + hashed.hex() if hashed else "",
            placed.logic or "",
        )

    async def _carry_out(self, step: Step) -> int:
        """Gas used. A step that somebody else did meanwhile counts as done."""
        try:
            receipt = await (self._presigned(step) if step.presigned else self._send(step.to, step.data))
        except CallReverted as reverted:
            if await is_done(self.rpc, step.done):
                return 0
            raise StepFailed(f"{step.title}: {named(reverted.data)}") from reverted
        if not await is_done(self.rpc, step.done):
            end = "had no effect" if receipt.succeeded else "was reverted"
            raise StepFailed(f"{step.title}: transaction {receipt.transaction} {end}")
        return receipt.gas_used

    async def _send(self, to: str, data: bytes, value_wei: int = 0) -> Receipt:
        sender = self.key.address
        gas = await transactions.gas_for(self.rpc, self.network, sender, to, data, value_wei)
        fees = await transactions.fees(self.rpc, self.network)
        most = gas * fees.most_wei + value_wei
        if await self.rpc.balance(sender) < most:
            raise DeployerPoor(
                f"{sender} needs {most / 1e18:.6f} coins for the next step on {self.network.name}"
            )
        nonce = await self.rpc.nonce(sender)
        signed = transactions.sign(
            self.key, self.network, nonce=nonce, to=to, data=data, gas=gas, fees=fees, value_wei=value_wei
        )
        await self.rpc.send(signed.raw)
        return await transactions.receipt_of(self.rpc, signed.hash, self.network.receipt_within_s)

    async def _presigned(self, step: Step) -> Receipt:
        made = step.presigned
        assert made is not None
        missing = made.cost_wei - await self.rpc.balance(made.signer)
        if missing > 0:
            await self._send(made.signer, b"", missing)
        try:
            sent = await self.rpc.send(made.raw)
        except RpcRefused as refused:
            raise UnprotectedRefused(f"{step.title}: {refused}") from refused
        return await transactions.receipt_of(self.rpc, sent, self.network.receipt_within_s)

    async def _until_nothing_is_under_way(self) -> None:
        """A run that was killed may have sent a transaction that no block has yet."""
        deadline = time.monotonic() + self.network.receipt_within_s
        while True:
            mined, known = [await self.rpc.nonce(self.key.address, at) for at in ("latest", "pending")]
            if mined == known:
                return
            if time.monotonic() > deadline:
                raise transactions.ReceiptOverdue(f"{known - mined} transactions of {self.key.address} wait")
            await asyncio.sleep(0.2)

    async def _first_block(self, plan: Plan) -> int:
        """The one in which the governance came to be, long before anything that anybody asks about.

        By its first event if the node searches all blocks at once, else by bisecting its code, else 0 (from
        there logs are slow to read, and right).
        """
        address, high = plan.at("Governance"), await self.rpc.block_number()
        try:
            found = await self.rpc.logs(0, high, [address])
            if found:
                return found[0].block_number
        except RpcRefused:
            pass
        low = 0
        try:
            while low < high:
                middle = (low + high) // 2
                if await self.rpc.code(address, middle):
                    high = middle
                else:
                    low = middle + 1
        except RpcRefused:
            return 0
        return low
