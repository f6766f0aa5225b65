"""The embedded runner behind KeeperHub's paths, on a free port, with keys of every kind. Knows no test."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eth_account.signers.local import LocalAccount
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chain.rpc import Rpc
from services.chain.sender import Sender
from services.credentials import engine_of
from services.keeper.hosted.mcp import Mcp
from services.keeper.hosted.patience import Patience
from services.keeper.hosted.rest import Rest
from services.keeper.hosted.transport import Transport
from services.keeper.runner.runner import Runner
from services.keeper.runner_http.app import create_app
from services.keeper.runner_http.desk import Desk
from services.keeper.runner_http.keys import AccessKeys
from services.keeper.runner_http.serving import serving
from services.keeper.runner_http.shelf import Shelf
from tests.anvil import LOCAL
from tests.postgres import database

TRANSPORTS = ("rest", "mcp")
QUICK = Patience(attempts=4, first_s=0.05, longest_s=2.0)
UNLIMITED = 1_000_000


@dataclass
class Served:
    url: str
    runner: Runner
    engine: AsyncEngine
    keys: AccessKeys
    organisation: str
    webhook: str

    def transport(self, name: str) -> Transport:
        key = SecretStr(self.organisation)
        return Mcp(self.url, key, QUICK, poll_hint_s=0.02) if name == "mcp" else Rest(self.url, key, QUICK)


@contextlib.asynccontextmanager
async def served(
    *,
    per_minute: int = UNLIMITED,
    rpc: Rpc | None = None,
    wallet: LocalAccount | None = None,
    like: "Served | None" = None,
    **runner_is: Any,
) -> AsyncIterator[Served]:
    """On the local chain. `like`: another whose keys open this one too. `rpc`, `wallet`: the way to the
    chain, and who sends; without them nothing is sent.
    """
    async with database() as url:
        engine = engine_of(url)
        sender = Sender(rpc, LOCAL, wallet, engine) if rpc is not None and wallet is not None else None
        runner = Runner(engine, rpc=rpc, network=LOCAL, sender=sender, **runner_is)
        with TemporaryDirectory() as folder:
            keys = like.keys if like else AccessKeys(Path(folder) / "keys.json")
            organisation = like.organisation if like else keys.issue("organisation", "tests")[1]
            webhook = like.webhook if like else keys.issue("webhook", "tests")[1]
            desk = Desk(runner, Shelf(engine), LOCAL)
            app = create_app(desk, keys, rest_per_minute=per_minute, mcp_per_minute=per_minute)
            async with serving(app, "127.0.0.1", 0) as port:
                yield Served(f"http://127.0.0.1:{port}", runner, engine, keys, organisation, webhook)
        await runner.close()
        await engine.dispose()
