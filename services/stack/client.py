"""Reaching a stack that runs on this machine: its addresses, and an operator's token while one needs it.

Knows nothing of what is then asked. Whoever may read the local database is the operator already.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from services.settings import Settings
from services.stack import register
from services.stack.identity import lives


class ModelNotFound(Exception):
    """model_not_found: no directory with a config.json by that path or name; see COMPUTEPOOL_MODEL_DIRS."""

    code = "model_not_found"


class NoDatabase(Exception):
    """no_database: nothing runs in this state directory and DATABASE_URL is not set."""

    code = "no_database"


def local_settings(base: Settings | None = None) -> Settings:
    """The settings with what is unset taken from the stack that runs in the state directory."""
    settings = base or Settings()
    record = register.read(settings.state_dir)
    runs = any(entry.exit_status is None and lives(entry.identity) for entry in record.processes)
    known = record.environment if runs else {}
    found: dict[str, Any] = {}
    if settings.gateway_url is None and "COMPUTEPOOL_GATEWAY_URL" in known:
        found["gateway_url"] = known["COMPUTEPOOL_GATEWAY_URL"]
    if settings.nats_url is None and known.get("NATS_URL"):
        found["nats_url"] = known["NATS_URL"]
    if settings.chain_rpc_url is None and known.get("CHAIN_RPC_URL"):
        found["chain_rpc_url"] = known["CHAIN_RPC_URL"]
    if settings.database_url is None and known.get("DATABASE_URL"):
        found["database_url"] = SecretStr(known["DATABASE_URL"])
    return settings.model_copy(update=found)


@asynccontextmanager
async def operator_token(settings: Settings, label: str = "computepool command") -> AsyncIterator[str]:
    """An operator token that is revoked at the end. Raises NoDatabase."""
    from services import credentials

    if settings.database_url is None:
        raise NoDatabase("start the stack with `computepool up`, or set DATABASE_URL or COMPUTEPOOL_TOKEN")
    engine = credentials.engine_of(settings.database_url.get_secret_value())
    store = credentials.Credentials(engine)
    try:
        issued = await store.create("operator", credentials.PASSING + label)
        try:
            yield issued.token
        finally:
            await store.revoke(issued.id, "operator")
    finally:
        await engine.dispose()


def local_model(model: str, model_dirs: Sequence[Path]) -> Path:
    """The directory of a model given by path or by its name below `model_dirs`. Raises ModelNotFound."""
    for candidate in (Path(model), *(directory / model for directory in model_dirs)):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    looked = ", ".join(str(directory) for directory in model_dirs)
    raise ModelNotFound(f"{model!r} is neither a directory with a config.json nor a name below {looked}")
