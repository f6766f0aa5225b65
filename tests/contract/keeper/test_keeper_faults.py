"""What goes wrong around the keeper: it dies, the chain is away, blocks are taken back, others act."""

import itertools

import httpx
import pytest

from events import session, stream
from services.chain import abi
from tests.keeping import House, house
from tests.rpc_proxy import FAULTS

STEPS = (b"eth_estimateGas", b"eth_sendRawTransaction", b"eth_getTransactionReceipt", b"eth_getLogs")
"""What the keeper asks the chain: before it signs, before it sends, before it knows, before it tells."""


async def served(here: House, key: str, seconds: int = 5) -> None:
    """One request from its start to its end."""
    await here.start(key, 1)
    await here.flows(key, 1)
    await here.chain.wait(seconds)
    await here.end(key, 1)
    await here.flows(key, 0)


async def test_a_keeper_that_dies_while_it_sends_repeats_and_loses_nothing() -> None:
    async with house() as here:
        await dies_twice(here, 600, b"eth_sendRawTransaction")
        await here.sound()


@pytest.mark.long
async def test_a_keeper_that_dies_at_any_step_repeats_and_loses_nothing() -> None:
    async with house() as here:
        for number, step in enumerate(STEPS, 600):
            await dies_twice(here, number, step)
        report = await here.sound()
        assert report.settled == len(STEPS)


@pytest.mark.long
async def test_a_keeper_process_that_is_killed_at_any_step_repeats_and_loses_nothing() -> None:
    async with house() as here:
        for number, step in enumerate(STEPS, 600):
            await dies_twice(here, number, step, process=True)
        report = await here.sound()
        assert report.settled == len(STEPS)


async def dies_twice(here: House, number: int, step: bytes, process: bool = False) -> None:
    """At this step of a start, and at the same step of the last stop."""
    at_work = here.running if process else here.keeping
    key, _ = await here.pay(number)
    async with here.killed_at(step, process):
        await here.start(key, 1)
    async with at_work():
        await here.flows(key, 1)
    await here.chain.wait(5)
    async with here.killed_at(step, process):
        await here.end(key, 1)
        await here.close(key)
    async with at_work():
        await here.settled(key)
    assert (await here.facts(key)).count("started") == 1


async def test_an_rpc_that_is_away_only_delays() -> None:
    async with house() as here, here.keeping():
        key, _ = await here.pay(600)
        refused = 0

        def refuse(_: bytes) -> bool:
            nonlocal refused
            refused += 1
            return False

        here.proxy.on_request = refuse
        await here.start(key, 1)
        await here.until("stream", key, lambda state: isinstance(state, stream.Stream) and refused > 3)
        here.proxy.on_request = lambda _: True
        await here.flows(key, 1)
        await here.chain.wait(5)
        await here.end(key, 1)
        await here.close(key)
        await here.settled(key)
        await here.sound()


@pytest.mark.long
async def test_an_rpc_that_answers_with_errors_only_delays() -> None:
    """Whatever it answers to whatever is asked, nothing is believed of it."""
    async with house() as here, here.keeping():
        key, _ = await here.pay(600)
        errors, left = here.errors, list(FAULTS.values())
        for number in itertools.count():
            some, left = left[:3], left[3:]
            errors.passes_on = number % 4 < 2
            errors.fault = lambda _, some=some: some.pop() if some else None  # type: ignore[misc]
            request, starts = 1 + number // 2, number % 2 == 0
            await (here.start if starts else here.end)(key, request)
            await here.flows(key, int(starts))
            if not starts and not left and not some:
                break
        await here.close(key)
        await here.settled(key)
        assert "reverted" not in await here.facts(key)
        assert "session.payment_reverted.v1" not in {item.type for item in await here.history()}
        await here.sound()


async def test_blocks_taken_back_take_their_facts_back_and_everything_comes_again() -> None:
    async with house() as here, here.keeping():
        unpaid = await here.chain.rpc.ask("evm_snapshot")
        key, paid = await here.pay(600)
        unopened = await here.chain.rpc.ask("evm_snapshot")
        await here.start(key, 1)
        await here.flows(key, 1)
        await here.chain.rpc.ask("evm_revert", unopened)
        await here.told(key, ["start_requested", "started", "reverted", "started"])
        await here.chain.rpc.ask("evm_revert", unpaid)
        await here.until("session", key, lambda state: state.settlement is None)
        at = await here.chain.settle(paid)
        await here.until("session", key, lambda state: state.settlement == at)
        await here.end(key, 1)
        await here.settled(key)
        report = await here.audit()
        assert (report.findings, report.wei_drift, report.settled) == ((), "0", 1)


async def test_an_escrow_that_is_taken_back_between_two_looks_at_it_is_waited_for() -> None:
    async with house() as here, here.keeping():
        key, _ = await here.pay(601)
        unopened = await here.chain.rpc.ask("evm_snapshot")
        await here.start(key, 1)
        await here.flows(key, 1)
        asked: list[bytes] = []
        look = abi.selector("active()").hex().encode()

        def take_back(chunk: bytes) -> bool:
            if look in chunk and not asked:
                asked.append(chunk)
                body = {"jsonrpc": "2.0", "id": 1, "method": "evm_revert", "params": [unopened]}
                httpx.post(here.chain.rpc.url, json=body).raise_for_status()
            return True

        here.proxy.on_request = take_back
        await here.start(key, 2)
        await here.flows(key, 2)
        assert asked
        await here.chain.wait(5)
        await here.end(key, 1)
        await here.end(key, 2)
        await here.close(key)
        await here.settled(key)
        await here.sound()


async def test_what_the_payer_does_himself_is_reconciled() -> None:
    async with house() as here, here.keeping():
        key, paid = await here.pay(600, named=False)
        await here.start(key, 1)
        await here.flows(key, 1)
        await here.chain.wait(9)
        await here.as_payer(paid.escrow, "close()")
        await here.until("stream", key, lambda state: state.closed)
        await here.end(key, 1)
        await here.settled(key)
        assert (await here.facts(key))[-1] == "reconciled"
        await here.sound()


async def test_a_start_that_the_chain_refuses_for_good_closes_the_session() -> None:
    async with house() as here, here.keeping():
        key, _ = await here.pay(600)
        await served(here, key)
        nobody = "0x" + "0" * 40
        await here.chain.send(here.chain.admin, here.chain.coalition, abi.call("point(address)", nobody))
        await here.start(key, 2)
        settled = await here.settled(key)
        assert settled.requests == 2
        ended = [
            item.event for item in await here.history() if isinstance(item.event, session.GenerationEnded)
        ]
        assert [event.error_code for event in ended] == [None, "no_epoch"]
        await here.sound()


async def test_an_escrow_that_the_log_does_not_know_is_closed() -> None:
    async with house() as here:
        unknown = await here.chain.agree(999)
        await here.chain.settle(unknown)
        await here.chain.open(unknown, 1)
        async with here.keeping():
            key, _ = await here.pay(600)
            await here.start(key, 1)
            await here.flows(key, 1)
            closed = 2
            while await here.chain.number(unknown.escrow, "state()") != closed:
                await here.history()
        assert await here.facts(key) == ["start_requested", "started"]
