"""The accused disputes with its own payout key: real Coalition, real anvil; the log sees it."""

import pytest

from services.dispute import DisputeFailed, dispute
from tests.coalition_chain import CoalitionChain
from tests.contract.keeper.test_breaches import (
    ACCUSED,
    HONEST,
    chain_of,
    decided,
    serving,
    stage,
    told_of_its_coalition,
)
from tests.keeping import house


@pytest.mark.long
async def test_the_accused_disputes_its_own_claim_and_nobody_else_may() -> None:
    async with house(CoalitionChain) as here, here.keeping():
        chain = chain_of(here)
        await told_of_its_coalition(here)
        slash_id = await decided(here, *await serving(here, 810))
        claimed = await stage(here, slash_id, "claimed")
        assert claimed.claim is not None
        claim_id = claimed.claim.claim_id
        with pytest.raises(DisputeFailed, match="NotAccused"):
            await dispute(chain.rpc, HONEST, chain.coalition, claim_id)
        await dispute(chain.rpc, ACCUSED, chain.coalition, claim_id)
        assert (await stage(here, slash_id, "disputed")).due(2**40) is None
        with pytest.raises(DisputeFailed, match="ClaimNotIn"):
            await dispute(chain.rpc, ACCUSED, chain.coalition, claim_id)
