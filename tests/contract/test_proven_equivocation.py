"""What workers sign, before the contract that judges two answers to one input by itself: a real anvil."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace

from events.breach import KINDS
from services.chain.revert import named
from services.chain.rpc import CallReverted
from shard_runtime.receipts import NodeReceipts, Terms
from shard_runtime.signing import ReceiptKey
from shard_runtime.transcripts import Member, Transcript
from tests.aggregates import ulid
from tests.anvil import deployed_chain
from tests.coalition_chain import BOND_MICRO, MOST_MICRO, OPERATORS, RECEIPT_KEYS, CoalitionChain
from tests.equivocating import ANSWER, ATTEMPT, POOL, PROMPT, REQUEST, SAMPLING, Signed, Worker, calldata
from tests.paid_chain import RATE, PaidSession

KIND = KINDS.index("equivocation")
MOST = MOST_MICRO[KIND]
SECONDS = 30


class Tolerant(CoalitionChain):
    """Its members may compute other bits."""

    deterministic = False


@pytest_asyncio.fixture
async def chain() -> AsyncIterator[CoalitionChain]:
    async with deployed_chain() as (rpc, manifest):
        made = CoalitionChain(rpc, manifest)
        await made.prepare()
        yield made


async def streaming(chain: CoalitionChain) -> tuple[PaidSession, Terms]:
    """A session that pays this coalition, and the terms that its ring was told."""
    paid = await chain.agree(1)
    await chain.settle(paid)
    await chain.open(paid, 1)
    epoch = int(await chain.contract.read(chain.rpc, "epoch"))
    return paid, Terms(31337, chain.coalition, epoch, paid.escrow)


async def refusal(chain: CoalitionChain, session: str, first: Signed, second: Signed) -> str:
    """The contract's error, by its name."""
    data = calldata(chain.contract, session, first, second)
    with pytest.raises(CallReverted) as refused:
        await chain.rpc.call(chain.coalition, data, sender=chain.controller)
    return named(refused.value.data).partition("(")[0]


async def test_two_outputs_that_one_worker_signed_cost_its_bond_at_once(
    chain: CoalitionChain, tmp_path: Path
) -> None:
    """No vote, by anybody: the stream stops, the operator is evicted, the payer has his money back."""
    paid, terms = await streaming(chain)
    honest = Worker(tmp_path / "first", RECEIPT_KEYS[0]).serve(terms)
    lying = Worker(tmp_path / "second", RECEIPT_KEYS[0]).serve(terms, lie=50)
    assert [one.receipt.segment for one in honest] == [1, 2]
    assert [one.receipt.input_hash for one in honest] == [one.receipt.input_hash for one in lying]
    operator, operator_bond = OPERATORS[0], await chain.bond_of(OPERATORS[0])
    other_bond, had = await chain.bond_of(OPERATORS[1]), await chain.usdc_of(chain.payer.address)
    await chain.wait(SECONDS)
    receipt = await chain.send(
        chain.controller, chain.coalition, calldata(chain.contract, paid.escrow, honest[0], lying[0])
    )

    said = [one for one in map(chain.contract.said, receipt.logs) if one is not None]
    assert [one.name for one in said] == ["EpochEnded", "Evicted", "ClaimOpened", "Slashed"]
    opened, slashed = said[2].values, said[3].values
    assert (opened["session"], opened["operator"]) == (paid.escrow.lower(), operator.address.lower())
    assert (opened["kind"], opened["amount"]) == (KIND, MOST)
    paid_micro = SECONDS * RATE // 10**12
    assert (slashed["toPayer"], slashed["toTreasury"]) == (paid_micro, MOST - paid_micro)
    assert await chain.usdc_of(chain.payer.address) - had == paid_micro
    assert await chain.usdc_of(chain.treasury) == MOST - paid_micro
    assert await chain.bond_of(operator) == operator_bond - MOST == BOND_MICRO - MOST
    assert await chain.bond_of(OPERATORS[1]) == other_bond
    assert await chain.number(paid.escrow, "active()") == 0
    assert await chain.contract.read(chain.rpc, "isEvicted", operator.address)
    assert await refusal(chain, paid.escrow, lying[1], honest[1]) == "ClaimExists"


async def test_what_proves_no_lie_is_refused_by_its_name(chain: CoalitionChain, tmp_path: Path) -> None:
    """Honest work done twice, other segments, attempts and requests, other keys, altered and foreign ones."""
    paid, terms = await streaming(chain)
    key, another = RECEIPT_KEYS

    def serve(name: str, by: ReceiptKey = key, about: Terms = terms, **how: object) -> list[Signed]:
        return Worker(tmp_path / name, by).serve(about, **how)  # type: ignore[arg-type]

    honest, again, lying = serve("honest"), serve("again"), serve("lying", lie=50)
    assert honest == again

    async def refused(first: Signed, second: Signed, session: str = paid.escrow) -> str:
        return await refusal(chain, session, first, second)

    same: list[Awaitable[str]] = [
        refused(honest[0], again[0]),
        refused(honest[0], lying[1]),
        refused(honest[1], lying[1].altered(segment=1)),
        refused(honest[1], serve("moved", attempt=8)[1]),
        refused(honest[0], serve("other", request_id=ulid(602), lie=50)[0]),
        refused(honest[0], serve("partner", by=another, lie=50)[0]),
        refused(honest[0], lying[0].altered(output_hash="0" * 64)),
        refused(honest[0], lying[0].altered(signature=honest[0].receipt.signature)),
        refused(honest[0], serve("later", about=replace(terms, epoch=2), lie=50)[0]),
        refused(honest[0], serve("elsewhere", about=replace(terms, coalition=chain.factory), lie=50)[0]),
        refused(honest[0], serve("remote", about=replace(terms, chain_id=1), lie=50)[0]),
        refused(honest[0], lying[0], session=(await chain.agree(2)).escrow),
    ]
    assert set(await asyncio.gather(*same)) == {"NotEquivocation"}
    stranger = ReceiptKey(b"\x07" * 32)
    unseated = (serve("stranger", by=stranger)[0], serve("stranger again", by=stranger, lie=50)[0])
    assert await refused(*unseated) == "NotOperator"
    broken = lying[0].altered(signature="0" * 130)
    assert await refused(honest[0], broken) == "SignerInvalid"
    unopened = replace(terms, escrow=(await chain.agree(2)).escrow)
    nobody_paid = (serve("unpaid", about=unopened)[0], serve("unpaid again", about=unopened, lie=50)[0])
    assert await refused(*nobody_paid, session=unopened.escrow) == "NotSession"
    assert await chain.contract.read(chain.rpc, "claimCount") == 0


async def test_a_node_with_its_journal_is_never_proven_a_liar(tmp_path: Path) -> None:
    """Whatever it computes again after a crash or at another's wish: it signs one output for one input."""
    terms = Terms(31337, "0x" + "c0" * 20, 1, "0x" + "e5" * 20)
    first = Worker(tmp_path / "node", RECEIPT_KEYS[0]).serve(terms)
    assert Worker(tmp_path / "node", RECEIPT_KEYS[0]).serve(terms, lie=50) == []
    assert Worker(tmp_path / "node", RECEIPT_KEYS[0]).serve(terms) == first


async def test_where_members_may_compute_other_bits_nothing_proves_itself(tmp_path: Path) -> None:
    async with deployed_chain() as (rpc, manifest):
        chain = Tolerant(rpc, manifest)
        await chain.prepare()
        paid, terms = await streaming(chain)
        first = Worker(tmp_path / "first", RECEIPT_KEYS[0]).serve(terms)
        second = Worker(tmp_path / "second", RECEIPT_KEYS[0]).serve(terms, lie=50)
        assert await refusal(chain, paid.escrow, first[0], second[0]) == "NotDeterministic"


def transcript(terms: Terms, signed: list[Signed]) -> Transcript:
    """As the payer keeps it, of a ring of one."""
    receipts = (NodeReceipts(ulid(100), tuple(one.receipt for one in signed)),)
    member = Member(ulid(100), RECEIPT_KEYS[0].address, 0, 2)
    told = (SAMPLING, "0" * 64, PROMPT, ANSWER, 0, receipts)
    return Transcript(1, terms, POOL, ulid(600), REQUEST, ATTEMPT, "0" * 64, "float32", (member,), *told)


async def test_a_person_proves_it_from_two_transcripts_with_a_wallet_of_his_own(
    chain: CoalitionChain, tmp_path: Path
) -> None:
    _, terms = await streaming(chain)
    files = [tmp_path / name for name in ("first.json", "second.json", "again.json")]
    for file, lie in zip(files, (None, 50, None), strict=True):
        signed = Worker(tmp_path / file.stem, RECEIPT_KEYS[0]).serve(terms, lie=lie)
        file.write_bytes(msgspec.json.encode(transcript(terms, signed)))
    first, second, again = map(str, files)
    honest, dry = await asyncio.gather(prove(chain, first, again), prove(chain, first, second, "--dry-run"))
    assert "nothing_twice" in honest["error"]
    assert (dry["node_id"], dry["coalition"]) == (ulid(100), chain.coalition)
    assert await chain.rpc.call(chain.coalition, bytes.fromhex(dry["calldata"][2:]), sender=chain.controller)
    assert await chain.contract.read(chain.rpc, "claimCount") == 0
    sent, alone = await asyncio.gather(prove(chain, first, second), prove(chain, first))
    assert "transcripts_unsuited" in alone["error"]
    assert (await chain.rpc.receipt(sent["transaction"])).succeeded  # type: ignore[union-attr]
    assert await chain.bond_of(OPERATORS[0]) == BOND_MICRO - MOST
    assert "ClaimExists" in (await prove(chain, second, first))["error"]


async def prove(chain: CoalitionChain, *words: str) -> dict[str, Any]:
    """What the command prints as JSON, or its error."""
    environment = {**os.environ, "CHAIN_RPC_URL": chain.rpc.url, "COMPUTEPOOL_STATE_DIR": "/nonexistent"}
    environment |= {"COMPUTEPOOL_WALLET_KEY": "0x" + "51" * 32}
    command = (sys.executable, "-m", "services.cli", "slash", "prove", *words, "--json")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)
    out, said = await process.communicate()
    return {"error": said.decode()} if process.returncode else dict(json.loads(out))
