"""The port through which workflows are run: a hosted KeeperHub, or our own runner. Knows neither.

Words and states are KeeperHub's own. A run that a backend cannot account for is not failed: it is asked for
again under the same key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

RunState = Literal["pending", "running", "success", "error", "cancelled"]
NodeState = Literal["pending", "running", "success", "error", "skipped", "cancelled"]
ENDED = frozenset({"success", "error", "cancelled"})


class BackendRefused(Exception):
    """backend_refused: the workflow backend refused a call; its own code, status and words are quoted."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        retryable: bool = False,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.status = status
        self.retryable = retryable
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class BackendAway(Exception):
    """backend_away: the workflow backend gave no usable answer; whether it took the call is unknown."""

    code = "backend_away"


@dataclass(frozen=True)
class SentTransaction:
    """`iteration`: of a For Each, from 0."""

    hash: str
    node_id: str
    node_name: str
    chain_id: int | None = None
    iteration: int | None = None


@dataclass(frozen=True)
class RunStatus:
    """`output`: of the last nodes, once it ended well; `error`: why it did not."""

    execution_id: str
    status: RunState
    transactions: tuple[SentTransaction, ...] = ()
    output: Any = None
    error: str | None = None

    @property
    def completed(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class NodeLog:
    """What one node did; `input` is as it was after its templates were filled, secrets masked."""

    node_id: str
    node_name: str
    node_type: str
    status: NodeState
    started_unix_ms: int
    ended_unix_ms: int | None
    input: Any = None
    output: Any = None
    error: str | None = None
    iteration: int | None = None


class WorkflowBackend(Protocol):
    """Every method may raise BackendRefused and BackendAway."""

    @property
    def name(self) -> Literal["embedded", "hosted"]: ...

    async def ensure_workflow(self, definition: Mapping[str, Any]) -> str:
        """The id of the workflow with this export's name and content, made or changed when needed."""
        ...

    async def execute(self, workflow_id: str, input: Mapping[str, Any], idempotency_key: str) -> str:
        """The execution's id. The same key and input are the same execution; another input under the same
        key is refused as `idempotency_conflict`.
        """
        ...

    async def status(self, execution_id: str) -> RunStatus: ...

    async def wait(self, execution_id: str, within_s: float) -> RunStatus:
        """As soon as it has ended; what it is after `within_s` otherwise."""
        ...

    async def logs(self, execution_id: str) -> tuple[NodeLog, ...]:
        """The newest first."""
        ...

    async def list_executions(self, workflow_id: str) -> tuple[RunStatus, ...]:
        """The newest first."""
        ...

    async def health(self) -> None:
        """Returns when it would take a run now."""
        ...

    async def close(self) -> None:
        """Lets its connections go; what it began goes on there or is resumed. Twice is once."""
        ...
