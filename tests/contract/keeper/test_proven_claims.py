"""A claim that two receipts proved to the contract, by whomever: in the log as it happened, and audited."""

from pathlib import Path

import pytest

from events import node, pool, slash, workflow
from events.chain import ChainRef
from events.claim import ClaimOpened, Executed
from events.coalition import BreachTerms
from events.ids import slash_id_of
from events.slash import Slash
from shard_runtime.receipts import Terms
from tests.aggregates import registered, ulid
from tests.coalition_chain import (
    ATTESTORS,
    LEAST_PROBES,
    MOST_MICRO,
    OPERATORS,
    PROBE_WINDOW_S,
    RECEIPT_KEYS,
    CoalitionChain,
)
from tests.contract.keeper.test_breaches import chain_of, serving, told_of_its_coalition
from tests.equivocating import Worker, calldata
from tests.keeping import House, house, now_ms
from tests.paid_chain import PaidSession
from tests.slashing import reported

ACCUSED, KIND = OPERATORS[0], 3


async def case_against(here: House, key: str, paid: PaidSession) -> str:
    """As an operator or a payer reports it, with the coalition's terms."""
    slash_id = slash_id_of(key, ACCUSED.address, "equivocation")
    said = reported(
        session_id=key,
        node_id=ulid(100),
        operator=ACCUSED.address,
        receipt_key=RECEIPT_KEYS[0].address,
        kind="equivocation",
        escrow=paid.escrow,
        coalition=chain_of(here).coalition,
        attestors=tuple(one.address for one in ATTESTORS),
        most_micro=MOST_MICRO[KIND],
        least_probes=LEAST_PROBES,
        longest_probe_window_s=PROBE_WINDOW_S,
        at_unix_ms=now_ms(),
        deterministic=True,
    )
    await here.tell("slash", slash_id, slash.Report(said))
    return slash_id


async def proven(here: House, paid: PaidSession, directory: Path) -> None:
    """Somebody has two receipts, and needs nobody."""
    chain = chain_of(here)
    terms = Terms(31337, chain.coalition, 1, paid.escrow)
    first = Worker(directory / "first", RECEIPT_KEYS[0]).serve(terms)
    second = Worker(directory / "second", RECEIPT_KEYS[0]).serve(terms, lie=50)
    await chain.send(chain.admin, chain.coalition, calldata(chain.contract, paid.escrow, first[0], second[0]))


async def audited(here: House, key: str, slash_id: str) -> Slash:
    """To the session's end: claim and slash of one transaction, no run for either, and sound books."""
    done: Slash = await here.until(
        "slash", slash_id, lambda state: isinstance(state, Slash) and state.stage == "executed"
    )
    opened, executed = done.seen
    assert isinstance(opened, ClaimOpened)
    assert isinstance(executed, Executed)
    assert opened.at.tx == executed.at.tx
    assert (done.evidence, done.votes, done.quorum) == (None, (), None)
    await here.flows(key, 0)
    await here.end(key, 1)
    await here.close(key)
    await here.settled(key)
    runs = [item.event for item in await here.history() if isinstance(item.event, workflow.Requested)]
    assert not [run for run in runs if run.subject_id == slash_id]
    report = await here.sound()
    assert (report.slashes, report.slashed_wei) == (1, str(MOST_MICRO[KIND] * 10**12))
    return done


@pytest.mark.long
async def test_a_reported_breach_that_receipts_proved_is_executed_without_a_run_or_a_vote(
    tmp_path: Path,
) -> None:
    async with house(CoalitionChain) as here, here.keeping():
        await told_of_its_coalition(here)
        key, paid = await serving(here, 840)
        slash_id = await case_against(here, key, paid)
        await proven(here, paid, tmp_path)
        done = await audited(here, key, slash_id)
        assert done.report.reporter == "policy"


async def test_a_claim_that_nobody_reported_is_a_case_in_the_log_all_the_same(tmp_path: Path) -> None:
    """A stranger has the receipts and asks nobody; a keeper that comes later finds it too."""
    async with house(CoalitionChain) as here:
        chain = chain_of(here)
        async with here.keeping():
            await told_of_its_coalition(here)
            block = await chain.rpc.block()
            at = ChainRef(31337, block.number, block.hash, block.timestamp, "0x" + "0e" * 32, 0)
            attestors = tuple(one.address for one in ATTESTORS)
            terms = BreachTerms(attestors, 3, MOST_MICRO, LEAST_PROBES, PROBE_WINDOW_S, True)
            opened = pool.CoalitionOpened(chain.coalition, 31337, 1, 1, chain.gda_pool, at, terms)
            await here.tell("pool", ulid(500), pool.OpenCoalition(opened))
            keys = {"payout_wallet": ACCUSED.address, "receipt_key": RECEIPT_KEYS[0].address}
            await here.tell("node", ulid(100), node.Register(registered(100, **keys)))
            key, paid = await serving(here, 841)
        await proven(here, paid, tmp_path)
        async with here.keeping():
            slash_id = slash_id_of(key, ACCUSED.address, "equivocation")
            done = await audited(here, key, slash_id)
        assert (done.report.reporter, done.report.node_id) == ("chain", ulid(100))
        assert (done.report.coalition, done.report.attestors) == (chain.coalition, attestors)
