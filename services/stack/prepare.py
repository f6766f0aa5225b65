"""What must stand before the roles start, one step per call: for containers, where nobody sees the whole.

`keys` writes the NATS configuration and every role's seed; `schema` brings the database up to date and
makes the streams. Both change nothing when repeated. Knows nothing of processes.
"""

import argparse
import asyncio
import sys

from services import bus, migrate
from services.access import NatsAccess
from services.logging import configure
from services.settings import Settings
from services.stack.failure import causes
from services.streams import ensure_streams

STORE_DIR = "/data/jetstream"


def keys(settings: Settings) -> None:
    """The server listens on every interface of its container; the network around it is closed."""
    NatsAccess.of(settings).write(host="0.0.0.0", port=4222, store_dir=STORE_DIR)


async def schema(settings: Settings) -> None:
    """Raises BusAway, BusRefused, and what the database says."""
    if settings.database_url is None:
        raise ValueError("DATABASE_URL is not set")
    await asyncio.to_thread(migrate.upgrade, settings.database_url.get_secret_value())
    client = await bus.connect(settings, "admin")
    try:
        await ensure_streams(client, settings.nats_replicas)
    finally:
        await bus.close(client)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.stack.prepare")
    parser.add_argument("step", choices=("keys", "schema"))
    settings = Settings()
    configure(settings.log_level)
    try:
        if parser.parse_args().step == "keys":
            keys(settings)
        else:
            asyncio.run(schema(settings))
    except Exception as failure:
        print(f"error: {causes(failure)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
