"""A connection to NATS in one role: its key, its own inbox, reconnecting for as long as the process lives.

Knows nothing of streams or subjects; what a role may do stands in `services.access`.
"""

import asyncio
import contextlib

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.settings import Settings
from shard_runtime.messages import inbox_prefix

log = structlog.get_logger("bus")

FIRST_CONNECT_S = 30.0


class BusAway(Exception):
    """bus_away: no NATS server took the connection in time; see `computepool ps`, or set NATS_URL."""

    code = "bus_away"


class BusRefused(Exception):
    """bus_refused: the NATS server does not know this role's key;
    start the stack again, or copy its seeds.
    """

    code = "bus_refused"


async def connect(
    settings: Settings, role: str, *, member: str | None = None, first_connect_s: float = FIRST_CONNECT_S
) -> Client:
    """Connect as `role` with the seed `<seeds_dir>/<role>.nk`; later outages are waited out forever.

    Raises BusRefused, BusAway (after `first_connect_s`), FileNotFoundError when there is no such seed.
    """
    seed = (settings.seeds_dir / f"{role}.nk").read_text().strip()
    return await connect_with_seed(
        settings.nats_url or "nats://127.0.0.1:4222",
        seed,
        inbox=inbox_prefix(role, member or role),
        name=role if member is None else f"{role} {member}",
        first_connect_s=first_connect_s,
    )


async def close(client: Client, within_s: float = 3.0) -> None:
    """Close a connection, also one whose server is away; never raises and never waits for long."""
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(within_s):
            await client.close()


async def connect_with_seed(url: str, seed: str, *, inbox: str, name: str, first_connect_s: float) -> Client:
    """As `connect`, with everything given."""
    deadline = asyncio.get_running_loop().time() + first_connect_s
    while True:
        try:
            return await _open(url, seed, inbox, name)
        except (NatsError, OSError, TimeoutError) as failed:
            if "authorization violation" in str(failed).lower():
                raise BusRefused(f"{name} at {url}") from failed
            if asyncio.get_running_loop().time() >= deadline:
                raise BusAway(f"{name} at {url}: {failed!r}") from failed
            await asyncio.sleep(0.1)


async def _open(url: str, seed: str, inbox: str, name: str) -> Client:
    """One attempt; the client that comes back reconnects forever and says so in the log."""
    facts = log.bind(role=name)

    async def disconnected() -> None:
        facts.warning("disconnected")

    async def reconnected() -> None:
        facts.info("reconnected")

    async def closed() -> None:
        facts.info("closed")

    async def failed(error: Exception) -> None:
        if client.is_connected or "permissions" in str(error).lower():
            facts.error("nats_error", why=str(error) or repr(error))

    client = Client()
    await client.connect(
        url,
        name=name,
        nkeys_seed_str=seed,
        inbox_prefix=inbox,
        allow_reconnect=False,
        max_reconnect_attempts=1,
        reconnect_time_wait=0.1,
        connect_timeout=5,
        ping_interval=10,
        max_outstanding_pings=2,
        error_cb=failed,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        closed_cb=closed,
    )
    client.options["allow_reconnect"] = True
    client.options["max_reconnect_attempts"] = -1
    facts.info("connected", server=client.connected_url.netloc)
    return client
