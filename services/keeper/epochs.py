"""Coalitions' entries about their epochs: an end becomes a fact of the pool, until its block is taken back.

The orchestrator appends it, for the keeper may write nothing of pools. Keeps nothing between runs: a
coalition is read from where its last opening stands, again after every reorganisation; a fact told twice is
one fact.
Knows no claim and sends no transaction.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from nats.aio.client import Client

from events import coalition, pool
from events.chain import ChainRef
from services import control
from services.chain import logs
from services.chain.contract import Said
from services.chain.logs import Mark, TakenBack
from services.chain.rpc import Log
from services.keeper.claims import coalition_at
from services.keeper.entries import Reading
from services.keeper.following import Following
from services.keeper.reader import AWAY, LONGEST_PAUSE_S, POLL_S

log = structlog.get_logger("keeper")


def topics() -> list[bytes]:
    contract = coalition_at("0x" + "0" * 40)
    return [contract.topic(name) for name in ("EpochOpened", "EpochEnded")]


@dataclass
class EpochReader:
    reading: Reading
    following: Following
    client: Client
    _marks: dict[str, tuple[Mark, ...]] = field(default_factory=dict)
    """Pool -> up to where its coalition's ends are told."""

    async def read_forever(self) -> None:
        """A chain, a log or an orchestrator that is away is waited for; facts wait with it."""
        pause_s, said = 0.1, False
        while True:
            try:
                for pool_id, state in list(self.following.view.pools.items()):
                    if isinstance(state, pool.Forming) and state.openings.told:
                        await self._read(pool_id, state.openings)
                pause_s, said = POLL_S, False
            except (*AWAY, control.OrchestratorAway) as away:
                if not said:
                    log.warning("epochs_delayed", why=str(away) or repr(away))
                pause_s, said = min(2 * pause_s, LONGEST_PAUSE_S), True
            await asyncio.sleep(pause_s)

    async def _read(self, pool_id: str, openings: coalition.Openings) -> None:
        rpc, network = self.reading.rpc, self.reading.network
        last = openings.told[-1]
        if last.chain_id != network.chain_id:
            return
        if pool_id not in self._marks:
            await self._take_back(pool_id, openings)
            self._marks[pool_id] = (await logs.mark_before(rpc, last.at.block_number),)
        while True:
            marks = self._marks[pool_id]
            step = await logs.read_on(rpc, network, marks, (last.coalition,), [topics()])
            if isinstance(step, TakenBack):
                log.warning("epochs_taken_back", pool_id=pool_id, newest=marks[-1].number)
                del self._marks[pool_id]
                return
            unguarded = self.following.unguarded["pool"]
            await unguarded.take_back(self.reading, marks[-1], self._revert, pool_id)
            if step is None:
                return
            for said in _ends(last.coalition, step.logs):
                at = await self.reading.ref(said.log)
                ended = coalition.CoalitionEnded(last.coalition, int(said.values["epoch"]), at)
                command_id = f"coalition-ended:{pool_id}:{self.following.telling(at)}"
                await self._tell(control.EndCoalition(pool_id, ended), command_id)
            self._marks[pool_id] = logs.after(marks, step)

    async def _take_back(self, pool_id: str, openings: coalition.Openings) -> None:
        """What the log believes and the chain has not."""
        for end in openings.ends:
            at = end.at
            if not await self.reading.stands(at):
                await self._revert(pool_id, at)

    async def _revert(self, pool_id: str, at: ChainRef) -> None:
        command_id = f"coalition-end-reverted:{pool_id}:{self.following.telling(at)}"
        await self._tell(control.RevertCoalitionEnd(pool_id, at), command_id)

    async def _tell(self, fact: control.KeeperAsk, command_id: str) -> None:
        """Until the log holds it and the view shows it."""
        answer = await control.tell(self.client, fact, command_id)
        if answer.error_code is not None:
            log.error("fact_refused", kind="pool", id=fact.pool_id, code=answer.error_code, why=answer.detail)
            return
        await self.following.wait_for(answer.sequence)
        for name in answer.events:
            log.info("coalition_fact", pool_id=fact.pool_id, what=name)


def _ends(address: str, found: Sequence[Log]) -> list[Said]:
    """Ends after which nothing pays: those that no opening follows in the same transaction."""
    contract = coalition_at(address)
    said = [one for one in map(contract.said, found) if one is not None]
    opened = {(one.log.transaction, int(one.values["epoch"])) for one in said if one.name == "EpochOpened"}
    return [
        one
        for one in said
        if one.name == "EpochEnded" and (one.log.transaction, int(one.values["epoch"]) + 1) not in opened
    ]
