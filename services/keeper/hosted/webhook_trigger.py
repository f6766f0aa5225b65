"""Starts a workflow by its Webhook trigger: all that a wfb_ key opens. Can't see the run."""

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from services.keeper import inputs
from services.keeper.backend import BackendAway
from services.keeper.hosted.line import TIMEOUT_S, Line
from services.keeper.hosted.patience import Patience
from services.keeper.hosted.rest import step


class WebhookTrigger:
    """`key`: a user's, for webhooks. Raises WrongKeyKind and UnsafeUrl."""

    def __init__(
        self, url: str, key: SecretStr, patience: Patience | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._line = Line(url, key, "webhook", patience or Patience(), timeout_s)

    async def fire(self, workflow_id: str, input: Mapping[str, Any], idempotency_key: str) -> str:
        """The execution's id. The body is the input itself."""
        inputs.check(input)
        path = f"/api/workflows/{step(workflow_id)}/webhook"
        reply = await self._line.ask("POST", path, json=dict(input), key=idempotency_key)
        found = reply.body.get("executionId") if isinstance(reply.body, dict) else None
        if not isinstance(found, str):
            raise BackendAway("the answer to a webhook names no execution")
        return found

    async def close(self) -> None:
        await self._line.close()
