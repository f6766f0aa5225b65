"""A decided breach becomes a claim, and after its window a slash: real Coalition, real anvil, real runs."""

import hashlib

import pytest

from events import pool, slash, stream, workflow
from events.breach import Breach, VoteCast
from events.chain import ChainRef
from events.claim import Cancelled, Executed
from events.ids import slash_id_of
from events.slash import EvidenceAdded, Reported, Slash
from services.auditor.money import audit_money
from services.chain.rpc import CallReverted
from services.chain_evidence import evidence_of
from services.typed_data import contract_domain, sign_typed, typed_data
from services.verifier.attesting import breach_typed
from tests.aggregates import proposed, shard, ulid
from tests.anvil import next_at
from tests.coalition_chain import (
    ARBITERS,
    ATTESTORS,
    BOND_MICRO,
    LEAST_PROBES,
    MOST_MICRO,
    OPERATORS,
    PROBE_WINDOW_S,
    RULING_WINDOW_S,
    SHARES,
    CoalitionChain,
)
from tests.contract.keeper.bond_lies import LIES, SlashBooks
from tests.keeping import House, house, now_ms
from tests.paid_chain import RATE, PaidSession

ACCUSED, HONEST = OPERATORS
STALL = MOST_MICRO[1]


def chain_of(here: House) -> CoalitionChain:
    assert isinstance(here.chain, CoalitionChain)
    return here.chain


async def told_of_its_coalition(here: House) -> None:
    """The log has the pool, its plan and what the coalition opened."""
    chain = chain_of(here)
    shards = tuple(
        shard(100 + n, first, end, units)
        for n, (first, end, units) in enumerate(((0, 5, SHARES[0]), (5, 8, SHARES[1])))
    )
    block = await chain.rpc.block()
    at = ChainRef(31337, block.number, block.hash, block.timestamp, "0x" + "0e" * 32, 0)
    opened = pool.CoalitionOpened(chain.coalition, 31337, 1, 1, chain.gda_pool, at)
    commands: list[pool.PoolCommand] = [
        pool.Propose(proposed(price_wei_per_s=str(RATE))),
        *(pool.AcceptMember(one.node_id, "ab" * 65) for one in shards),
        pool.AdoptPlan(shards, ""),
        pool.OpenCoalition(opened),
    ]
    for command in commands:
        await here.tell("pool", ulid(500), command)


async def serving(here: House, number: int) -> tuple[str, PaidSession]:
    """A paid session with a request in flight."""
    key, paid = await here.pay(number)
    await here.start(key, 1)
    await here.flows(key, 1)
    await chain_of(here).wait(5)
    return key, paid


async def decided(here: House, key: str, paid: PaidSession, votes: int = 3) -> str:
    """The accused is reported, and so many attestors have signed that it stalled."""
    chain, at_unix_ms = chain_of(here), now_ms()
    slash_id = slash_id_of(key, ACCUSED.address, "stall")
    reported = Reported(
        session_id=key,
        pool_id=ulid(500),
        node_id=ulid(100),
        operator=ACCUSED.address,
        receipt_key=ACCUSED.address,
        kind="stall",
        chain_id=31337,
        escrow=paid.escrow,
        coalition=chain.coalition,
        attestors=tuple(one.address for one in ATTESTORS),
        quorum=3,
        most_micro=STALL,
        least_probes=LEAST_PROBES,
        longest_probe_window_s=PROBE_WINDOW_S,
        reporter="test",
        at_unix_ms=at_unix_ms,
    )
    await here.tell("slash", slash_id, slash.Report(reported))
    evidence = hashlib.sha256(b"evidence").hexdigest()
    await here.tell("slash", slash_id, slash.AddEvidence(EvidenceAdded(evidence, 8)))
    breach = Breach(
        session=paid.escrow,
        operator=ACCUSED.address,
        kind="stall",
        amount_micro=STALL,
        evidence_hash=evidence,
        failed_probes=LEAST_PROBES,
        probe_window_s=PROBE_WINDOW_S,
        deadline_unix_s=reported.votes_until_unix_s,
    )
    for attestor in ATTESTORS[:votes]:
        signature = sign_typed(attestor, breach_typed(reported, breach))
        vote = VoteCast(attestor.address, "breach", evidence, breach, "", signature)
        await here.tell("slash", slash_id, slash.CastVote(vote, at_unix_ms))
    return slash_id


async def stage(here: House, slash_id: str, wanted: str) -> Slash:
    found: Slash = await here.until("slash", slash_id, lambda state: state.stage == wanted)
    return found


async def test_a_quorum_stops_the_stream_and_after_the_window_the_payer_is_paid_once() -> None:
    async with house(CoalitionChain) as here, here.keeping():
        chain = chain_of(here)
        await told_of_its_coalition(here)
        key, paid = await serving(here, 800)
        slash_id = await decided(here, key, paid)
        case = await stage(here, slash_id, "claimed")
        assert case.claim is not None
        assert case.claim.amount_micro == STALL
        state = await here.flows(key, 0)
        assert isinstance(state, stream.Stream)
        assert await chain.contract.read(chain.rpc, "isEvicted", ACCUSED.address)
        with pytest.raises(CallReverted):
            await chain.tell("execute", case.claim.claim_id)
        held = await chain.usdc_of(chain.payer.address)
        await here.end(key, 1)
        await here.close(key)
        await here.settled(key)
        refunded = await chain.usdc_of(chain.payer.address)
        assert refunded > held
        await next_at(chain.rpc, case.claim.executable_at_unix_s + 1)
        await chain.rpc.ask("anvil_mine", "0x1")
        done = await stage(here, slash_id, "executed")
        executed = done.seen[-1]
        assert isinstance(executed, Executed)
        assert executed.to_payer_micro + executed.to_treasury_micro == STALL
        assert executed.payer == chain.payer.address.lower()
        assert await chain.usdc_of(chain.payer.address) == refunded + executed.to_payer_micro
        assert await chain.usdc_of(chain.treasury) == executed.to_treasury_micro
        assert await chain.bond_of(ACCUSED) == BOND_MICRO - STALL
        assert await chain.bond_of(HONEST) == BOND_MICRO
        with pytest.raises(CallReverted):
            await chain.tell("execute", case.claim.claim_id)
        runs = [item for item in await here.history() if isinstance(item.event, workflow.Requested)]
        assert [
            (item.event.step, item.event.attempt)
            for item in runs
            if isinstance(item.event, workflow.Requested) and item.event.subject_id == slash_id
        ] == [("claim", 1), ("execute", 1)]
        report = await here.sound()
        assert (report.slashes, report.slashed_wei) == (1, str(STALL * 10**12))
        assert report.compensated_wei == str(executed.to_payer_micro * 10**12)
        assert report.bonds_wei == str((2 * BOND_MICRO - STALL) * 10**12)
        evidence = await evidence_of(chain.rpc, chain.manifest)
        history = await here.history()
        for name, lie in LIES.items():
            books = SlashBooks(list(history), evidence, chain.coalition, chain.payer.address)
            lie(books)
            found = audit_money(books.log, books.evidence)
            assert not found.sound, name
            named = {item.session for item in found.findings}
            assert named <= {key, chain.coalition.lower()}, (name, found.findings)
            assert named, name


async def test_two_of_five_open_no_claim() -> None:
    async with house(CoalitionChain) as here, here.keeping():
        await told_of_its_coalition(here)
        key, paid = await serving(here, 801)
        slash_id = await decided(here, key, paid, votes=2)
        other, paid_too = await serving(here, 802)
        await stage(here, await decided(here, other, paid_too), "claimed")
        assert (await here.state("slash", slash_id)).stage == "proven"
        assert int(await chain_of(here).contract.read(chain_of(here).rpc, "claimCount")) == 1


@pytest.mark.parametrize("upheld", [True, False, None])
@pytest.mark.long
async def test_a_dispute_freezes_until_there_is_a_ruling_or_its_time_is_over(upheld: bool | None) -> None:
    async with house(CoalitionChain) as here, here.keeping():
        chain = chain_of(here)
        await told_of_its_coalition(here)
        key, paid = await serving(here, 803)
        slash_id = await decided(here, key, paid)
        case = await stage(here, slash_id, "claimed")
        assert case.claim is not None
        claim_id = case.claim.claim_id
        await chain.as_operator(ACCUSED, "dispute", claim_id)
        await stage(here, slash_id, "disputed")
        await next_at(chain.rpc, case.claim.executable_at_unix_s + 1)
        await chain.rpc.ask("anvil_mine", "0x1")
        if upheld is None:
            await next_at(chain.rpc, case.claim.executable_at_unix_s + RULING_WINDOW_S)
            await chain.tell("cancelUnruled", claim_id)
        else:
            deadline = (await chain.rpc.block()).timestamp + 600
            await chain.tell("rule", claim_id, upheld, deadline, rulings(chain, claim_id, upheld, deadline))
        done = await stage(here, slash_id, "executed" if upheld else "cancelled")
        assert isinstance(done.seen[-1], Executed if upheld else Cancelled)
        lost = STALL + 400_000 if upheld else 0
        assert await chain.bond_of(ACCUSED) == BOND_MICRO - lost
        runs = [item.event for item in await here.history() if isinstance(item.event, workflow.Requested)]
        assert [run.step for run in runs if run.subject_id == slash_id] == ["claim"]


def rulings(chain: CoalitionChain, claim_id: int, upheld: bool, deadline: int) -> list[bytes]:
    message = {"claimId": claim_id, "upheld": upheld, "deadline": deadline}
    domain = contract_domain("ComputePool Coalition", "1", 31337, chain.coalition)
    typed = typed_data(domain, "Ruling", ("uint256", "bool", "uint256"), message)
    chosen = sorted(ARBITERS, key=lambda one: int(one.address, 16))[:4]
    return [bytes.fromhex(sign_typed(one, typed)) for one in chosen]


async def test_a_keeper_that_dies_between_claim_and_execution_goes_on_and_repeats_nothing() -> None:
    async with house(CoalitionChain) as here:
        chain = chain_of(here)
        await told_of_its_coalition(here)
        async with here.keeping():
            key, paid = await serving(here, 804)
        slash_id = await decided(here, key, paid)
        async with here.keeping():
            case = await stage(here, slash_id, "claimed")
        assert case.claim is not None
        await next_at(chain.rpc, case.claim.executable_at_unix_s + 1)
        await chain.rpc.ask("anvil_mine", "0x1")
        async with here.keeping():
            await stage(here, slash_id, "executed")
        assert int(await chain.contract.read(chain.rpc, "claimCount")) == 1
        assert await chain.bond_of(ACCUSED) == BOND_MICRO - STALL


async def test_a_claim_whose_block_is_taken_back_is_opened_again() -> None:
    async with house(CoalitionChain) as here, here.keeping():
        chain = chain_of(here)
        await told_of_its_coalition(here)
        key, paid = await serving(here, 805)
        snapshot = await chain.rpc.ask("evm_snapshot")
        slash_id = await decided(here, key, paid)
        first = await stage(here, slash_id, "claimed")
        await chain.rpc.ask("evm_revert", snapshot)
        await chain.rpc.ask("anvil_mine", "0x3")
        again: Slash = await here.until(
            "slash",
            slash_id,
            lambda state: state.stage == "claimed" and state.claim.at != first.claim.at,  # type: ignore[union-attr]
        )
        assert again.claim is not None
        names = [item.type for item in await here.history() if item.aggregate_id == slash_id]
        assert names[-3:] == ["slash.claim_opened.v1", "slash.reverted.v1", "slash.claim_opened.v1"]
        assert int(await chain.contract.read(chain.rpc, "claimCount")) == 1
