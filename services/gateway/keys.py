"""API keys over REST: an operator issues and revokes them; knows nothing of how they are stored."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from services.gateway.auth import Here, Operator
from services.gateway.idempotency import Answer, Attempt
from services.gateway.refusals import CredentialUnknown

router = APIRouter(tags=["Keys"])


class IssueKey(BaseModel):
    """`label` tells keys apart; it is shown nowhere but to operators."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"label": "laptop"}})

    label: str = Field("", max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")


@router.post("/keys", status_code=201, summary="Issue an API key, shown once", response_model=None)
async def issue(request: Request, here: Here, who: Operator, body: IssueKey | None = None) -> Response:
    asked = body or IssueKey(label="")

    async def act(_: Attempt) -> Answer:
        issued = await here.credentials.create("api_key", asked.label)
        kept = {"id": issued.id, "token": None, "note": "shown once, with the first answer"}
        return Answer({"id": issued.id, "token": issued.token}, 201, kept)

    return await here.idempotency.once(request, who, asked, act)


@router.delete("/keys/{key_id}", summary="Revoke an API key")
async def revoke(
    key_id: Annotated[str, Path(description="an API key's id")], here: Here, _: Operator
) -> dict[str, Any]:
    if "\x00" in key_id or not await here.credentials.revoke(key_id, "api_key"):
        raise CredentialUnknown
    return {"id": key_id, "revoked": True}
