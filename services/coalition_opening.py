"""Makes a priced pool payable: its Coalition stands, operators are bonded and consent, an epoch is open.

Every step looks at the chain first, so a repeated or interrupted call goes on where the last one ended.
Talks to the chain, the gateway's REST and node directories on this machine; knows nothing of the log.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from sqlalchemy.ext.asyncio import AsyncEngine

from services import credentials
from services.chain import abi, anvil, logs, manifest, wallets
from services.chain.artifacts import artifact
from services.chain.coalitions import CoalitionTerms, Seat, coalition_of
from services.chain.consents import FOR_GOOD_UNIX_S, bond_authorization, bond_nonce, seat_consent
from services.chain.contract import Contract
from services.chain.networks import network_of
from services.chain.rpc import Receipt, Rpc, connected
from services.chain.sender import Sender
from services.gateway_rest import checked, client
from services.node_keys import NodeKeys
from services.settings import Settings
from services.typed_data import sign_typed

Say = Callable[[str], None]
ATTEMPTS = 3
"""A transaction that was mined and failed is not repeated more often in one run."""


class CoalitionNotOpened(Exception):
    """coalition_not_opened: an epoch could not be opened; the message says what is missing and where."""

    code = "coalition_not_opened"
    remedy = "Provide what is missing, then: computepool pools open-coalition POOL"


def local_terms(
    steward: str,
    *,
    deterministic: bool,
    attestors: Sequence[str] = (),
    probe_window_s: int = 600,
    dispute_window_s: int = 3_600,
) -> CoalitionTerms:
    """For the local chain, whose money is worth nothing: anvil's own accounts rule.

    `attestors`: one vote more than half of them is a quorum; none: anvil's accounts attest.
    """
    accounts = tuple(anvil.dev_account(number).address for number in range(1, 6))
    attesting = tuple(attestors) or accounts[:3]
    quorum = len(attesting) // 2 + 1
    return CoalitionTerms(
        steward=steward,
        treasury=steward,
        session_limit_micro=100_000_000,
        longest_session_s=86_400,
        least_bond_micro=100_000_000,
        counter_bond_micro=10_000_000,
        most_per_kind_micro=(1_000_000, 1_000_000, 50_000_000, 100_000_000, 50_000_000),
        dispute_window_s=dispute_window_s,
        ruling_window_s=7_200,
        unbond_delay_s=172_800,
        least_probes=3,
        longest_probe_window_s=probe_window_s,
        deterministic=deterministic,
        attestors=attesting,
        quorum=quorum,
        arbiters=accounts,
        arbiter_quorum=max(3, quorum + 1),
    )


async def open_coalition(
    settings: Settings,
    operator_token: str,
    pool_id: str,
    node_dirs: Sequence[Path],
    *,
    terms_file: Path | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """The pool as the gateway shows it, once its present plan's operators can be paid.

    Sends with the steward's wallet; operators sign with the payout keys in `node_dirs`, and need no coins.
    Raises CoalitionNotOpened, GatewayRefused, and what sending raises (see `Sender`).
    """
    if settings.chain_rpc_url is None or settings.database_url is None:
        raise CoalitionNotOpened("CHAIN_RPC_URL and DATABASE_URL are needed, or a running local stack")
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(client(settings.public_url, operator_token))
        rpc = await stack.enter_async_context(connected(settings.chain_rpc_url))
        engine = credentials.engine_of(settings.database_url.get_secret_value())
        stack.push_async_callback(engine.dispose)
        pool = checked(await rest.get(f"/pools/{pool_id}"))
        network = network_of(await rpc.chain_id())
        steward = wallets.wallet(settings, "steward")
        await wallets.fund_local(rpc, steward.address)
        opener = _Opener(
            rpc,
            Sender(rpc, network, steward, engine),
            engine,
            manifest.read(settings.manifest_of(network.chain_id)),
            {keys.node_id: keys.payout for keys in map(NodeKeys.load_or_make, node_dirs)},
            say,
            settings,
        )
        seats = await _seats(rest, pool)
        contract = await opener.stand(pool, terms_file)
        if pool["paid_epoch"] == _plan_of(pool) and await opener.is_open(contract, pool):
            return pool
        for operator in sorted({seat.operator for seat in seats}):
            await opener.bond(contract, operator, seats)
        transaction = await opener.open(contract, seats)
        body = {"epoch": _plan_of(pool), "coalition": contract.address, "transaction": transaction}
        body["attestors"] = opener.attestors_of(contract, pool, terms_file)
        told = checked(await rest.post(f"/pools/{pool_id}/coalition", json=body))
        say(f"pool.coalition_opened {contract.address} epoch {told['chain_epoch']}")
        position = int(told["position"]) or int(pool["position"]) // 1024
        return checked(await rest.get(f"/pools/{pool_id}", params={"at_least": position}))


def _plan_of(pool: Mapping[str, Any]) -> int:
    """The plan that serves; while none does, the one that is being loaded."""
    epoch = pool["serving_epoch"] or pool["planned_epoch"]
    if epoch is None:
        raise CoalitionNotOpened(f"pool {pool['pool_id']} has no plan yet")
    return int(epoch)


async def _seats(rest: Any, pool: Mapping[str, Any]) -> tuple[Seat, ...]:
    found = []
    for shard in pool["shards"]:
        node = checked(await rest.get(f"/nodes/{shard['node_id']}"))
        operator, receipt_key = (to_checksum_address(node[key]) for key in ("payout_wallet", "receipt_key"))
        found.append(Seat(operator, int(shard["units"]), shard["node_id"], receipt_key))
    return tuple(found)


@dataclass(frozen=True)
class _Opener:
    """One run. `payouts`: node id -> its payout key, of the nodes whose directories are here."""

    rpc: Rpc
    sender: Sender
    engine: AsyncEngine
    manifest: manifest.Manifest
    payouts: Mapping[str, LocalAccount]
    say: Say
    settings: Settings

    async def stand(self, pool: Mapping[str, Any], terms_file: Path | None) -> Contract:
        """The pool's own contract, put there when it is missing."""
        if pool["price_wei_per_s"] == "0":
            raise CoalitionNotOpened(f"pool {pool['pool_id']} is free: it has no coalition")
        if pool["coalition"] is not None:
            return Contract(artifact("Coalition"), pool["coalition"])
        terms = self._terms(terms_file, bool(pool["deterministic"]))
        if terms.steward.lower() != self.sender.key.address.lower():
            raise CoalitionNotOpened(f"the terms name another steward than {self.sender.key.address}")
        place = coalition_of(self.manifest, str(pool["pool_id"]), terms)
        if not await self.rpc.code(place.address):
            await self._sent(f"coalition:{place.address}:stand", place.factory.address, place.data)
            self.say(f"coalition stands at {place.address}")
        return Contract(artifact("Coalition"), place.address)

    def _terms(self, path: Path | None, deterministic: bool) -> CoalitionTerms:
        if path is not None:
            try:
                return msgspec.json.decode(path.read_bytes(), type=CoalitionTerms)
            except (OSError, msgspec.DecodeError) as broken:
                raise CoalitionNotOpened(f"terms of {path}: {broken}") from broken
        if not self._is_local:
            chain = self.sender.network.name
            raise CoalitionNotOpened(f"{chain} needs a file with the coalition's terms: --terms FILE")
        return local_terms(
            self.sender.key.address,
            deterministic=deterministic,
            attestors=tuple(key.address for key in wallets.verifiers(self.settings)),
            probe_window_s=self.settings.local_probe_window_s,
            dispute_window_s=self.settings.local_dispute_window_s,
        )

    def attestors_of(self, contract: Contract, pool: Mapping[str, Any], terms_file: Path | None) -> list[str]:
        """Those of the terms that lead to this contract: an address tells nobody who attests."""
        if terms_file is None and not self._is_local:
            return []
        terms = self._terms(terms_file, bool(pool["deterministic"]))
        place = coalition_of(self.manifest, str(pool["pool_id"]), terms)
        same = place.address.lower() == contract.address.lower()
        return sorted(terms.attestors) if same else []

    @property
    def _is_local(self) -> bool:
        return self.sender.network.chain_id == anvil.CHAIN_ID

    async def is_open(self, contract: Contract, pool: Mapping[str, Any]) -> bool:
        paying = str(await contract.read(self.rpc, "gdaPool"))
        return paying.lower() == str(pool["gda_pool"]).lower()

    async def bond(self, contract: Contract, operator: str, seats: Sequence[Seat]) -> None:
        """Brings the operator's free bond to what a seat needs, from its payout wallet's USDC."""
        needed, bonded, locked, leaving = [
            int(await contract.read(self.rpc, view, *arguments))
            for view, arguments in (
                ("bondNeeded", ()),
                ("bondOf", (operator,)),
                ("lockedOf", (operator,)),
                ("unbondingOf", (operator,)),
            )
        ]
        missing = needed - (bonded - locked - leaving)
        if missing <= 0:
            return
        usdc = Contract(artifact("MockUSDC"), self.manifest.at("USDC"))
        payout = self._payout(next(seat for seat in seats if seat.operator == operator))
        state = f"coalition:{contract.address}:{operator}:{bonded}:{missing}"
        await self._provide(usdc, operator, missing, state)
        nonce = bond_nonce(contract.address, operator, bonded)
        typed = bond_authorization(
            chain_id=self.sender.network.chain_id,
            token=usdc.address,
            name=await usdc.read(self.rpc, "name"),
            version=await usdc.read(self.rpc, "version"),
            operator=operator,
            coalition=contract.address,
            micro=missing,
            nonce=nonce,
        )
        raw_nonce, signature = bytes.fromhex(nonce[2:]), bytes.fromhex(sign_typed(payout, typed))
        data = contract.calldata(
            "bondWithAuthorization", operator, missing, 0, FOR_GOOD_UNIX_S, raw_nonce, signature
        )
        await self._sent(f"{state}:bond", contract.address, data)
        self.say(f"operator {operator} bonded {missing / 10**6:.2f} USDC")

    async def _provide(self, usdc: Contract, operator: str, micro: int, state: str) -> None:
        """USDC in the payout wallet: on the local chain it is made, elsewhere its owner has to bring it."""
        held = int(await usdc.read(self.rpc, "balanceOf", operator))
        if held >= micro:
            return
        owner = anvil.dev_account()
        if not self._is_local or self.manifest.owner.lower() != owner.address.lower():
            text = f"payout wallet {operator} needs {micro / 10**6:.2f} USDC for its bond and holds"
            raise CoalitionNotOpened(f"{text} {held / 10**6:.2f} ({usdc.address})")
        minter = Sender(self.rpc, self.sender.network, owner, self.engine)
        await self._sent(
            f"{state}:mint:{held}", usdc.address, usdc.calldata("mint", operator, micro - held), minter
        )

    async def open(self, contract: Contract, seats: Sequence[Seat]) -> str:
        """The transaction that opened the contract's current epoch with these seats."""
        current = int(await contract.read(self.rpc, "epoch"))
        if await self._seated(contract, current, seats):
            return await self._transaction_of(contract, current)
        consents = [
            bytes.fromhex(
                sign_typed(
                    self._payout(seat),
                    seat_consent(
                        chain_id=self.sender.network.chain_id,
                        coalition=contract.address,
                        epoch=current + 1,
                        seat=seat,
                    ),
                )
            )
            for seat in seats
        ]
        data = contract.calldata("openEpoch", [seat.as_tuple() for seat in seats], consents)
        receipt = await self._sent(
            f"coalition:{contract.address}:epoch:{current + 1}", contract.address, data
        )
        return receipt.transaction

    async def _seated(self, contract: Contract, epoch: int, seats: Sequence[Seat]) -> bool:
        if not int(await contract.read(self.rpc, "gdaPool"), 16):
            return False
        spelled = [
            (to_checksum_address(operator), units, node, to_checksum_address(key))
            for operator, units, node, key in await contract.read(self.rpc, "seatsOf", epoch)
        ]
        return sorted(spelled) == sorted(seat.as_tuple() for seat in seats)

    async def _transaction_of(self, contract: Contract, epoch: int) -> str:
        head = await self.rpc.block_number()
        topics = (abi.topic("EpochOpened(uint256,address,uint256)"), epoch.to_bytes(32, "big"))
        told = await logs.between(
            self.rpc, self.sender.network, self.manifest.from_block, head, (contract.address,), topics
        )
        return told[-1].transaction

    def _payout(self, seat: Seat) -> LocalAccount:
        payout = self.payouts.get(seat.node_id)
        if payout is None or payout.address.lower() != seat.operator.lower():
            text = f"the payout key of node {seat.node_id} ({seat.operator}) is in no directory given here"
            raise CoalitionNotOpened(f"{text}: --dir DIRECTORY")
        return payout

    async def _sent(self, intent: str, to: str, data: bytes, sender: Sender | None = None) -> Receipt:
        """Mined and successful. A failed transaction used its intent up, so the next one counts on."""
        for attempt in range(ATTEMPTS):
            receipt = await (sender or self.sender).send(f"{intent}:{attempt}", to, data)
            if receipt.succeeded:
                return receipt
        raise CoalitionNotOpened(f"{intent} failed on the chain {ATTEMPTS} times: {receipt.transaction}")
