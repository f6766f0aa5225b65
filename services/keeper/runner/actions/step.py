"""One node's turn, and what actions work with. Knows no action."""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chain.networks import Network
from services.chain.rpc import Rpc
from services.chain.sender import Sender


@dataclass(frozen=True)
class Step:
    """`config` is filled in. The same node of the same execution and iteration is always the same step.

    `again`: another process may have begun it before.
    """

    workflow_id: str
    execution_id: str
    node_id: str
    iteration: str
    config: Mapping[str, Any]
    again: bool = True

    @property
    def key(self) -> str:
        """The intent of its transaction: there is one, however often the step is run."""
        return ":".join(part for part in (self.execution_id, self.node_id, self.iteration) if part)

    @property
    def delivery(self) -> str:
        """The same for every attempt to call back from this step."""
        return "d-" + hashlib.sha256(self.key.encode()).hexdigest()[:32]

    def said(self, name: str) -> str:
        """A value of the configuration as a text; "" when it is not there."""
        value = self.config.get(name)
        return value.strip() if isinstance(value, str) else "" if value is None else str(value)

    def on(self, name: str, otherwise: bool) -> bool:
        """A switch; editors write it as true or as "true"."""
        value = self.config.get(name)
        return otherwise if value is None or value == "" else value not in (False, "false")


@dataclass(frozen=True)
class Signing:
    """Requests to `callback_url` are signed with `secret`, which the receiver knows by `key_id`."""

    callback_url: str
    key_id: str
    secret: bytes = field(repr=False)


class Deliveries(Protocol):
    """Where attempts to call back are written down."""

    async def attempted(
        self,
        delivery: str,
        execution: str,
        url: str,
        body: bytes,
        status: int | None,
        error: str | None,
        ms: int,
    ) -> None: ...


@dataclass(frozen=True)
class Means:
    engine: AsyncEngine
    http: httpx.AsyncClient
    rpc: Rpc | None = None
    network: Network | None = None
    sender: Sender | None = None
    http_allowed: Collection[str] = ()
    signing: Signing | None = None
    deliveries: Deliveries | None = None
    contracts: Mapping[str, str] = field(default_factory=dict)
    """Where the chain's well-known contracts stand, by name."""


Result = dict[str, Any]
"""What a step gives: `success` False stops its branch, with `error`."""

Action = Callable[[Step, Means], Awaitable[Result]]


def failure(error: str, **more: Any) -> Result:
    return {"success": False, "error": error, **more}
