"""A role killed with SIGKILL at every step of a paid session: the session ends settled, nobody pays twice."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest
from eth_account.signers.local import LocalAccount
from rich.console import Console
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from events.envelope import Recorded, decode_commit
from services import credentials
from services.agent import Agent, AnswerFailed, Spoken
from services.chain.rpc import connected
from services.demo_money import PRICE_WEI_PER_S, PURSE_MICRO, Market, is_settled, manifest_of
from services.gateway import session_keys
from services.gateway_rest import GatewayRefused
from services.log import EventLog
from services.money_audit import audit
from services.payer import NotPaid
from services.stack.stack import database_url
from services.typed_data import sign_typed
from tests.contract.gateway_house import until
from tests.e2e.network import POOL, Network, network

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

CLAIMED, FIRST_TOKEN = "its voucher's row is claimed", "the client got its first token"
STEPS = (
    CLAIMED,
    "session.payment_verified.v1",
    "session.payment_settled.v1",
    "session.request_started.v1",
    "stream.start_requested.v1",
    "stream.started.v1",
    FIRST_TOKEN,
    "session.generation_ended.v1",
    "stream.stop_requested.v1",
    "stream.stopped.v1",
    "session.close_requested.v1",
    "session.settled.v1",
)
ASK = [{"role": "user", "content": "Tell me a story about a brave fox named Mira."}]
SETTLED_WITHIN_S = 120.0
CLAIMS = 7
"""The key of the advisory lock that holds a claim back."""
FAILED = (AnswerFailed, GatewayRefused, NotPaid, httpx.HTTPError)


async def first_of(net: Network, step: str, after_sequence: int) -> Recorded:
    """The next event of this type in the log."""
    async with net.role("auditor") as client:
        async for message in (await EventLog.open(client, None)).read(after_sequence):
            for recorded in decode_commit(
                message.subject, message.sequence, message.headers, message.payload
            ):
                if recorded.type == step:
                    return recorded
    raise AssertionError("the log ended")


@contextlib.asynccontextmanager
async def claims_held(net: Network) -> AsyncIterator[AsyncConnection]:
    """While this lasts, a claimed row is being committed: nobody sees it, and its writer does not go on.

    At the end it is there, also when its writer is not.
    """
    engine = credentials.engine_of(database_url(net.settings)).execution_options(isolation_level="AUTOCOMMIT")
    wait = f"BEGIN PERFORM pg_advisory_xact_lock({CLAIMS}); RETURN NULL; END"
    try:
        async with engine.connect() as connection:
            for statement in (
                f"CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS '{wait}'",
                "CREATE CONSTRAINT TRIGGER held AFTER INSERT ON vouchers DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION held()",
                f"SELECT pg_advisory_lock({CLAIMS})",
            ):
                await connection.execute(text(statement))
            try:
                yield connection
            finally:
                await connection.execute(text(f"SELECT pg_advisory_unlock({CLAIMS})"))
                await connection.execute(text("DROP FUNCTION held CASCADE"))
    finally:
        await engine.dispose()


async def claim_waits(connection: AsyncConnection) -> bool:
    waiting = f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = {CLAIMS} AND NOT granted"
    return (await connection.execute(text(waiting))).first() is not None


@contextlib.asynccontextmanager
async def stopped_at(net: Network, step: str, first_token: asyncio.Event) -> AsyncIterator[Awaitable[object]]:
    """Awaits the step, which is over when this ends."""
    if step == CLAIMED:
        async with claims_held(net) as connection:
            yield until(lambda: claim_waits(connection), 60)
    elif step == FIRST_TOKEN:
        yield first_token.wait()
    else:
        async with net.role("auditor") as client:
            before = await (await EventLog.open(client, None)).last_sequence()
        yield first_of(net, step, before)


async def visit(agent: Agent, first_token: asyncio.Event) -> None:
    """Buys, asks, settles; whatever fails is not tried again."""
    with contextlib.suppress(*FAILED):
        await agent.buy()
        async for _ in agent.ask(ASK, Spoken(), temperature=0, max_completion_tokens=24):
            first_token.set()
        await agent.settle()


async def key_again(net: Network, session_id: str, account: LocalAccount) -> str:
    """As a payer whose answer was lost gets it."""
    deadline = int(time.time()) + 300
    typed = session_keys.asking(session_id, deadline, net.settings.chain_id)
    signature = "0x" + sign_typed(account, typed).removeprefix("0x")
    async with httpx.AsyncClient(base_url=net.settings.public_url, trust_env=False, timeout=60) as client:
        body = {"deadline": deadline, "signature": signature}
        answer = await client.post(f"/sessions/{session_id}/key", json=body)
    return str(answer.json()["session_key"]) if answer.status_code == 200 else ""


async def give_back(net: Network, agent: Agent, account: LocalAccount, session_id: str) -> None:
    """What a sensible client does after a failure: it asks for the session to be settled, until it is."""

    async def asked() -> bool:
        agent.key = agent.key or await key_again(net, session_id, account)
        if not agent.key:
            return False  # the gateway has not brought its payment to an end yet
        headers = {"Authorization": f"Bearer {agent.key}"}
        async with httpx.AsyncClient(base_url=net.settings.public_url, trust_env=False, timeout=60) as client:
            answer = await client.post(f"/sessions/{session_id}/settle", headers=headers)
        return answer.status_code == 200 or answer.json().get("code") == "session_closed"

    await until(asked, SETTLED_WITHIN_S)


async def session_of(net: Network, payer: str) -> str:
    """The one that this payer's voucher opened, or is about to."""
    engine = credentials.engine_of(database_url(net.settings))
    try:
        async with engine.connect() as connection:
            asked = text("SELECT session_id FROM vouchers WHERE payer = :payer")
            return str((await connection.execute(asked, {"payer": payer.lower()})).scalar_one())
    finally:
        await engine.dispose()


async def killed_at(net: Network, market: Market, victim: str, step: str) -> dict[str, Any]:
    """The session's row at the end, after `victim` was killed at this step."""
    agent, first_token = await market.agent(f"{victim} at {step}"), asyncio.Event()
    assert agent.payer is not None
    account = agent.payer.account
    async with stopped_at(net, step, first_token) as reached:
        visiting = asyncio.create_task(visit(agent, first_token))
        await asyncio.wait_for(reached, 60)
        await net.kill(victim)
    await net.restart(victim)
    await until(net.ready, 60)
    await visiting
    session_id = await session_of(net, account.address)
    await give_back(net, agent, account, session_id)
    row: dict[str, Any] = await market.row(session_id, is_settled, SETTLED_WITHIN_S)
    assert is_settled(row), (victim, step, row)
    held = await market.usdc_of(account.address)
    voucher_micro = int(row["cap_wei"]) // 10**12
    assert held == PURSE_MICRO - voucher_micro + int(row["refund_wei"]) // 10**12, (victim, step, row)
    return row


@pytest.mark.parametrize("victim", ["gateway", "orchestrator", "keeper"])
async def test_a_role_killed_at_every_step_of_a_paid_session_loses_and_repeats_nothing(
    tmp_path: Path, victim: str
) -> None:
    price = PRICE_WEI_PER_S
    async with network(tmp_path / "state", price_wei_per_s=price, request_deadline_s=20.0) as net:
        async with net.rest(net.operator) as rest, connected(net.settings.chain_rpc_url or "") as rpc:
            market = Market(net.settings, POOL, rpc, manifest_of(net.settings), rest, Console(stderr=True))
            rows = [await killed_at(net, market, victim, step) for step in STEPS]
            assert len({row["session_id"] for row in rows}) == len(STEPS)
        report, compared = await audit(net.settings)
        assert (report.findings, report.wei_drift, compared) == ((), "0", True)
        assert report.sound
        assert report.sessions == len(STEPS)
        assert {line.state for line in report.lines} == {"settled"}
        assert await settlements(net) == [1] * len(STEPS)


async def settlements(net: Network) -> list[int]:
    """How many transactions were mined for each voucher."""
    engine = credentials.engine_of(database_url(net.settings))
    statement = (
        "SELECT count(*) FROM chain_transactions WHERE intent LIKE 'voucher:%' AND state = 'mined'"
        " GROUP BY intent"
    )
    try:
        async with engine.connect() as connection:
            return [int(row[0]) for row in await connection.execute(text(statement))]
    finally:
        await engine.dispose()
