"""The auditor of money over real sessions: real Superfluid and our escrows, a real log and database."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import psycopg

from events import payment, session, stream
from events.chain import ChainRef, EscrowTerms
from events.envelope import Commit, Recorded, decode_commit, encode_commit
from services.auditor.money import MoneyReport, audit_money
from services.chain import manifest as manifests
from services.chain_evidence import evidence_of
from tests.aggregates import FAR_FUTURE_MS, cause, opened, request_started, ulid
from tests.anvil import deployed_chain
from tests.money_evidence import number_of
from tests.paid_chain import CAP_MICRO, RATE, PaidChain, PaidSession
from tests.projecting import ROOT, Surroundings, projecting, surroundings

MICRO = 10**12
CAP = CAP_MICRO * MICRO
RATE_SET = "RateSet(address,uint32,int96,uint64)"
CLOSED = "Closed(uint64,uint256,uint256,uint256)"


class Log:
    """The event log of these sessions, told by receipts and by what the chain's views answer."""

    def __init__(self, chain: PaidChain) -> None:
        self.chain = chain
        self.recorded: list[Recorded] = []
        self.commits: list[Commit] = []
        self._versions: dict[tuple[str, str], int] = {}

    def tell(self, kind: str, key: str, *events: Any) -> None:
        version = self._versions.get((kind, key), 0) + 1
        self._versions[kind, key] = version + len(events) - 1
        commit = encode_commit(kind, key, version, events, cause(f"{kind} {key} {version}"))
        self.commits.append(commit)
        headers = {"Nats-Msg-Id": commit.commit_id}
        at = len(self.recorded) + 1
        self.recorded.extend(decode_commit(commit.subject, at, headers, commit.payload))

    def agreed(self, paid: PaidSession) -> EscrowTerms:
        payer = self.chain.payer.address
        return EscrowTerms(ulid(500), 31337, paid.escrow, payer, str(RATE), str(CAP))

    async def pay(self, key: str) -> PaidSession:
        paid = await self.chain.agree(number_of(key))
        terms, asset = self.agreed(paid), self.chain.usdc
        verified = payment.PaymentVerified(asset, paid.nonce, terms, 4, False, FAR_FUTURE_MS)
        settled = payment.PaymentSettled(str(CAP), await self.chain.settle(paid))
        priced = session.Opened(ulid(500), terms.payer, str(RATE), False, FAR_FUTURE_MS)
        self.tell("session", key, verified, settled, priced, request_started(1))
        return paid

    async def started(self, key: str, paid: PaidSession, active: int, at: ChainRef) -> None:
        stop = await self.chain.number(paid.escrow, "hardStop()")
        paid_out = await self.chain.received()
        flow = (active, str(active * RATE), 1, self.chain.gda_pool, stop)
        self.tell("stream", key, stream.Started(*flow, paid_out, "0", at))

    async def stopped(self, key: str, at: ChainRef, instant: int = 0, refund: int | None = None) -> None:
        paid_out = await self.chain.received()
        closed, back = refund is not None, str(refund or 0)
        self.tell("stream", key, stream.Stopped(paid_out, str(instant), closed, back, at))

    async def report(self) -> MoneyReport:
        evidence = await evidence_of(self.chain.rpc, self.chain.manifest)
        return audit_money(self.recorded, evidence)


async def paid_session(log: Log, key: str) -> int:
    """37 s, 11 s of two requests, 1 s that costs the least time of 2. Returns what it cost, in wei."""
    chain = log.chain
    paid = await log.pay(key)
    log.tell("stream", key, stream.StartRequested(1, log.agreed(paid), 1, 1, 0))
    first = await chain.open(paid, 1)
    await log.started(key, paid, 1, await chain.ref(first, paid.escrow, RATE_SET))
    await chain.wait(37)
    more = await chain.set_active(paid, 2)
    await log.started(key, paid, 2, await chain.ref(more, paid.escrow, RATE_SET))
    await chain.wait(11)
    none = await chain.set_active(paid, 0)
    await log.stopped(key, await chain.ref(none, paid.escrow, RATE_SET))
    await chain.wait(100)
    short = await chain.set_active(paid, 1)
    await log.started(key, paid, 1, await chain.ref(short, paid.escrow, RATE_SET))
    await chain.wait(1)
    halted = await chain.set_active(paid, 0)
    await log.stopped(key, await chain.ref(halted, paid.escrow, RATE_SET), instant=RATE)
    spent = (37 + 2 * 11 + 2) * RATE
    await chain.wait(5)
    closing = await chain.close(paid)
    await log.stopped(key, await chain.ref(closing, paid.escrow, CLOSED), refund=CAP - spent)
    log.tell("session", key, session.Settled(1, str(CAP), str(CAP - spent)))
    return spent


async def test_what_the_chain_did_is_recomputed_to_the_wei() -> None:
    async with deployed_chain() as (rpc, manifest):
        chain = PaidChain(rpc, manifest)
        await chain.prepare()
        log = Log(chain)
        before = await chain.usdc_of(chain.payer.address)
        spent = await paid_session(log, ulid(600))
        report = await log.report()
        assert report.findings == ()
        assert report.sound
        assert report.wei_drift == "0"
        (line,) = report.lines
        assert (line.voucher_wei, line.operators_wei) == (str(CAP), str(spent))
        assert line.refund_wei == str(CAP - spent)
        assert line.billed_seconds == 37 + 11 + 1
        back = await chain.usdc_of(chain.payer.address)
        assert before - back == spent // MICRO


async def test_the_command_compares_log_chain_and_read_model(tmp_path: Path) -> None:
    async with surroundings() as around, deployed_chain() as (rpc, manifest):
        path = tmp_path / "manifest.json"
        manifests.write(path, manifest)
        chain = PaidChain(rpc, manifest)
        await chain.prepare()
        status, report = await audit_money_command(around, rpc.url, path)
        assert (status, report["findings"]) == (1, [])
        assert report["empty"] == ["sessions", "seconds", "operators", "usdc_in", "usdc_out"]
        log = Log(chain)
        await paid_session(log, ulid(600))
        async with projecting(around):
            last = await around.append(log.commits)
            assert await around.rows.wait_for(last, 30)
        late = Log(chain)
        late.tell("session", ulid(700), opened(), request_started(9))
        await around.append(late.commits)
        status, report = await audit_money_command(around, rpc.url, path)
        assert (status, report["findings"], report["wei_drift"]) == (0, [], "0")
        assert (report["read_model"], report["settled"], report["operators"]) == (True, 1, 2)
        with psycopg.connect(around.url) as connection:
            connection.execute("UPDATE read.ledger SET amount_wei = amount_wei - 1 WHERE kind = 'refund'")
        status, report = await audit_money_command(around, rpc.url, path)
        assert status == 1
        assert report["wei_drift"] == "1"
        assert [(item["session"], item["code"]) for item in report["findings"]] == [(ulid(600), "read_model")]


async def audit_money_command(around: Surroundings, url: str, manifest: Path) -> tuple[int, Any]:
    """As an auditor types it; the exit status and the JSON."""
    environment = os.environ | {
        "DATABASE_URL": around.url,
        "NATS_URL": around.settings.nats_url or "",
        "COMPUTEPOOL_STATE_DIR": str(around.settings.state_dir),
    }
    argv = ("-m", "services.cli", "audit", "money", "--json", "--rpc", url, "--manifest", str(manifest))
    ran = await asyncio.create_subprocess_exec(
        sys.executable, *argv, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await ran.communicate()
    return ran.returncode or 0, json.loads(said)


async def test_sessions_side_by_side_and_one_that_still_runs() -> None:
    """Nobody told the log what flowed: the auditor says so of both; its sums still agree with the pool's."""
    async with deployed_chain() as (rpc, manifest):
        chain = PaidChain(rpc, manifest)
        await chain.prepare()
        log = Log(chain)
        one, two = await log.pay(ulid(601)), await log.pay(ulid(602))
        await chain.open(one, 1)
        await chain.wait(7)
        await chain.open(two, 3)
        await chain.wait(20)
        await chain.close(one)
        await chain.wait(9)
        await rpc.ask("evm_mine")
        report = await log.report()
        found = {(item.session, item.code) for item in report.findings}
        assert found == {
            (ulid(601), "fact_missing"),
            (ulid(601), "not_settled"),
            (ulid(602), "fact_missing"),
        }
        assert not any(item.code == "operator_total" for item in report.findings)
