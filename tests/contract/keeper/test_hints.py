"""What callbacks say of a run is held against how the run ended, and changes nothing itself."""

import asyncio

from sqlalchemy import text

from events import workflow
from services.keeper.inbox import Inbox
from tests.aggregates import ulid
from tests.keeping import House, house

FALSE = "0x" + "0f" * 32


async def outcomes(here: House, count: int) -> dict[str, str]:
    """By delivery, once so many are known."""
    async with asyncio.timeout(60):
        while True:
            async with here.engine.connect() as connection:
                rows = await connection.execute(
                    text("SELECT delivery, outcome FROM webhook_inbox WHERE outcome IS NOT NULL")
                )
                found = {row.delivery: row.outcome for row in rows}
            if len(found) == count:
                return found
            await asyncio.sleep(0.05)


async def test_only_what_the_chain_bears_out_counts_and_a_false_tale_takes_nothing_from_a_true_one() -> None:
    async with house() as here:
        inbox = Inbox(here.engine)

        async def tell(delivery: str, run_key: str, tx: str | None, key_id: str | None = None) -> str:
            return await inbox.take(
                proof="n" * 32, delivery=delivery, key_id=key_id, execution="e", run_key=run_key,
                event="stream_started", transaction_hash=tx,
            )  # fmt: skip

        async with here.keeping():
            key, _ = await here.pay(710)
            await here.start(key, 1)
            await here.flows(key, 1)
            (run_id,) = {item.aggregate_id for item in await here.history() if item.kind == "workflow"}
            run = await here.until("workflow", run_id, lambda state: state.ended is not None)
            assert isinstance(run.ended, workflow.Confirmed)
            true = run.ended.transactions[0].hash
            before = await here.facts(key)
            assert await tell("false", run_id, FALSE) == "accepted"
            assert (await outcomes(here, 1)) == {"false": "mismatch"}
            assert await tell("true", run_id, true) == "accepted"
            assert await tell("nobody", ulid(9), true) == "accepted"
            assert await tell("silent", run_id, None, key_id="k") == "accepted"
            found = await outcomes(here, 4)
            assert (found["true"], found["nobody"], found["silent"]) == ("stale", "unknown_run", "mismatch")
            assert await tell("true", run_id, true) == "duplicate"
            assert await here.facts(key) == before
