"""Runs of three runners with a wallet each vote in one ballot on a real chain; who acts requires their
consensus.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from services.chain import anvil
from services.chain.artifacts import artifact
from services.chain.rpc import Rpc
from services.chain.sender import Sender
from services.chain.transactions import receipt_of
from services.credentials import engine_of
from services.keeper.runner.actions.coalition import result_hash
from services.keeper.runner.runner import Runner
from tests.anvil import LOCAL
from tests.contract.runner.conformance.row import export, node
from tests.contract.runner.test_runner import forget
from tests.postgres import database

VOTERS = tuple(anvil.dev_account(number) for number in (3, 4, 5))
WITHIN_S = 60.0
IN = "{{@trigger:Trigger."
WHERE: dict[str, Any] = {"network": f"{IN}network}}}}", "ballotBox": f"{IN}box}}}}"}
VOTE = export(
    "vote",
    (
        node(
            "open",
            "coalition/open-ballot",
            topic="session 7: start",
            voters=f"{IN}voters}}}}",
            quorum="2",
            deadlineUnix=f"{IN}deadline}}}}",
            **WHERE,
        ),
        node(
            "vote",
            "coalition/cast-vote",
            ballotId="{{@open:Open.ballotId}}",
            result=f"{IN}found}}}}",
            **WHERE,
        ),
        node("tally", "coalition/tally", ballotId="{{@open:Open.ballotId}}", **WHERE),
        node(
            "agreed",
            "coalition/require-consensus",
            ballotId="{{@open:Open.ballotId}}",
            result=f"{IN}found}}}}",
            **WHERE,
        ),
    ),
    "trigger>open open>vote vote>tally tally>agreed",
)


@contextlib.asynccontextmanager
async def chain_with_a_box() -> AsyncIterator[tuple[Rpc, dict[str, str]]]:
    async with anvil.running() as rpc:
        code = "0x" + artifact("BallotBox").init_code().hex()
        made = await rpc.ask("eth_sendTransaction", {"from": anvil.dev_account().address, "data": code})
        await receipt_of(rpc, made, WITHIN_S)
        box = (await rpc.ask("eth_getTransactionReceipt", made))["contractAddress"]
        yield (
            rpc,
            {
                "network": str(LOCAL.chain_id),
                "box": box,
                "voters": json.dumps([voter.address for voter in VOTERS]),
                "deadline": str((await rpc.block()).timestamp + 3_600),
            },
        )


async def ran(runner: Runner, given: Mapping[str, str], key: str) -> tuple[str, str | None, dict[str, Any]]:
    workflow = await runner.ensure_workflow(VOTE)
    execution = await runner.execute(workflow, given, key)
    found = await runner.wait(execution, WITHIN_S)
    return found.status, found.error, {log.node_id: log.output for log in await runner.logs(execution)}


async def test_nobody_goes_on_before_a_quorum_found_the_same_and_dissent_is_told() -> None:
    async with chain_with_a_box() as (rpc, world), database() as url:
        engine = engine_of(url)
        runners = [
            Runner(engine, rpc=rpc, network=LOCAL, sender=Sender(rpc, LOCAL, key, engine)) for key in VOTERS
        ]
        one, other = {"found": '{"price":"12.5","at":1}'}, {"found": '{"price":"13"}'}
        status, error, said = await ran(runners[0], world | one, "first")
        assert (status, error) == ("error", "no consensus: 1 of 2 votes agree (1 given)")
        assert (said["open"]["alreadyOpen"], said["vote"]["alreadyVoted"]) == (False, False)
        assert set(said["tally"]["missing"]) == {VOTERS[1].address, VOTERS[2].address}
        status, error, said = await ran(runners[1], world | other, "second")
        assert (status, said["open"]["alreadyOpen"], said["tally"]["reached"]) == ("error", True, False)
        same = {"found": '{ "at": 1, "price": "12.5" }'}
        status, error, said = await ran(runners[2], world | same, "third")
        assert (status, error) == ("success", None)
        assert said["agreed"]["winningHash"] == "0x" + result_hash(one["found"]).hex()
        assert (said["tally"]["dissent"], said["tally"]["missing"]) == ([VOTERS[1].address], [])
        status, _, said = await ran(runners[0], world | one, "first again")
        assert (status, said["vote"]["alreadyVoted"]) == ("success", True)
        status, error, _ = await ran(runners[0], world | other, "changed its mind")
        assert (status, (error or "").endswith("the first vote stands")) == ("error", True)
        for runner in runners:
            await runner.close()
        await engine.dispose()


async def test_a_vote_that_was_sent_by_a_process_that_died_is_found_and_not_cast_again() -> None:
    async with chain_with_a_box() as (rpc, world), database() as url:
        engine = engine_of(url)
        sender = Sender(rpc, LOCAL, VOTERS[0], engine)
        first = Runner(engine, rpc=rpc, network=LOCAL, sender=sender)
        given = world | {"found": "a text"}
        _, _, before = await ran(first, given, "key")
        (execution,) = await first.list_executions(await first.ensure_workflow(VOTE))
        await first.close()
        await forget(engine, execution.execution_id, "open", "vote", "tally", "agreed")
        second = Runner(engine, rpc=rpc, network=LOCAL, sender=sender)
        assert await second.resume() == 1
        status, _, after = await ran(second, given, "key")
        assert (status, after) == ("error", before)
        assert await rpc.nonce(VOTERS[0].address) == 2
        await second.close()
        await engine.dispose()


async def test_what_a_ballot_can_not_be_is_refused_before_anything_is_sent() -> None:
    async with chain_with_a_box() as (rpc, world), database() as url:
        engine = engine_of(url)
        runner = Runner(engine, rpc=rpc, network=LOCAL, sender=Sender(rpc, LOCAL, VOTERS[0], engine))
        for number, (wrong, why) in enumerate(
            (
                ({"voters": "[]"}, "1 to 64"),
                ({"voters": "me"}, "not JSON"),
                ({"voters": json.dumps([VOTERS[0].address] * 3)}, "twice"),
                ({"voters": json.dumps([VOTERS[0].address])}, "quorum"),
                ({"deadline": "soon"}, "deadlineUnix"),
                ({"box": "0x" + "99" * 20}, "ballotIdOf at"),
            )
        ):
            status, error, _ = await ran(runner, world | {"found": "x"} | wrong, str(number))
            assert status == "error"
            assert why in (error or "")
        assert await rpc.nonce(VOTERS[0].address) == 0
        await runner.close()
        await engine.dispose()
