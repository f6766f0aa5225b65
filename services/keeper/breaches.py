"""Brings decided breaches before their coalition: a claim once a quorum has voted, its execution when due.

Each is a run of `handle-breach`; what it did is read from the chain. A dispute freezes by itself, for then
nothing is due. Knows no evidence and no vote's meaning.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Literal

import structlog

from events import slash
from events.breach import KINDS
from events.workflow import Requested
from services.chain.rpc import Rpc
from services.keeper.claims import ClaimReader
from services.keeper.executor import AWAY
from services.keeper.following import Following
from services.keeper.runs import Runs

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LOOK_EVERY_S = 1.0
Phase = Literal["claim", "execute"]

log = structlog.get_logger("keeper")


@dataclass
class Breaches:
    following: Following
    reader: ClaimReader
    runs: Runs
    rpc: Rpc
    _driving: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    _given_up: set[tuple[str, Phase]] = field(default_factory=set)
    """What the contract refuses for good; looked at again by the next process."""

    async def run(self) -> None:
        """Forever. Raises what a driver raised that it could not deal with."""
        await self.following.caught_up.wait()
        await self.reader.ready.wait()
        try:
            while True:
                await self._look()
                sequence = self.following.view.sequence
                moved = asyncio.create_task(self.following.wait_for(sequence + 1))
                await asyncio.wait({moved, *self._driving.values()}, timeout=LOOK_EVERY_S,
                                   return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
                moved.cancel()
                for slash_id in [key for key, task in self._driving.items() if task.done()]:
                    self._driving.pop(slash_id).result()
        finally:
            for task in self._driving.values():
                task.cancel()
            if self._driving:
                await asyncio.wait(self._driving.values())

    async def _look(self) -> None:
        cases = self.following.view.slashes
        if all(case.over for case in cases.values()):
            return
        try:
            now = await self._now()
        except AWAY as away:
            log.warning("breaches_delayed", why=str(away) or repr(away))
            return
        for slash_id, case in cases.items():
            phase = case.due(now)
            if phase is None or slash_id in self._driving or (slash_id, phase) in self._given_up:
                continue
            self._driving[slash_id] = asyncio.create_task(self._drive(slash_id, phase))

    async def _now(self) -> int:
        """The chain's time; a chain without new blocks has the world's in its next one."""
        return max((await self.rpc.block()).timestamp, int(time.time()))

    async def _drive(self, slash_id: str, phase: Phase) -> None:
        """Until the log shows that it was done, by whomever, or that it is not due any more."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                case = self.following.view.slashes.get(slash_id)
                if case is None or case.due(await self._now()) != phase:
                    return
                attempt = self.following.attempt(slash_id, phase)
                input = _input(slash_id, case, phase)
                ended = await self.runs.run(
                    Requested("handle-breach", "slash", slash_id, phase, attempt, input)
                )
                await self.reader.progress.passed(await self.rpc.block_number())
                if ended.confirmed:
                    continue
                log.warning("breach_refused", slash_id=slash_id, phase=phase, code=ended.code)
                if not ended.retryable:
                    self._given_up.add((slash_id, phase))
                    return
            except AWAY as away:
                log.warning("breach_delayed", slash_id=slash_id, why=str(away) or repr(away))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _input(slash_id: str, case: slash.Slash, phase: Phase) -> dict[str, str]:
    """What handle-breach gets; structs as JSON lists in the order of ICoalition.sol."""
    report = case.report
    found = {
        "network": str(report.chain_id),
        "slash_id": slash_id,
        "session_id": report.session_id,
        "phase": phase,
        "coalition": report.coalition,
    }
    if phase == "execute":
        assert case.claim is not None
        return found | {"claim_id": str(case.claim.claim_id)}
    assert case.quorum is not None
    breach = case.quorum.breach
    struct = (
        breach.session,
        breach.operator,
        KINDS.index(breach.kind),
        breach.amount_micro,
        "0x" + breach.evidence_hash,
        breach.failed_probes,
        breach.probe_window_s,
        breach.deadline_unix_s,
    )
    votes = ["0x" + vote for vote in case.quorum.votes]
    return found | {"breach": json.dumps([str(value) for value in struct]), "votes": json.dumps(votes)}
