"""A keeper's surroundings for tests: a paid chain, a real log with the real policies, a real database.

The keeper runs as a task or as its own process; between it and the chain stands a proxy. Knows no test.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from eth_account.signers.local import LocalAccount
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from events import payment, session, stream
from events.chain import EscrowTerms
from events.envelope import DECIDERS, Recorded, decode_commit
from services import vouchers
from services.access import NatsAccess
from services.auditor.money import MoneyReport, audit_money
from services.chain import abi
from services.chain import manifest as manifests
from services.chain.rpc import connected
from services.chain.wallets import fund_local, wallet
from services.chain_evidence import evidence_of
from services.credentials import engine_of
from services.handle import handle
from services.keeper.__main__ import work
from services.keeper.entries import Reading
from services.keeper.following import Following
from services.keeper.vouchers import TERMS, VOUCHER
from services.log import EventLog, Writer
from services.orchestrator import Orchestrator
from services.vouchers import VoucherRow
from tests.aggregates import FAR_FUTURE_MS, cause, generation_ended, request_started, ulid
from tests.anvil import LOCAL, deployed_chain
from tests.callbacks import Received, received
from tests.money_evidence import number_of
from tests.paid_chain import CAP_MICRO, RATE, PaidChain, PaidSession
from tests.projecting import ROOT, Surroundings, surroundings
from tests.rpc_proxy import RpcProxy, rpc_proxy
from tests.tcp_proxy import TcpProxy, tcp_proxy

CAP = CAP_MICRO * 10**12
WITHIN_S = 60.0


@dataclass
class House:
    """`proxy` and behind it `errors` stand between the keeper and the chain; `chain` goes straight to it."""

    chain: PaidChain
    around: Surroundings
    engine: AsyncEngine
    proxy: TcpProxy
    errors: RpcProxy
    key: LocalAccount
    """The controller's."""
    keeper_client: Client
    keeper_log: EventLog
    callbacks: Received
    following: Following = field(default_factory=Following)
    """Of the keeper at work."""
    _commands: int = 0

    async def tell(self, kind: str, key: str, command: Any) -> None:
        self._commands += 1
        await handle(self.around.log, kind, key, command, cause(f"test {self._commands}", now_ms()))

    async def pay(self, number: int, named: bool = True) -> tuple[str, PaidSession]:
        """A session whose voucher is settled, as the gateway leaves it."""
        key, paid = await self.agree(number, named)
        await self.tell("session", key, payment.ConfirmPayment(await self.chain.settle(paid)))
        return key, paid

    async def agree(self, number: int, named: bool = True) -> tuple[str, PaidSession]:
        """A session whose voucher is verified and not settled yet."""
        key = ulid(number)
        paid = await self.chain.agree(number_of(key), named)
        await keep_voucher(self.engine, key, paid, self.chain)
        terms = EscrowTerms(ulid(500), 31337, paid.escrow, self.chain.payer.address, str(RATE), str(CAP))
        verified = payment.PaymentVerified(self.chain.usdc, paid.nonce, terms, 4, False, FAR_FUTURE_MS)
        await self.tell("session", key, payment.VerifyPayment(verified))
        return key, paid

    async def start(self, key: str, request: int) -> None:
        started = request_started(request)
        payer = self.chain.payer.address
        await self.tell("session", key, session.StartRequest(payer, started, now_ms()))

    async def end(self, key: str, request: int) -> None:
        await self.tell("session", key, session.EndGeneration(generation_ended(request)))

    async def close(self, key: str) -> None:
        await self.tell("session", key, session.Settle())

    async def state(self, kind: str, key: str) -> Any:
        history = await self.around.log.history(kind, key)
        return DECIDERS[kind].fold(item.event for item in history.recorded)

    async def until(self, kind: str, key: str, holds: Callable[[Any], bool]) -> Any:
        """The aggregate once it is so. Raises TimeoutError, which quotes it."""
        deadline = time.monotonic() + WITHIN_S
        while not holds(state := await self.state(kind, key)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{kind} {key} is {state}")
            await asyncio.sleep(0.02)
        return state

    async def flows(self, key: str, active: int) -> stream.Stream:
        found: stream.Stream = await self.until(
            "stream", key, lambda state: isinstance(state, stream.Stream) and state.active == active
        )
        return found

    async def told(self, key: str, names: list[str]) -> None:
        """Until the stream's first events are these. Raises TimeoutError."""
        async with asyncio.timeout(WITHIN_S):
            while (await self.facts(key))[: len(names)] != names:
                await asyncio.sleep(0.02)

    async def settled(self, key: str) -> session.Settled:
        state = await self.until(
            "session", key, lambda state: isinstance(state, session.Closed) and state.settled is not None
        )
        found: session.Settled = state.settled
        return found

    async def history(self) -> list[Recorded]:
        found: list[Recorded] = []
        async for one in self.around.log.read(0, follow=False):
            found += decode_commit(one.subject, one.sequence, one.headers, one.payload)
        return found

    async def facts(self, key: str) -> list[str]:
        """The stream's events by name, without their version."""
        return [
            str(item.event.__struct_config__.tag).removeprefix("stream.").removesuffix(".v1")
            for item in await self.history()
            if (item.kind, item.aggregate_id) == ("stream", key)
        ]

    async def audit(self) -> MoneyReport:
        evidence = await evidence_of(self.chain.rpc, self.chain.manifest)
        return audit_money(await self.history(), evidence)

    async def sound(self) -> MoneyReport:
        """No difference between log and chain, to the wei."""
        report = await self.audit()
        assert report.findings == ()
        assert report.wei_drift == "0"
        assert report.sound
        return report

    async def as_payer(self, to: str, signature: str) -> None:
        """The payer calls a contract himself, with coins of his own."""
        payer = self.chain.payer.address
        await self.chain.rpc.ask("anvil_setBalance", payer, hex(10**18))
        await self.chain.rpc.ask("anvil_impersonateAccount", payer)
        await self.chain.send(payer, to, abi.call(signature))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A keeper at work as a process of its own, as the stack runs it; killed by SIGKILL at the end."""
        path = self.around.nats.directory / "keeper.log"
        manifest = self.around.nats.directory / "manifest.json"
        manifests.write(manifest, self.chain.manifest)
        environment = os.environ | {
            "DATABASE_URL": self.around.url,
            "NATS_URL": self.around.settings.nats_url or "",
            "COMPUTEPOOL_STATE_DIR": str(self.around.settings.state_dir),
            "CHAIN_RPC_URL": f"http://127.0.0.1:{self.proxy.port}",
            "COMPUTEPOOL_CHAIN_MANIFEST": str(manifest),
            "COMPUTEPOOL_GATEWAY_URL": self.callbacks.url,
        }
        argv = (sys.executable, "-m", "services.keeper")
        with path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *argv, cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            process.kill()
            await process.wait()

    @contextlib.asynccontextmanager
    async def killed_at(self, step: bytes, process: bool = False) -> AsyncIterator[None]:
        """A keeper at work until it says `step` to the chain, which is never told; then it is gone."""
        reached = asyncio.Event()

        def look(chunk: bytes) -> bool:
            if step in chunk:
                reached.set()
            return not reached.is_set()

        async with self.running() if process else self.keeping():
            self.proxy.on_request = look
            yield
            async with asyncio.timeout(WITHIN_S):
                await reached.wait()
        self.proxy.on_request = lambda _: True

    @contextlib.asynccontextmanager
    async def keeping(self) -> AsyncIterator["asyncio.Task[None]"]:
        """A keeper at work as a task of this process; cancelled at the end."""
        self.following = Following()
        async with connected(f"http://127.0.0.1:{self.proxy.port}", attempts=1, timeout_s=5) as rpc:
            reading = Reading(rpc, LOCAL, self.chain.manifest)
            settings = self.around.settings.model_copy(update={"gateway_url": self.callbacks.url})
            client, log = self.keeper_client, self.keeper_log
            working = work(reading, self.key, self.engine, client, log, self.following, settings)
            task = asyncio.create_task(working)
            try:
                yield task
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextlib.asynccontextmanager
async def house(kind: type[PaidChain] = PaidChain) -> AsyncIterator[House]:
    """`kind`: what stands on the chain."""
    async with surroundings() as around, deployed_chain() as (rpc, manifest):
        chain = kind(rpc, manifest)
        await chain.prepare()
        much = abi.call("mint(address,uint256)", chain.payer.address, 1000 * CAP_MICRO)
        await chain.send(chain.admin, chain.usdc, much)
        key = wallet(around.settings, "controller")
        chain.controller = key.address
        await fund_local(rpc, key.address)
        await rpc.ask("anvil_impersonateAccount", key.address)
        await rpc.ask("anvil_mine", "0x10")  # So that no reorganisation of a test takes these back.
        engine = engine_of(around.url)
        client = await around.nats.connect("keeper")
        keeper_log = await EventLog.open(client, Writer.load(around.settings.seeds_dir / "keeper.nk"))
        async with (
            rpc_proxy(int(rpc.url.rpartition(":")[2])) as errors,
            tcp_proxy(errors.port) as proxy,
            policies(around),
            received() as callbacks,
        ):
            yield House(chain, around, engine, proxy, errors, key, client, keeper_log, callbacks)
        await engine.dispose()


@contextlib.asynccontextmanager
async def policies(around: Surroundings) -> AsyncIterator[None]:
    """The orchestrator's reactions, by the orchestrator itself."""
    client = await around.nats.connect("orchestrator")
    events = await EventLog.open(client, Writer.load(around.settings.seeds_dir / "orchestrator.nk"))
    orchestrator = Orchestrator(client, events, NatsAccess.of(around.settings))
    tasks = [asyncio.create_task(orchestrator.follow_log()), asyncio.create_task(orchestrator.tick())]
    await orchestrator.serve_control()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def keep_voucher(engine: AsyncEngine, key: str, paid: PaidSession, chain: PaidChain) -> None:
    terms = {name: written(value) for name, value in zip(TERMS, paid.terms, strict=True)}
    voucher = {name: written(value) for name, value in zip(VOUCHER, paid.voucher, strict=True)}
    source, chain_id = str(paid.voucher[0]), LOCAL.chain_id
    row = VoucherRow(
        chain_id, chain.usdc, source, paid.nonce, key, ulid(500), paid.escrow, terms, voucher, "settled"
    )
    await vouchers.claim(engine, row)


def written(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
