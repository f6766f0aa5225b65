"""A chain on which all five workflows have something to do, and the inputs with which a keeper would ask
for them.

Everybody's signature is real; the sender of the workflows is the coalition's steward and the sessions'
controller. Knows no backend.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from events.breach import KINDS, Breach
from events.workflow import WorkflowName
from services.chain import anvil
from services.chain.artifacts import artifact
from services.chain.coalitions import Seat, coalition_of
from services.chain.consents import FOR_GOOD_UNIX_S, bond_authorization, bond_nonce, seat_consent
from services.chain.contract import Contract
from services.chain.manifest import Manifest
from services.chain.rpc import Rpc
from services.coalition_opening import local_terms
from services.typed_data import sign_typed
from services.verifier.attesting import breach_typed
from tests import slashing
from tests.aggregates import ulid
from tests.paid_chain import CAP_MICRO, PaidChain, PaidSession

SENDER = anvil.dev_account(1)
OPERATORS: tuple[LocalAccount, ...] = tuple(Account.from_key(f"0x{number:064x}") for number in (501, 502))
BOND_MICRO = 100_000_000
WINDOW_S = 3_600


@dataclass(frozen=True)
class Stage:
    """`writes`: how many transactions the workflow sends; `later_s`: how long after the one before."""

    name: str
    workflow: WorkflowName
    writes: int
    input: Mapping[str, str]
    later_s: int = 0


class WorkflowWorld:
    """Use through `prepare`. Stages follow one another: each needs what those before it did to the chain."""

    def __init__(self, rpc: Rpc, manifest: Manifest, callback_url: str) -> None:
        self.rpc, self.manifest = rpc, manifest
        self.chain = PaidChain(rpc, manifest)
        self._callback_url = callback_url
        terms = local_terms(SENDER.address, deterministic=True)
        self.pool_id = ulid(1)
        self.placement = coalition_of(manifest, self.pool_id, terms)
        self.coalition = Contract(artifact("Coalition"), self.placement.address)

    async def prepare(self) -> None:
        await self.chain.prepare()
        usdc = Contract(artifact("MockUSDC"), self.manifest.at("USDC"))
        for operator in OPERATORS:
            mint = usdc.calldata("mint", operator.address, BOND_MICRO)
            await self.chain.send(self.chain.admin, usdc.address, mint)

    async def stages(self) -> list[Stage]:
        self.chain.coalition = self.placement.address
        first, second = await self.chain.agree(1), await self.chain.agree(2)
        stage = self._stage
        proposal = {
            "coalition_factory": self.placement.factory.address,
            "salt": "0x" + self.placement.salt.hex(),
            "init_code": "0x" + self.placement.init_code.hex(),
        }
        execution = {"phase": "execute", "claim_id": "1"}
        return [
            stage("propose", "propose", 1, proposal),
            stage("activate", "activate-and-pool", 3, await self._activation()),
            stage("start", "stream-start", 1, self._session(first, mode="open", active="1")),
            stage("change", "stream-start", 1, self._session(first, mode="change", active="2")),
            stage("stop", "stream-stop", 1, self._session(first, mode="stop")),
            stage("refund", "stream-stop", 2, self._session(second, mode="open-and-close")),
            stage("claim", "handle-breach", 1, await self._breach(first)),
            stage("slash", "handle-breach", 1, execution, WINDOW_S + 1),
            stage("close", "stream-stop", 1, self._session(first, mode="close")),
        ]

    async def start(self, number: int) -> Mapping[str, str]:
        """A stream-start of a session of its own, paying nobody yet: it needs no coalition's epoch."""
        usdc = Contract(artifact("MockUSDC"), self.manifest.at("USDC"))
        mint = usdc.calldata("mint", self.chain.payer.address, CAP_MICRO)
        await self.chain.send(self.chain.admin, usdc.address, mint)
        paid = await self.chain.agree(number)
        return self._stage("start", "stream-start", 1, self._session(paid, mode="open", active="1")).input

    async def later(self, seconds: int) -> None:
        if seconds:
            await self.rpc.ask("evm_increaseTime", seconds)
            await self.rpc.ask("evm_mine")

    def _stage(
        self, name: str, workflow: WorkflowName, writes: int, given: Mapping[str, str], later_s: int = 0
    ) -> Stage:
        common = {
            "network": str(anvil.CHAIN_ID),
            "pool_id": self.pool_id,
            "session_id": ulid(2),
            "slash_id": ulid(3),
            "coalition": self.placement.address,
            "run_key": ulid(4),
            "callback_url": self._callback_url,
            "callback_secret": "cpcb1.claims.mac",
        }
        return Stage(name, workflow, writes, {**common, **given}, later_s)

    def _session(self, paid: PaidSession, **more: str) -> dict[str, str]:
        return {
            **more,
            "factory": self.chain.factory,
            "escrow": paid.escrow,
            "terms": _json(paid.terms),
            "voucher": _json(paid.voucher),
        }

    async def _activation(self) -> dict[str, str]:
        usdc = Contract(artifact("MockUSDC"), self.manifest.at("USDC"))
        bonds, seats, consents = [], [], []
        for number, operator in enumerate(OPERATORS):
            nonce = bond_nonce(self.placement.address, operator.address, 0)
            typed = bond_authorization(
                chain_id=anvil.CHAIN_ID,
                token=usdc.address,
                name="USD Coin",
                version="2",
                operator=operator.address,
                coalition=self.placement.address,
                micro=BOND_MICRO,
                nonce=nonce,
            )
            bonds.append(
                {
                    "operator": operator.address,
                    "micro": str(BOND_MICRO),
                    "nonce": nonce,
                    "signature": "0x" + sign_typed(operator, typed),
                }
            )
            seat = Seat(operator.address, 5_000, ulid(10 + number), anvil.dev_account(8 + number).address)
            consent = seat_consent(
                chain_id=anvil.CHAIN_ID, coalition=self.placement.address, epoch=1, seat=seat
            )
            seats.append(seat.as_tuple())
            consents.append("0x" + sign_typed(operator, consent))
        return {
            "bonds": _json(bonds),
            "valid_before": str(FOR_GOOD_UNIX_S),
            "seats": _json(seats),
            "consents": _json(consents),
        }

    async def _breach(self, paid: PaidSession) -> dict[str, str]:
        attestors = sorted((anvil.dev_account(n) for n in range(1, 4)), key=lambda key: int(key.address, 16))[
            :2
        ]
        deadline = (await self.rpc.block()).timestamp + 86_400
        breach = Breach(
            paid.escrow.lower(), OPERATORS[0].address.lower(), "stall", 500_000, "ab" * 32, 3, 60, deadline
        )
        case = slashing.reported(
            chain_id=anvil.CHAIN_ID,
            coalition=self.placement.address.lower(),
            escrow=breach.session,
            operator=breach.operator,
        )
        votes = ["0x" + sign_typed(key, breach_typed(case, breach)) for key in attestors]
        said = [
            to_checksum_address(breach.session),
            to_checksum_address(breach.operator),
            KINDS.index(breach.kind),
            str(breach.amount_micro),
            "0x" + breach.evidence_hash,
            breach.failed_probes,
            breach.probe_window_s,
            str(breach.deadline_unix_s),
        ]
        return {"phase": "claim", "breach": _json(said), "votes": _json(votes)}


def _json(value: Any) -> str:
    """As workflows take structs: lists, whole numbers as texts, bytes as hex."""

    def plain(item: Any) -> Any:
        if isinstance(item, bytes):
            return "0x" + item.hex()
        if isinstance(item, dict):
            return {key: plain(part) for key, part in item.items()}
        if isinstance(item, list | tuple):
            return [plain(part) for part in item]
        return str(item) if isinstance(item, int) and not isinstance(item, bool) else item

    return json.dumps(plain(value))
