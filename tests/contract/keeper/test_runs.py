"""Every change of a paid session's money is a run in the log, whose transactions the chain shows."""

from collections.abc import Iterable

from events import stream, workflow
from events.envelope import Recorded
from events.ids import run_command_id, run_id_of, run_key
from services.handle import handle
from services.keeper.callbacks import Callbacks
from services.keeper.definitions import definition_of
from services.keeper.grants import Grants
from services.keeper.hook_secret import FILE, FILE_BEFORE
from services.keeper.runner.runner import Runner
from tests.aggregates import cause
from tests.keeping import House, house, now_ms


def of_kind(history: Iterable[Recorded], kind: str) -> list[Recorded]:
    return [item for item in history if item.kind == kind]


async def all_ended(here: House) -> dict[str, workflow.Run]:
    """The runs, once none is open any more."""
    runs: dict[str, workflow.Run] = {}
    ids = {item.aggregate_id for item in of_kind(await here.history(), "workflow")}
    for run_id in ids:
        runs[run_id] = await here.until("workflow", run_id, lambda state: state.ended is not None)
    return runs


async def test_every_fact_on_the_chain_was_made_by_a_run_that_called_back() -> None:
    async with house() as here, here.keeping():
        key, _ = await here.pay(700)
        await here.start(key, 1)
        await here.flows(key, 1)
        await here.chain.wait(5)
        await here.end(key, 1)
        await here.flows(key, 0)
        await here.close(key)
        await here.settled(key)
        runs = await all_ended(here)
        by_step = {run.requested.step: run for run in runs.values()}
        assert sorted(by_step) == ["1:open-1", "2:stop-0", "3:close-0"]
        confirmed = [run.ended for run in runs.values() if isinstance(run.ended, workflow.Confirmed)]
        sent = {one.hash for ended in confirmed for one in ended.transactions}
        history = await here.history()
        facts = [item.event for item in of_kind(history, "stream") if isinstance(item.event, stream.Fact)]
        assert {fact.at.tx for fact in facts} == sent
        asked = {
            item.aggregate_id: item.event_id for item in history if isinstance(item.event, workflow.Requested)
        }
        assert {run_id: run_key(run_id) for run_id in runs} == asked
        told = [(body["event"], body["run_key"], body["tx_hash"]) for _, body in here.callbacks.bodies]
        assert {run_id for _, run_id, _ in told} == set(runs)
        assert {tx for _, _, tx in told} == sent
        assert {event for event, _, _ in told} == {"stream_started", "stream_stopped"}
        await here.sound()


async def test_a_run_that_another_asked_for_is_carried_out_and_a_second_attempt_is_another_run() -> None:
    async with house() as here, here.keeping():
        key, paid = await here.pay(701)
        await here.start(key, 1)
        await here.flows(key, 1)
        ended = []
        for attempt in (1, 2):
            run_id = await asks(here, key, paid.escrow, attempt)
            ended.append(await here.until("workflow", run_id, lambda state: state.ended is not None))
        assert ended[0].accepted.execution_id != ended[1].accepted.execution_id
        for run in ended:
            assert isinstance(run.ended, workflow.Failed)
            assert (run.ended.code, run.ended.retryable) == ("too_many_active", False)
            assert run.ended.transactions == ()


async def test_a_run_is_told_the_same_about_calling_back_after_the_key_and_the_address_have_changed() -> None:
    """Its execution stands at the backend already; the keeper that sent it there died before it said so."""
    async with house() as here:
        key, paid = await here.pay(702)
        run_id = await asks(here, key, paid.escrow, 1)
        history = await here.around.log.history("workflow", run_id)
        requested, at_unix_ms = history.recorded[0].event, history.recorded[0].time_unix_ms
        assert isinstance(requested, workflow.Requested)
        old = Callbacks.of(here.around.settings.model_copy(update={"gateway_url": "http://127.0.0.1:9"}))
        told = await Grants(here.engine, old).input(run_id, requested, at_unix_ms)
        dying = Runner(here.engine)
        workflow_id = await dying.ensure_workflow(definition_of(requested.workflow))
        whole = {**requested.input, "run_key": run_id, **told}
        execution_id = await dying.execute(workflow_id, whole, run_key(run_id))
        await dying.close()
        keys = here.around.settings.state_dir / "keys"
        (keys / FILE).rename(keys / FILE_BEFORE)
        async with here.keeping():
            run = await here.until("workflow", run_id, lambda state: state.ended is not None)
        assert run.accepted.execution_id == execution_id
        assert run.ended.code != "idempotency_conflict"


async def asks(here: House, key: str, escrow: str, attempt: int) -> str:
    """To pay for more requests than the terms allow: the contract refuses, and nothing is sent."""
    run_id = run_id_of("stream-start", key, "test", attempt)
    input = {"network": "31337", "session_id": key, "mode": "change", "escrow": escrow, "active": "99"}
    requested = workflow.Requested("stream-start", "stream", key, "test", attempt, input)
    asked = cause(run_command_id(run_id), now_ms())
    await handle(here.around.log, "workflow", run_id, workflow.Request(requested), asked)
    return run_id
