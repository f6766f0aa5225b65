"""One attestor: `python -m services.verifier --key FILE [--gateway URL]`; see docs/slashing.md."""

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import structlog

from services.chain.wallets import kept_at
from services.logging import configure
from services.settings import Settings
from services.until_stopped import until_stopped
from services.verifier.probing import Clock
from services.verifier.verifier import Verifier

log = structlog.get_logger("verifier")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _sleep_until_ms(moment_ms: int) -> None:
    await asyncio.sleep(max(0, moment_ms - _now_ms()) / 1000)


async def run(key_file: Path, gateway: str, models: Sequence[Path]) -> None:
    """Until SIGTERM or SIGINT."""
    key, clock = kept_at(key_file), Clock(_now_ms, _sleep_until_ms)
    async with httpx.AsyncClient(base_url=gateway, timeout=10, trust_env=False) as rest:
        log.info("ready", attestor=key.address, gateway=gateway)
        await until_stopped(Verifier(key, rest, clock, models).run())
    log.info("stopped")


def main() -> None:
    settings = Settings()
    parser = argparse.ArgumentParser(prog="python -m services.verifier", description=__doc__)
    parser.add_argument("--key", type=Path, required=True, help="the attestor's key, hex; made when missing")
    parser.add_argument("--gateway", default=settings.public_url, help="default: %(default)s")
    parser.add_argument(
        "--models", type=Path, action="append", metavar="DIR", help="a directory of models, to compute"
        " answers again; repeatable; default: COMPUTEPOOL_MODEL_DIRS. Without a model an attestor abstains",
    )  # fmt: skip
    arguments = parser.parse_args()
    configure(settings.log_level)
    asyncio.run(run(arguments.key, arguments.gateway, arguments.models or settings.model_dirs))


if __name__ == "__main__":
    main()
