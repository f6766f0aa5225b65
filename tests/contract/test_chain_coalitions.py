"""A pool's Coalition on a real anvil: where it was said to stand, with the terms it was given."""

from dataclasses import replace

import pytest

from services.chain import anvil, transactions
from services.chain.artifacts import artifact
from services.chain.coalitions import CoalitionTerms, Placement, coalition_of
from services.chain.contract import Contract
from services.chain.revert import named
from services.chain.rpc import CallReverted, Rpc
from tests.anvil import LOCAL, deployed_chain

MAKER = anvil.dev_account(6)
STEWARD, TREASURY = (anvil.dev_account(number).address for number in (7, 8))
TERMS = CoalitionTerms(
    steward=STEWARD,
    treasury=TREASURY,
    session_limit_micro=5_000_000,
    longest_session_s=86_400,
    least_bond_micro=1_000_000,
    counter_bond_micro=500_000,
    most_per_kind_micro=(1, 2, 3, 4, 5),
    dispute_window_s=3_600,
    ruling_window_s=7_200,
    unbond_delay_s=200_000,
    least_probes=3,
    longest_probe_window_s=60,
    deterministic=True,
    attestors=tuple(anvil.dev_account(number).address for number in (1, 2, 3)),
    quorum=2,
    arbiters=tuple(anvil.dev_account(number).address for number in (1, 2, 3, 4, 5)),
    arbiter_quorum=3,
)


async def put_up(rpc: Rpc, place: Placement) -> None:
    gas = await transactions.gas_for(rpc, LOCAL, MAKER.address, place.factory.address, place.data)
    signed = transactions.sign(
        MAKER,
        LOCAL,
        nonce=await rpc.nonce(MAKER.address),
        to=place.factory.address,
        data=place.data,
        gas=gas,
        fees=await transactions.fees(rpc, LOCAL),
    )
    await rpc.send(signed.raw)
    assert (await transactions.receipt_of(rpc, signed.hash, 30)).succeeded


async def test_it_stands_where_it_was_said_and_has_the_terms_it_was_given() -> None:
    async with deployed_chain() as (rpc, manifest):
        place = coalition_of(manifest, "tales", TERMS)
        assert not await rpc.code(place.address)
        await put_up(rpc, place)
        coalition = Contract(artifact("Coalition"), place.address)
        assert await coalition.read(rpc, "steward") == STEWARD.lower()
        assert await coalition.read(rpc, "factory") == manifest.at("SessionEscrowFactory").lower()
        assert await coalition.read(rpc, "quorum") == 2
        assert await coalition.read(rpc, "isArbiter", TERMS.arbiters[4])
        code = await rpc.code(place.address)
        await put_up(rpc, place)
        assert await rpc.code(place.address) == code


async def test_another_pool_or_other_terms_are_another_place() -> None:
    async with deployed_chain() as (rpc, manifest):
        places = {
            coalition_of(manifest, "tales", TERMS).address,
            coalition_of(manifest, "rhymes", TERMS).address,
            coalition_of(manifest, "tales", replace(TERMS, quorum=3)).address,
        }
        assert len(places) == 3
        assert coalition_of(manifest, "tales", TERMS).address in places
        with pytest.raises(CallReverted) as refused:
            await put_up(rpc, coalition_of(manifest, "tales", replace(TERMS, quorum=1)))
        assert named(refused.value.data)
