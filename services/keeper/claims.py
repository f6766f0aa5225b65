"""Coalitions' entries about claims become facts of slashes; blocks taken back take them back.

Keeps nothing between runs: at a start, and after every reorganisation, what the log believes is compared with
the chain, and every coalition is read again from where the log first heard of it. A fact told twice is one
fact. Knows no vote and sends nothing.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from events import slash
from events.breach import KINDS, Kind
from events.chain import ChainRef
from events.claim import Cancelled, ClaimOpened, Disputed, Executed, Fact, Upheld
from events.envelope import Cause
from events.ids import slash_id_of
from events.kernel import Rejected
from events.slash_refusals import SlashUnknown
from services.chain import logs
from services.chain.artifacts import artifact
from services.chain.contract import Contract, Said
from services.chain.logs import Mark, TakenBack
from services.chain.rpc import Log
from services.handle import handle
from services.keeper.entries import Reading
from services.keeper.following import Following
from services.keeper.progress import Progress
from services.keeper.reader import AWAY, LONGEST_PAUSE_S, POLL_S
from services.keeper.unreported import case_of_claim
from services.log import EventLog

NAMES = ("ClaimOpened", "Disputed", "Ruled", "ClaimCancelled", "Slashed")

log = structlog.get_logger("keeper")


def coalition_at(address: str) -> Contract:
    """Raises ArtifactMissing."""
    return Contract(artifact("ICoalition"), address)


def topics() -> list[bytes]:
    contract = coalition_at("0x" + "0" * 40)
    return [contract.topic(name) for name in NAMES]


@dataclass
class ClaimReader:
    """`progress`: the block up to which every claim's facts stand in the folded log."""

    reading: Reading
    events: EventLog
    following: Following
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _marks: tuple[Mark, ...] = ()
    _read: set[str] = field(default_factory=set)
    """Coalitions (lower case) whose entries up to the newest mark are told."""
    _slashes: dict[tuple[str, int], str] = field(default_factory=dict)
    """(coalition, number of the claim) -> the slash that it is about."""

    def __post_init__(self) -> None:
        self.progress = Progress(self.reading.rpc)

    async def read_forever(self) -> None:
        """An RPC or a log that is away is waited for; facts wait with it."""
        pause_s, said = 0.1, False
        while True:
            try:
                await self._step()
                pause_s, said = POLL_S, False
            except AWAY as away:
                if not said:
                    log.warning("claims_delayed", why=str(away) or repr(away))
                pause_s, said = min(2 * pause_s, LONGEST_PAUSE_S), True
            await asyncio.sleep(pause_s)

    async def _step(self) -> None:
        rpc, network = self.reading.rpc, self.reading.network
        if not self._marks:
            await self._begin()
        while True:
            await self._catch_up()
            step = await logs.read_on(rpc, network, self._marks, (), [topics()])
            if isinstance(step, TakenBack):
                log.warning("claims_taken_back", newest=self._marks[-1].number)
                self._marks, self._read = (), set()
                await self.progress.reached(-1)
                await self._begin()
                continue
            await self.following.unguarded["slash"].take_back(self.reading, self._marks[-1], self._revert)
            if step is not None:
                await self._take(step.logs)
                self._marks = logs.after(self._marks, step)
            await self.progress.reached(self._marks[-1].number)
            if step is None:
                self.ready.set()
                return

    async def _begin(self) -> None:
        """Where the chain is now; what the log believes and the chain has not, is taken back."""
        rpc, network = self.reading.rpc, self.reading.network
        confirmed = await rpc.block_number() - network.confirmations + 1
        mark = await logs.mark_before(rpc, max(1, confirmed + 1))
        self.following.unguarded["slash"].clear()
        for slash_id, case in list(self.following.view.slashes.items()):
            for fact in reversed(case.seen):
                if not await self.reading.stands(fact.at):
                    await self._revert(slash_id, fact.at)
        self._marks = (mark,)

    async def _revert(self, slash_id: str, at: ChainRef) -> None:
        await self._do(slash_id, slash.Revert(at), f"revert:{self.following.telling(at)}")

    async def _catch_up(self) -> None:
        """Coalitions that were never read, up to the newest mark."""
        for address, first in list(self.following.coalitions.items()):
            if address in self._read:
                continue
            found = await self.reading.between(first, self._marks[-1].number, [address], [topics()])
            self._read.add(address)
            try:
                await self._take(found)
            except BaseException:
                self._read.discard(address)
                raise

    async def _take(self, found: Sequence[Log]) -> None:
        for one in sorted(found, key=lambda one: (one.block_number, one.index)):
            if one.address.lower() not in self._read:
                continue
            said = coalition_at(one.address).said(one)
            if said is not None:
                await self._tell(one.address.lower(), said)

    async def _tell(self, coalition: str, said: Said) -> None:
        claim_id = int(said.values["claimId"])
        if said.name == "ClaimOpened":
            session_id = self.following.escrows.get(str(said.values["session"]).lower(), "")
            kind = KINDS[int(said.values["kind"])]
            operator = str(said.values["operator"])
            about = self._slashes[coalition, claim_id] = slash_id_of(session_id, operator, kind)
            if about not in self.following.view.slashes:
                await self._report(about, coalition, session_id, operator, kind, said)
        slash_id = self._slashes.get((coalition, claim_id))
        if slash_id is None:
            log.error("claim_unread", coalition=coalition, claim=claim_id, what=said.name)
            return
        fact = await self._fact(said, claim_id)
        try:
            new = await self._do(
                slash_id, slash.Observe(fact), f"claim-fact:{self.following.telling(fact.at)}"
            )
        except SlashUnknown:
            # The log can't say what it is about: the audit counts its money all the same.
            log.error("claim_never_reported", coalition=coalition, claim=claim_id, what=said.name)
            return
        if new:
            log.info("claim_fact", slash_id=slash_id, what=said.name, block=fact.at.block_number)

    async def _report(
        self, slash_id: str, coalition: str, session_id: str, operator: str, kind: Kind, said: Said
    ) -> None:
        """Opened by others, on what the log never saw: two receipts, or votes that went past it."""
        view, at = self.following.view, await self.reading.ref(said.log)
        at_unix_ms = at.block_unix_s * 1000
        case = await case_of_claim(self.events, view, session_id, coalition, operator, kind, at_unix_ms)
        if case is not None:
            await self._do(slash_id, slash.Report(case), f"claim-case:{slash_id}")

    async def _fact(self, said: Said, claim_id: int) -> Fact:
        at, values = await self.reading.ref(said.log), said.values
        match said.name:
            case "ClaimOpened":
                return ClaimOpened(claim_id, int(values["amount"]), int(values["executableAt"]), at)
            case "Disputed":
                return Disputed(claim_id, int(values["counterBond"]), int(values["ruleBy"]), at)
            case "Ruled":
                return Upheld(claim_id, bool(values["upheld"]), at)
            case "ClaimCancelled":
                return Cancelled(claim_id, at)
            case _:
                paid = (int(values["toPayer"]), int(values["toTreasury"]))
                return Executed(claim_id, str(values["payer"]).lower(), *paid, at)

    async def _do(self, slash_id: str, command: Any, command_id: str) -> bool:
        """Until the log holds it and the view shows it; whether it is new. Raises SlashUnknown."""
        cause = Cause(command_id, slash_id, command_id, time.time_ns() // 1_000_000)
        try:
            handled = await handle(self.events, "slash", slash_id, command, cause)
        except SlashUnknown:
            raise
        except Rejected as refused:
            log.error("fact_refused", kind="slash", id=slash_id, code=refused.code, why=str(refused))
            return False
        await self.following.wait_for(handled.sequence)
        return bool(handled.events) and not handled.replayed
