"""A priced pool becomes payable and its operators get their money: real processes, a real anvil and keys."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import text

from events.pool import CoalitionOpened
from services import credentials
from services.chain import abi, anvil, manifest, wallets
from services.chain.artifacts import artifact
from services.chain.coalitions import Seat
from services.chain.contract import Contract
from services.chain.manifest import Manifest
from services.chain.rpc import Rpc
from services.chain.transactions import receipt_of
from services.coalition_opening import CoalitionNotOpened, open_coalition
from services.log import EventLog
from services.operator_income import purse_of, withdraw
from services.seat_signing import sign_seat
from services.settings import Settings
from shard_runtime import messages
from tests.anvil import deployed_chain
from tests.contract.gateway_house import House, Peer, form, house, until
from tests.followed import Follower, followed

pytestmark = pytest.mark.asyncio(loop_scope="module")
PRICE = 50 * 10**12


async def silent(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
    """Nobody asks these nodes for anything."""


@dataclass
class World:
    built: House
    rpc: Rpc
    known: Manifest
    peers: list[Peer]
    settings: Settings
    pool_id: str = ""

    async def open(self, pool_id: str = "", dirs: list[Path] | None = None) -> dict[str, Any]:
        directories = [peer.directory for peer in self.peers] if dirs is None else dirs
        return await open_coalition(
            self.settings, self.built.operator_token, pool_id or self.pool_id, directories
        )

    async def shown(self) -> dict[str, Any]:
        async with self.built.client() as client:
            return dict((await client.get(f"/pools/{self.pool_id}")).json())

    async def claim(self, pool_id: str = "", **changes: Any) -> tuple[int, str]:
        """The gateway's status and code for a claim about the chain."""
        row = await self.shown()
        body = {"epoch": 1, "coalition": row["coalition"], "transaction": await self.opened_by(), **changes}
        async with self.built.client() as client:
            answer = await client.post(f"/pools/{pool_id or self.pool_id}/coalition", json=body)
        return answer.status_code, str(answer.json().get("code", ""))

    async def opened_by(self) -> str:
        """The last transaction that opened an epoch."""
        (found,) = await self.journal("intent LIKE '%open-epoch' ORDER BY nonce DESC LIMIT 1")
        return str(found.hash)

    async def journal(self, where: str = "true") -> list[Any]:
        engine = credentials.engine_of(self.built.database_url)
        async with engine.connect() as connection:
            found = list(await connection.execute(text(f"SELECT * FROM chain_transactions WHERE {where}")))
        await engine.dispose()
        return found

    async def command(self, *words: str, on: int = 0) -> dict[str, Any]:
        """What the command line prints as JSON on the machine of the first node, or of node `on`."""
        process = await self.started(*words, on=on)
        out, _ = await process.communicate()
        assert process.returncode == 0
        return dict(json.loads(out))

    async def started(self, *words: str, on: int) -> asyncio.subprocess.Process:
        directory = self.peers[on].directory
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", *words, "--json", "--dir", str(directory),
            env={
                **os.environ,
                "COMPUTEPOOL_STATE_DIR": str(self.settings.state_dir),
                "COMPUTEPOOL_GATEWAY_URL": self.built.url,
                "COMPUTEPOOL_TOKEN": self.built.operator_token,
                "COMPUTEPOOL_CHAIN_MANIFEST": str(self.settings.chain_manifest),
                "CHAIN_RPC_URL": self.rpc.url,
                "DATABASE_URL": self.built.database_url,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def following(self, *words: str, on: int = 0) -> AsyncIterator[Follower]:
        """A command with --follow on the machine of node `on`."""
        async with followed(await self.started(*words, "--follow", on=on)) as found:
            yield found

    async def plan(self, peers: list[Peer]) -> None:
        """Cut anew over these nodes, and wait until that serves."""
        before = (await self.shown())["planned_epoch"]
        async with self.built.client() as client:
            body = {"node_ids": [peer.node_id for peer in peers]}
            answer = await client.post(f"/pools/{self.pool_id}/plan", json=body)
            assert answer.status_code == 200, answer.text

        async def serves() -> bool:
            return bool((await self.shown())["serving_epoch"] == before + 1)

        await until(serves)

    async def told(self) -> list[str]:
        """The pool's openings as they stand in the log."""
        client = await self.built.nats.connect("projector")
        events = await EventLog.open(client, None)
        history = await events.history("pool", self.pool_id)
        await client.close()
        return [
            msgspec.json.encode(item.event).decode()
            for item in history.recorded
            if isinstance(item.event, CoalitionOpened)
        ]

    async def pay(self, gda_pool: str, wei: int) -> None:
        """An income of so much at once, from anvil's first account."""
        admin, usdc, usdcx = anvil.dev_account().address, self.known.at("USDC"), self.known.at("USDCx")
        for to, data in (
            (usdc, abi.call("mint(address,uint256)", admin, wei // 10**12)),
            (usdc, abi.call("approve(address,uint256)", usdcx, wei // 10**12)),
            (usdcx, abi.call("upgrade(uint256)", wei)),
            (
                self.known.at("GDAv1Forwarder"),
                abi.call(
                    "distribute(address,address,address,uint256,bytes)", usdcx, admin, gda_pool, wei, b""
                ),
            ),
        ):
            asked = {"from": admin, "to": to, "data": "0x" + data.hex()}
            assert (
                await receipt_of(self.rpc, await self.rpc.ask("eth_sendTransaction", asked), 30)
            ).succeeded


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("coalition")
    async with deployed_chain() as (rpc, known):
        path = directory / "31337.json"
        manifest.write(path, known)
        chain = {"CHAIN_RPC_URL": rpc.url, "COMPUTEPOOL_CHAIN_MANIFEST": str(path)}
        async with house(directory, gateway=True, **chain) as built:
            await built.start("keeper", **chain, COMPUTEPOOL_GATEWAY_URL=built.url)
            peers = [await Peer.join(built, name, silent) for name in ("one", "two")]
            settings = Settings(
                state_dir=directory / "state",
                database_url=SecretStr(built.database_url),
                gateway_url=built.url,
                chain_rpc_url=rpc.url,
                chain_manifest=path,
            )
            made = World(built, rpc, known, peers, settings)
            made.pool_id = await form(built, peers, "dear", price_wei_per_s=str(PRICE))
            yield made
            for peer in peers:
                await peer.leave()


async def test_a_priced_pool_is_opened_once_and_pays_its_operators_by_their_layers(world: World) -> None:
    assert (await world.shown())["coalition"] is None
    with pytest.raises(CoalitionNotOpened, match=f"{world.peers[1].node_id} of .*: nothing was sent"):
        await world.open(dirs=[world.peers[0].directory])
    row = await world.open()
    contract = Contract(artifact("Coalition"), row["coalition"])
    assert str(await contract.read(world.rpc, "gdaPool")).lower() == row["gda_pool"].lower()
    assert (row["paid_epoch"], row["chain_epoch"], row["serving_epoch"]) == (1, 1, 1)
    gda_pool = Contract(artifact("SuperfluidPool", "superfluid"), row["gda_pool"])
    units = {
        peer.node_id: await gda_pool.read(world.rpc, "getUnits", peer.keys.payout_wallet)
        for peer in world.peers
    }
    assert units == {shard["node_id"]: shard["units"] for shard in row["shards"]}
    assert sum(units.values()) == 10_000
    for peer in world.peers:
        bond = await contract.read(world.rpc, "bondOf", peer.keys.payout_wallet)
        assert bond == await contract.read(world.rpc, "bondNeeded")
    opened = json.loads((await world.told())[-1])
    assert opened["breach_terms"]["attestors"] == sorted(
        key.address for key in wallets.verifiers(world.settings)
    )
    assert opened["breach_terms"]["quorum"] == await contract.read(world.rpc, "quorum") == 2
    assert opened["breach_terms"]["longest_probe_window_s"] == world.settings.local_probe_window_s
    sent = len(await world.journal())
    assert await world.open() == row
    assert len(await world.journal()) == sent


async def test_a_claim_that_the_chain_does_not_bear_out_is_refused(world: World) -> None:
    row = await world.open()
    assert (await world.claim())[0] == 200
    assert await world.claim(coalition=world.known.at("USDC")) == (409, "coalition_unproven")
    attestors = [key.address for key in wallets.verifiers(world.settings)]
    assert (await world.claim(attestors=attestors))[0] == 200
    for wrong in ([*attestors, "0x" + "11" * 20], attestors[:1]):
        assert await world.claim(attestors=wrong) == (409, "coalition_unproven")
    assert await world.claim(epoch=7) == (409, "coalition_epoch_stale")
    assert await world.claim(transaction="0x" + "11" * 32) == (409, "coalition_unconfirmed")
    other = (await world.journal("intent LIKE '%bond_0'"))[0].hash
    assert await world.claim(transaction=other) == (409, "coalition_unproven")
    for name, peers in (("same", world.peers), ("less", world.peers[:1])):
        pool_id = await form(world.built, peers, name, price_wei_per_s=str(PRICE))
        assert await world.claim(pool_id) == (409, "coalition_unproven")
    free = await form(world.built, world.peers, "free")
    assert await world.claim(free) == (409, "pool_is_free")
    assert await world.shown() == row


async def test_a_price_that_would_leave_a_residue_is_refused(world: World) -> None:
    body = {"name": "odd", "model": "tales", "weights_digest": "ab" * 32, "price_wei_per_s": str(PRICE + 1)}
    async with world.built.client() as client:
        answer = await client.post("/pools", json=body)
    assert (answer.status_code, answer.json()["param"]) == (400, "price_wei_per_s")


async def test_another_plan_is_paid_by_another_epoch_and_the_same_seats_by_the_same(world: World) -> None:
    first = await world.open()
    await world.plan(world.peers[:1])
    alone = await world.open()
    assert (alone["paid_epoch"], alone["chain_epoch"]) == (2, 2)
    assert alone["coalition"] == first["coalition"]
    assert alone["gda_pool"] != first["gda_pool"]
    sent = len(await world.journal())
    await world.plan(world.peers[:1])
    again = await world.open()
    assert (again["paid_epoch"], again["chain_epoch"], again["gda_pool"]) == (3, 2, alone["gda_pool"])
    assert len(await world.journal()) == sent


async def test_an_operator_sees_and_takes_what_every_epoch_has_paid_it(world: World) -> None:
    row = await world.open()
    coalition = Contract(artifact("Coalition"), row["coalition"])
    operator, pools = world.peers[0].keys.payout, [(world.pool_id, row["coalition"])]
    old = await coalition.read(world.rpc, "gdaPoolOf", 1)
    await world.pay(old, 10**18)
    await world.pay(row["gda_pool"], 3 * 10**18)
    before = await purse_of(world.rpc, world.known, operator.address, pools)
    share = before.incomes[0].units
    assert 0 < share < 10_000
    (shown,) = (await world.command("operator", "earnings"))["wallets"]
    assert shown["wallet"] == operator.address
    assert [one["claimable_wei"] for one in shown["incomes"]] == [str(share * 10**14), str(3 * 10**18)]
    assert [one["claimable_usdc"] for one in shown["incomes"]][1] == "3"
    assert [one["claimed_wei"] for one in shown["incomes"]] == ["0", "0"]
    (taken,) = (await world.command("operator", "withdraw"))["wallets"]
    assert len(taken["transactions"]) == 3
    after = await purse_of(world.rpc, world.known, operator.address, pools)
    assert [income.claimable_wei for income in after.incomes] == [0, 0]
    assert [income.claimed_wei for income in after.incomes] == [share * 10**14, 3 * 10**18]
    assert after.usdcx_wei == 0
    assert after.usdc_micro - before.usdc_micro == share * 100 + 3_000_000
    assert await withdraw(world.rpc, world.known, operator, pools) == ()


async def test_operators_consent_each_from_its_own_machine(world: World) -> None:
    await world.plan(world.peers)
    mine, theirs = world.peers
    (given,) = (await world.command("operator", "consent", world.pool_id, on=1))["consents"]
    assert given["node_id"] == theirs.node_id
    before = await world.shown()
    row = await world.open(dirs=[mine.directory])
    assert row["paid_epoch"] == before["serving_epoch"]
    assert row["chain_epoch"] == given["chain_epoch"] == before["chain_epoch"] + 1
    assert row["coalition"].lower() == given["coalition"]
    async with world.built.client() as client:
        path = f"/pools/{world.pool_id}/consents?epoch={before['serving_epoch']}"
        (kept,) = (await client.get(path)).json()["items"]
        answer = await client.post(path, json=kept)
        assert (answer.status_code, answer.json()["code"]) == (409, "consent_refused"), "its epoch is over"


async def test_only_the_seats_operator_consents_and_to_that_seat_alone(world: World) -> None:
    await world.plan(world.peers)
    plan = (await world.shown())["serving_epoch"]
    contract = Contract(artifact("Coalition"), (await world.open())["coalition"])
    await world.plan(world.peers[::-1])
    row = await world.shown()
    units = {shard["node_id"]: shard["units"] for shard in row["shards"]}
    peer = world.peers[0]
    key, seat = (
        peer.keys,
        Seat(peer.keys.payout_wallet, units[peer.node_id], peer.node_id, peer.keys.receipt_key),
    )
    good = msgspec.to_builtins(await sign_seat(world.rpc, world.known, contract, seat, key.payout))
    stranger = await sign_seat(world.rpc, world.known, contract, seat, world.peers[1].keys.payout)
    greedy = replace(seat, units=9_999)
    more = await sign_seat(world.rpc, world.known, contract, greedy, key.payout)
    wrong = {
        "another's signature": good | {"signature": stranger.signature},
        "other units": msgspec.to_builtins(more),
        "units that were not signed": good | {"units": 9_999},
        "another wallet": good | {"operator": world.peers[1].keys.payout_wallet},
        "a node outside": good | {"node_id": "0" * 26},
        "another epoch": good | {"chain_epoch": good["chain_epoch"] + 1},
        "no coalition": good | {"coalition": world.known.at("USDC")},
    }
    async with world.built.client(token=None) as client:
        path = f"/pools/{world.pool_id}/consents?epoch={plan + 1}"
        for what, body in wrong.items():
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (409, "consent_refused"), what
        assert (await client.post(path, json={"signature": "0x"})).status_code == 400
        assert (await client.get(path)).status_code == 401
        assert (await client.post(path, json=good)).status_code == 200
        assert (await client.post(path, json=good)).status_code == 200, "said again"


@pytest.mark.long
async def test_two_who_follow_open_each_plans_epoch_once_with_the_consents_that_come(world: World) -> None:
    """Neither has the other operator's key; that operator's own machine signs for each plan."""
    await world.plan(world.peers[:1])
    opening = ("pools", "open-coalition", world.pool_id)
    consenting = ("operator", "consent", world.pool_id)
    plan = (await world.shown())["serving_epoch"]
    async with world.following(*opening) as one, world.following(*opening) as other:
        await asyncio.gather(one.until_told(plan), other.until_told(plan))
        await world.plan(world.peers)
        missing = f"consents are missing (node {world.peers[1].node_id}"
        await asyncio.gather(one.until_said(missing), other.until_said(missing))
        async with world.following(*consenting, on=1) as signing:
            await asyncio.gather(one.until_told(plan + 1), other.until_told(plan + 1))
            await world.plan(world.peers[1:])
            await asyncio.gather(one.until_told(plan + 2), other.until_told(plan + 2))
            signed = [item["node_id"] for told in signing.told for item in told["consents"]]
            assert set(signed) == {world.peers[1].node_id}
    for follower in (one, other):
        assert [row["paid_epoch"] for row in follower.told] == [plan, plan + 1, plan + 2]
        chain_epochs = [row["chain_epoch"] for row in follower.told]
        assert chain_epochs == list(range(chain_epochs[0], chain_epochs[0] + 3))


async def test_the_retirement_of_its_pool_ends_who_follows_with_success(world: World) -> None:
    pool_id = await form(world.built, world.peers[:1], "brief", price_wei_per_s=str(PRICE))
    async with world.following("pools", "open-coalition", pool_id) as opening:
        await opening.until_told(1)
        async with world.built.client() as client:
            assert (await client.post(f"/pools/{pool_id}/retire")).status_code == 200
        await opening.until_said("is retired")
        assert await opening.process.wait() == 0
