"""What the hosted backend asks of a transport; REST and MCP are the two. Values are KeeperHub's own JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Json = dict[str, Any]


class Transport(Protocol):
    """Every method raises BackendRefused and BackendAway, after the patience that the server asks for."""

    async def workflows(self) -> Sequence[Json]:
        """Of the organisation, each at least with `id` and `name`."""
        ...

    async def workflow(self, workflow_id: str) -> Json: ...

    async def create(self, body: Json, idempotency_key: str) -> Json: ...

    async def update(self, workflow_id: str, body: Json) -> Json: ...

    async def execute(self, workflow_id: str, input: Mapping[str, Any], idempotency_key: str) -> Json: ...

    async def status(self, execution_id: str) -> Json:
        """With `output` and `error` where the transport says them."""
        ...

    async def wait(self, execution_id: str, within_s: float) -> Json:
        """Like `status`, after `within_s` or, where the transport can tell, as soon as it has ended.
        `poll_hint_s`: how long to leave it alone before asking again.
        """
        ...

    async def logs(self, execution_id: str) -> Sequence[Json]: ...

    async def executions(self, workflow_id: str) -> Sequence[Json]: ...

    async def chains(self) -> Sequence[Json]:
        """Each with `chainId`; `isEnabled` where it is known."""
        ...

    async def close(self) -> None: ...
