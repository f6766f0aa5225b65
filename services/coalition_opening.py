"""Makes a priced pool payable: its Coalition stands, operators are bonded and consent, an epoch is open.

Every step looks at the chain first, so a repeated or interrupted call goes on where the last one ended. What
changes the chain are keeper runs, asked for over the gateway's REST. Reads the chain and node directories on
this machine; knows nothing of the log.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from sqlalchemy.ext.asyncio import AsyncEngine

from services import credentials
from services.chain import abi, anvil, logs, manifest, wallets
from services.chain.artifacts import artifact
from services.chain.coalitions import CoalitionTerms, Seat, coalition_of
from services.chain.contract import Contract
from services.chain.networks import Network, network_of
from services.chain.rpc import Rpc, connected
from services.chain.sender import Sender
from services.gateway_rest import checked, client
from services.node_keys import NodeKeys
from services.seat_signing import SeatUnsound, SignedSeat, check_seat, sign_seat
from services.settings import Settings

Say = Callable[[str], None]
RUN_WITHIN_S = 120.0
POLL_S = 0.1


class CoalitionNotOpened(Exception):
    """coalition_not_opened: an epoch could not be opened; the message says what is missing and where."""

    code = "coalition_not_opened"
    remedy = "Provide what is missing, then: computepool pools open-coalition POOL"


class CoalitionOutOfReach(CoalitionNotOpened):
    """coalition_not_opened: no waiting brings what is missing; what was asked has to change."""


class CoalitionRunFailed(CoalitionNotOpened):
    """coalition_not_opened: a keeper's run was tried and has not done it; another try is another run."""


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


def is_local(network: Network) -> bool:
    return network.chain_id == anvil.CHAIN_ID


def terms_of(
    path: Path | None, network: Network, settings: Settings, steward: str, *, deterministic: bool
) -> CoalitionTerms:
    """A coalition's terms from their file; the local chain has some of its own. Raises CoalitionNotOpened."""
    if path is not None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=CoalitionTerms)
        except (OSError, msgspec.DecodeError) as broken:
            raise CoalitionOutOfReach(f"terms of {path}: {broken}") from broken
    if not is_local(network):
        raise CoalitionOutOfReach(f"{network.name} needs a file with the coalition's terms: --terms FILE")
    return local_terms(
        steward,
        deterministic=deterministic,
        attestors=tuple(key.address for key in wallets.verifiers(settings)),
        probe_window_s=settings.local_probe_window_s,
        dispute_window_s=settings.local_dispute_window_s,
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

    The keeper's wallet is the steward; operators sign with the payout keys in `node_dirs`, and need no coins.
    Raises CoalitionNotOpened, GatewayRefused, ChainAway.
    """
    if settings.chain_rpc_url is None or settings.database_url is None:
        raise CoalitionOutOfReach("CHAIN_RPC_URL and DATABASE_URL are needed, or a running local stack")
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(client(settings.public_url, operator_token))
        rpc = await stack.enter_async_context(connected(settings.chain_rpc_url))
        engine = credentials.engine_of(settings.database_url.get_secret_value())
        stack.push_async_callback(engine.dispose)
        pool = checked(await rest.get(f"/pools/{pool_id}"))
        network = network_of(await rpc.chain_id())
        opener = _Opener(
            rest,
            rpc,
            network,
            engine,
            checked(await rest.get("/keeper"))["wallet"],
            manifest.read(settings.manifest_of(network.chain_id)),
            {keys.node_id: keys.payout for keys in map(NodeKeys.load_or_make, node_dirs)},
            say,
            settings,
        )
        seats = await seats_of(rest, pool)
        contract = await opener.stand(pool, terms_file)
        if pool["paid_epoch"] == plan_of(pool) and await opener.is_open(contract, pool):
            return pool
        transaction = await opener.open(contract, pool, seats)
        body = {"epoch": plan_of(pool), "coalition": contract.address, "transaction": transaction}
        body["attestors"] = opener.attestors_of(contract, pool, terms_file)
        told = checked(await rest.post(f"/pools/{pool_id}/coalition", json=body))
        say(f"pool.coalition_opened {contract.address} epoch {told['chain_epoch']}")
        position = int(told["position"]) or int(pool["position"]) // 1024
        return checked(await rest.get(f"/pools/{pool_id}", params={"at_least": position}))


def plan_of(pool: Mapping[str, Any]) -> int:
    """The plan that serves; while none does, the one that is being loaded."""
    epoch = pool["serving_epoch"] or pool["planned_epoch"]
    if epoch is None:
        raise CoalitionNotOpened(f"pool {pool['pool_id']} has no plan yet")
    return int(epoch)


async def seats_of(rest: Any, pool: Mapping[str, Any]) -> tuple[Seat, ...]:
    found = []
    for shard in pool["shards"]:
        node = checked(await rest.get(f"/nodes/{shard['node_id']}"))
        operator, receipt_key = (to_checksum_address(node[key]) for key in ("payout_wallet", "receipt_key"))
        found.append(Seat(operator, int(shard["units"]), shard["node_id"], receipt_key))
    return tuple(found)


async def check_evictions(rpc: Rpc, contract: Contract, seats: Sequence[Seat]) -> None:
    """One evicted operator, and the contract would seat nobody. Raises CoalitionNotOpened, which names it."""
    for seat in seats:
        if await contract.read(rpc, "isEvicted", seat.operator):
            text = f"operator {seat.operator} of node {seat.node_id} was evicted from {contract.address}"
            raise CoalitionNotOpened(f"{text} for a breach: POST /pools/{{id}}/plan without that node first")


@dataclass(frozen=True)
class _Opener:
    """One run. `payouts`: node id -> its payout key, of the nodes whose directories are here."""

    rest: httpx.AsyncClient
    rpc: Rpc
    network: Network
    engine: AsyncEngine
    steward: str
    manifest: manifest.Manifest
    payouts: Mapping[str, LocalAccount]
    say: Say
    settings: Settings

    async def stand(self, pool: Mapping[str, Any], terms_file: Path | None) -> Contract:
        """The pool's own contract, put there when it is missing."""
        if pool["price_wei_per_s"] == "0":
            raise CoalitionOutOfReach(f"pool {pool['pool_id']} is free: it has no coalition")
        if pool["coalition"] is not None:
            return Contract(artifact("Coalition"), pool["coalition"])
        terms = self._terms(terms_file, bool(pool["deterministic"]))
        place = coalition_of(self.manifest, str(pool["pool_id"]), terms)
        if not await self.rpc.code(place.address):
            await self._run(f"/pools/{pool['pool_id']}/proposal", {"terms": msgspec.to_builtins(terms)})
            self.say(f"coalition stands at {place.address}")
        return Contract(artifact("Coalition"), place.address)

    def _terms(self, path: Path | None, deterministic: bool) -> CoalitionTerms:
        return terms_of(path, self.network, self.settings, self.steward, deterministic=deterministic)

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
        return is_local(self.network)

    async def is_open(self, contract: Contract, pool: Mapping[str, Any]) -> bool:
        paying = str(await contract.read(self.rpc, "gdaPool"))
        return paying.lower() == str(pool["gda_pool"]).lower()

    async def signed_seats(
        self, contract: Contract, pool: Mapping[str, Any], seats: Sequence[Seat]
    ) -> list[SignedSeat]:
        """One for each seat, by the payout keys here or sent by their operators."""
        path, params = f"/pools/{pool['pool_id']}/consents", {"epoch": plan_of(pool)}
        sent = msgspec.convert(checked(await self.rest.get(path, params=params))["items"], list[SignedSeat])
        found, missing = [], []
        for seat in seats:
            payout = self.payouts.get(seat.node_id)
            if payout is not None and payout.address.lower() == seat.operator.lower():
                found.append(await sign_seat(self.rpc, self.manifest, contract, seat, payout))
                continue
            why = "nothing was sent"
            for signed in sent:
                if (signed.node_id, signed.coalition.lower()) == (seat.node_id, contract.address.lower()):
                    try:
                        await check_seat(self.rpc, self.manifest, contract, signed, seat)
                        found.append(signed)
                        break
                    except SeatUnsound as unsound:
                        why = str(unsound)
            else:
                missing.append(f"node {seat.node_id} of {seat.operator}: {why}")
        if missing:
            how = f"computepool operator consent {pool['pool_id']}, or here with --dir DIRECTORY"
            raise CoalitionNotOpened(f"consents are missing ({'; '.join(missing)}); to sign: {how}")
        for operator, bond in {one.operator: one.bond for one in found if one.bond is not None}.items():
            usdc = Contract(artifact("MockUSDC"), self.manifest.at("USDC"))
            await self._provide(usdc, operator, bond.micro, f"coalition:{contract.address}:{bond.nonce}")
            self.say(f"operator {operator} bonds {bond.micro / 10**6:.2f} USDC")
        return found

    async def _provide(self, usdc: Contract, operator: str, micro: int, state: str) -> None:
        """USDC in the payout wallet: on the local chain it is made, elsewhere its owner has to bring it."""
        held = int(await usdc.read(self.rpc, "balanceOf", operator))
        if held >= micro:
            return
        owner = anvil.dev_account()
        if not self._is_local or self.manifest.owner.lower() != owner.address.lower():
            text = f"payout wallet {operator} needs {micro / 10**6:.2f} USDC for its bond and holds"
            raise CoalitionNotOpened(f"{text} {held / 10**6:.2f} ({usdc.address})")
        minter = Sender(self.rpc, self.network, owner, self.engine)
        mint = usdc.calldata("mint", operator, micro - held)
        await minter.send(f"{state}:{micro}:mint:{held}", usdc.address, mint)

    async def open(self, contract: Contract, pool: Mapping[str, Any], seats: Sequence[Seat]) -> str:
        """The transaction that opened the contract's current epoch with these seats, bonded."""
        current = int(await contract.read(self.rpc, "epoch"))
        if await self._seated(contract, current, seats):
            return await self._transaction_of(contract, current)
        await check_evictions(self.rpc, contract, seats)
        signed = await self.signed_seats(contract, pool, seats)
        bonds = {one.operator.lower(): one for one in signed if one.bond is not None}
        body = {
            "epoch": plan_of(pool),
            "coalition": contract.address,
            "chain_epoch": current + 1,
            "bonds": [
                {"operator": one.operator, **msgspec.to_builtins(one.bond)}
                for _, one in sorted(bonds.items())
            ],
            "consents": [one.signature for one in signed],
        }
        run = await self._run(f"/pools/{pool['pool_id']}/activation", body)
        return str(next(sent["tx"] for sent in run["transactions"] if sent["node_id"] == "open-epoch"))

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
            self.rpc, self.network, self.manifest.from_block, head, (contract.address,), topics
        )
        return told[-1].transaction

    async def _run(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A keeper run that has done it. Raises CoalitionNotOpened."""
        run_id = checked(await self.rest.post(path, json=body))["run_id"]
        self.say(f"run {run_id}")
        deadline = time.monotonic() + RUN_WITHIN_S
        while time.monotonic() < deadline:
            answer = await self.rest.get(f"/runs/{run_id}")
            run = checked(answer) if answer.status_code != httpx.codes.NOT_FOUND else {"status": "requested"}
            if run["status"] == "confirmed":
                return run
            if run["status"] == "failed":
                raise CoalitionRunFailed(f"run {run_id} failed: {run['error_code']} {run['error_detail']}")
            await asyncio.sleep(POLL_S)
        raise CoalitionRunFailed(f"run {run_id} has not ended after {RUN_WITHIN_S:.0f} s; is a keeper there?")
