"""KeeperHub over REST (KH: docs/api/*.md). Knows paths and headers; `patience` knows when to send again."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from services.keeper.backend import BackendAway
from services.keeper.hosted.line import TIMEOUT_S, Line
from services.keeper.hosted.patience import Patience
from services.keeper.hosted.replies import Reply
from services.keeper.hosted.transport import Json

PAGE = 200
MOST_WAIT_S = 60.0
"""KH: app/api/workflows/executions/[executionId]/wait/route.ts: longer is cut to this."""


class Rest:
    """`key`: of an organisation. Raises WrongKeyKind and UnsafeUrl."""

    def __init__(
        self, url: str, key: SecretStr, patience: Patience | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._line = Line(url, key, "organisation", patience or Patience(), timeout_s)

    async def workflows(self) -> Sequence[Json]:
        found: list[Json] = []
        while True:
            params = {"limit": PAGE, "offset": len(found)}
            page = _list(await self._line.ask("GET", "/api/workflows", params=params))
            known = {item.get("id") for item in found}
            new = [item for item in page if item.get("id") not in known]
            found += new
            if len(page) < PAGE or not new:  # an older server pays no heed to the page and sends all at once
                return found

    async def workflow(self, workflow_id: str) -> Json:
        return _object(await self._line.ask("GET", f"/api/workflows/{step(workflow_id)}"))

    async def create(self, body: Json, idempotency_key: str) -> Json:
        return _object(
            await self._line.ask(
                "POST", "/api/workflows/create", json=body, key=idempotency_key, repeatable=False
            )
        )

    async def update(self, workflow_id: str, body: Json) -> Json:
        return _object(await self._line.ask("PATCH", f"/api/workflows/{step(workflow_id)}", json=body))

    async def execute(self, workflow_id: str, input: Mapping[str, Any], idempotency_key: str) -> Json:
        path = f"/api/workflows/{step(workflow_id)}/execute"
        return _object(await self._line.ask("POST", path, json={"input": dict(input)}, key=idempotency_key))

    async def status(self, execution_id: str) -> Json:
        path = f"/api/workflows/executions/{step(execution_id)}/status"
        reply = await self._line.ask("GET", path)
        found = _object(reply)
        context = found.get("errorContext")
        error = context.get("error") if isinstance(context, Mapping) else None
        return {"error": error, **found, "poll_hint_s": reply.poll_hint_s}

    async def wait(self, execution_id: str, within_s: float) -> Json:
        within_s = min(max(0.0, within_s), MOST_WAIT_S)
        path = f"/api/workflows/executions/{step(execution_id)}/wait"
        reply = await self._line.ask(
            "GET",
            path,
            params={"timeoutMs": int(within_s * 1000)},
            beyond_s=within_s,
        )
        return {**_object(reply), "poll_hint_s": reply.poll_hint_s}

    async def logs(self, execution_id: str) -> Sequence[Json]:
        found = _object(await self._line.ask("GET", f"/api/workflows/executions/{step(execution_id)}/logs"))
        return [entry for entry in found.get("logs") or () if isinstance(entry, dict)]

    async def executions(self, workflow_id: str) -> Sequence[Json]:
        return _list(await self._line.ask("GET", f"/api/workflows/{step(workflow_id)}/executions"))

    async def chains(self) -> Sequence[Json]:
        return _list(await self._line.ask("GET", "/api/chains"))

    async def close(self) -> None:
        await self._line.close()


def step(given: str) -> str:
    """An id as one step of a path, whatever is in it."""
    return quote(given, safe="")


def _object(reply: Reply) -> Json:
    if isinstance(reply.body, dict):
        return reply.body
    raise BackendAway(f"answered {type(reply.body).__name__} where an object belongs")


def _list(reply: Reply) -> list[Json]:
    if isinstance(reply.body, list):
        return [item for item in reply.body if isinstance(item, dict)]
    raise BackendAway(f"answered {type(reply.body).__name__} where a list belongs")
