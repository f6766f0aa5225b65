"""Where workflows run: at KeeperHub when there is a key for it, else on the runner in this process."""

from services.keeper.backend import WorkflowBackend
from services.keeper.hosted.backend import HostedBackend
from services.keeper.hosted.mcp import Mcp
from services.keeper.hosted.rest import Rest
from services.settings import Settings


def backend_of(settings: Settings, embedded: WorkflowBackend, chain_id: int | None = None) -> WorkflowBackend:
    """Raises WrongKeyKind and UnsafeUrl, before anything is sent."""
    key = settings.keeperhub_api_key
    if key is None or not key.get_secret_value():
        return embedded
    transport = Mcp if settings.keeperhub_transport == "mcp" else Rest
    return HostedBackend(transport(settings.keeperhub_url, key), chain_id)
