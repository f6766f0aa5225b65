"""Management commands on their way to the orchestrator, and its refusals on their way back; decides
nothing.
"""

from services import control
from services.gateway.refusals import RemoteRefusal
from services.gateway.request_id import current_request_id
from services.gateway.state import Gateway


async def command(here: Gateway, request: control.Ask, command_id: str) -> control.Answer:
    """Raises RemoteRefusal with the orchestrator's code, OrchestratorAway."""
    answer = await control.ask(here.client, request, command_id, current_request_id())
    if answer.error_code is not None:
        raise RemoteRefusal(answer.error_code, answer.detail, answer.remedy)
    return answer
