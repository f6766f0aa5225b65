"""The whole deployment: Superfluid, the token and this project's own contracts, as one plan."""

import hashlib

from services.chain.artifacts import BUILD_INFO, PLACES, ArtifactMissing, artifact
from services.chain.plan import Placed, Plan
from services.chain.superfluid import plan_framework, plan_wrapper

USDC_DECIMALS = 6


def plan_of(owner: str, usdc: str | None = None) -> Plan:
    """Everything that `owner` would put on a chain; `usdc` is a token that stands there already.

    Raises ArtifactMissing.
    """
    plan = Plan(owner, artifact("Genesis"), superfluid_build())
    plan_framework(plan)
    if usdc is None:
        usdc = plan.create("USDC", artifact("MockUSDC"), owner)
    else:
        plan.made(Placed("USDC", usdc, "", None, "somebody else"))
    plan_wrapper(plan, "USDCx", usdc, USDC_DECIMALS, "Super USDC", "USDCx")
    plan.by_proxy("LogAnchor", artifact("LogAnchor"))
    return plan


def superfluid_build() -> str:
    path = PLACES["superfluid"] / BUILD_INFO
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as missing:
        raise ArtifactMissing(f"{path} is not there") from missing
