"""Runs a benchmark from the command line: progress, one JSON object last, and the figures kept by date."""

import asyncio
import json as jsonlib
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
Say = Callable[[str], None]
Measure = Callable[[Say, bool], Awaitable[dict[str, object]]]


def report(name: str, measure: Measure, json: bool, quick: bool) -> None:
    """Print what is measured as it comes (to stderr with `json`), one JSON object last on stdout; keep it."""
    begun = time.monotonic()

    def say(text: str) -> None:
        print(text, file=sys.stderr if json else sys.stdout, flush=True)

    async def run() -> dict[str, object]:
        return await measure(say, quick)

    found = asyncio.run(run())
    found["seconds"] = round(time.monotonic() - begun, 1)
    found["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        kept = RESULTS / f"{name}-{datetime.now(UTC):%Y-%m-%d}.json"
        kept.write_text(jsonlib.dumps(found, indent=1) + "\n")
    print(jsonlib.dumps(found))
