"""The whole deployment: Superfluid, the token and this project's own contracts, as one plan."""

import hashlib

from services.chain.addresses import create
from services.chain.artifacts import BUILD_INFO, PLACES, ArtifactMissing, artifact
from services.chain.plan import Placed, Plan
from services.chain.superfluid import plan_framework, plan_wrapper

USDC_DECIMALS = 6
MARGIN_S = 60
"""So long before a session's money runs out anyone may close it."""


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
    usdcx = plan_wrapper(plan, "USDCx", usdc, USDC_DECIMALS, "Super USDC", "USDCx")
    sessions = artifact("SessionEscrowFactory")
    factory = plan.by_proxy(sessions.name, sessions, usdc, usdcx, plan.at("GDAv1Forwarder"), MARGIN_S)
    plan.made(Placed("SessionEscrow", create(factory, 1), "SessionEscrow", "computepool", sessions.name))
    plan.by_proxy("CoalitionFactory", artifact("CoalitionFactory"))
    plan.by_proxy("LogAnchor", artifact("LogAnchor"))
    plan.by_proxy("BallotBox", artifact("BallotBox"))
    return plan


def superfluid_build() -> str:
    path = PLACES["superfluid"] / BUILD_INFO
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as missing:
        raise ArtifactMissing(f"{path} is not there") from missing
