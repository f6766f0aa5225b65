"""Hands the live log to the auditor, read with the auditor's own role; knows nothing of what is checked."""

import json
from pathlib import Path

from services import bus
from services.access import WRITERS_FILE
from services.auditor.verify import Report, verify
from services.log import EventLog
from services.settings import Settings


class WritersUnknown(Exception):
    """writers_unknown: no file says which keys may write the log; ask the operator for writers.json."""

    code = "writers_unknown"


async def audit_log(settings: Settings, writers_file: Path | None = None) -> Report:
    """The whole log up to now. `writers_file`: {public nkey: [kinds]}; default: the local stack's own.

    Raises WritersUnknown, BusAway, BusRefused, LogUnavailable.
    """
    path = writers_file or settings.state_dir / "nats" / WRITERS_FILE
    try:
        writers = {key: tuple(kinds) for key, kinds in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError) as missing:
        raise WritersUnknown(f"{path}: {missing}") from missing
    client = await bus.connect(settings, "auditor")
    try:
        log = await EventLog.open(client, None)
        return await verify(log.read(0, follow=False), writers)
    finally:
        await bus.close(client)
