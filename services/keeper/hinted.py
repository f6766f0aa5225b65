"""What callbacks say hurries the runs they are about, and is held against how those ended. Decides nothing.

Without this everything comes to the same end, a poll later.
"""

from dataclasses import dataclass

import structlog

from events import workflow
from services.keeper.executor import AWAY
from services.keeper.inbox import Hint, Inbox, Outcome
from services.keeper.runs import Runs
from services.log import EventLog

RUN_FAILED = "run_failed"

log = structlog.get_logger("inbox")


@dataclass(frozen=True)
class Hinted:
    events: EventLog
    inbox: Inbox
    runs: Runs

    async def run(self) -> None:
        """Forever. A hint about a run that is still open is looked at again until the run has ended."""
        async for hint in self.inbox.hints():
            try:
                outcome = await self._outcome(hint)
                if outcome is not None:
                    await self.inbox.mark(hint, outcome)
            except AWAY as away:
                log.warning("hint_delayed", run_id=hint.run_key, why=str(away) or repr(away))

    async def _outcome(self, hint: Hint) -> Outcome | None:
        """None: nobody knows yet. `applied` only when our own node of the chain bore the run out."""
        if self.runs.hurry(hint.run_key):
            return None
        history = (await self.events.history("workflow", hint.run_key)).recorded
        state = workflow.workflow.fold(item.event for item in history)
        return judged(hint, state, history[-1].time_unix_ms if history else 0)


def judged(hint: Hint, state: workflow.WorkflowState, last_unix_ms: int) -> Outcome | None:
    """`last_unix_ms`: of the run's newest event. A failure names a transaction or none; all else names one
    that our own node of the chain knows as the run's.
    """
    if isinstance(state, workflow.Absent):
        return "unknown_run"
    if state.ended is None:
        return None
    sent = {one.hash for one in state.ended.transactions}
    named = None if hint.transaction_hash is None else hint.transaction_hash.lower()
    failed = isinstance(state.ended, workflow.Failed)
    agrees = failed and named in {None, *sent} if hint.event == RUN_FAILED else named in sent
    if not agrees:
        return "mismatch"
    return "applied" if hint.received_unix_ms <= last_unix_ms else "stale"
