"""Superfluid's actions as upstream names them: `superfluid/create-flow` and the fifteen others.

A node gives the function's arguments by their names; a tuple's parts lie flat among them. Forwarders stand
where the runner was told that they do, a super token where the node says (`contractAddress`). Knows no
workflow.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from services.chain import revert
from services.chain.artifacts import written_type
from services.chain.rpc import CallReverted, RpcRefused
from services.keeper.runner.abi_values import ArgumentsInvalid, Function, Item, address
from services.keeper.runner.actions.chain_access import chain_of
from services.keeper.runner.actions.step import Action, Means, Result, Step, failure
from services.keeper.runner.actions.web3_read import asked, no_chain
from services.keeper.runner.actions.web3_write import Wanted, sent, wanted

CFA, GDA, SUPER_TOKEN = "CFAv1Forwarder", "GDAv1Forwarder", ""
DEFAULTS = {"userData": "0x", "transferabilityForUnitsOwner": "false", "distributionFromAnyAddress": "false"}
FLOW = "address token, address sender, address receiver"
POOL = "address token, address from, address pool"


@dataclass(frozen=True)
class Call:
    """`inputs` and `outputs` as Solidity writes them; a function with outputs is a view."""

    contract: str
    function: str
    inputs: str
    outputs: str = ""

    @property
    def parsed(self) -> Function:
        inputs, outputs = _items(self.inputs), _items(self.outputs)
        return Function(inputs, outputs, f"{self.function}({','.join(map(written_type, inputs))})")


CALLS: Mapping[str, Call] = {
    "create-flow": Call(CFA, "createFlow", f"{FLOW}, int96 flowRate, bytes userData"),
    "update-flow": Call(CFA, "updateFlow", f"{FLOW}, int96 flowRate, bytes userData"),
    "delete-flow": Call(CFA, "deleteFlow", f"{FLOW}, bytes userData"),
    "get-flow": Call(
        CFA, "getFlowInfo", FLOW, "uint256 lastUpdated, int96 flowRate, uint256 deposit, uint256 owedDeposit"
    ),
    "get-cfa-net-flow": Call(CFA, "getAccountFlowrate", "address token, address account", "int96 flowRate"),
    "grant-flow-operator": Call(
        CFA,
        "updateFlowOperatorPermissions",
        "address token, address flowOperator, uint8 permissions, int96 flowRateAllowance",
    ),
    "create-pool": Call(
        GDA,
        "createPool",
        "address token, address admin, (bool transferabilityForUnitsOwner; bool distributionFromAnyAddress)",
    ),
    "update-member-units": Call(
        GDA, "updateMemberUnits", "address pool, address member, uint128 units, bytes userData"
    ),
    "distribute": Call(GDA, "distribute", f"{POOL}, uint256 amount, bytes userData"),
    "distribute-flow": Call(GDA, "distributeFlow", f"{POOL}, int96 flowRate, bytes userData"),
    "connect-pool": Call(GDA, "connectPool", "address pool, bytes userData"),
    "get-net-flow": Call(GDA, "getNetFlow", "address token, address account", "int96 flowRate"),
    "wrap": Call(SUPER_TOKEN, "upgrade", "uint256 amount"),
    "unwrap": Call(SUPER_TOKEN, "downgrade", "uint256 amount"),
    "get-super-token-balance": Call(SUPER_TOKEN, "balanceOf", "address account", "uint256 balance"),
    "get-underlying-token": Call(SUPER_TOKEN, "getUnderlyingToken", "", "address underlying"),
}


def _action(call: Call) -> Action:
    function = call.parsed

    def told(step: Step, means: Means) -> tuple[str, str]:
        """Where to, and the arguments as JSON. Raises ArgumentsInvalid."""
        place = means.contracts.get(call.contract) if call.contract else step.config.get("contractAddress")
        if call.contract and place is None:
            raise ArgumentsInvalid(f"this runner knows no {call.contract}")
        given = {name: step.said(name) or DEFAULTS.get(name, "") for name in _names(function.inputs)}
        missing = [name for name, value in given.items() if not value]
        if missing:
            raise ArgumentsInvalid(f"not set: {', '.join(missing)}")
        return address(place), json.dumps([*given.values()])

    async def write(step: Step, means: Means) -> Result:
        def what(step: Step) -> Wanted:
            to, arguments = told(step, means)
            return wanted(step, to, function.calldata(arguments))

        return await sent(step, means, what)

    async def read(step: Step, means: Means) -> Result:
        """`{success, result}`, and the result once more under its own name."""
        chain = chain_of(step, means)
        if chain is None:
            return no_chain(step)
        try:
            to, arguments = told(step, means)
            result = await asked(chain, to, function, arguments)
        except CallReverted as refused:
            return failure(revert.named(refused.data), errorClass="contract_revert")
        except (ArgumentsInvalid, RpcRefused) as wrong:
            return failure(str(wrong))
        named = {} if isinstance(result, dict) else {str(function.outputs[0]["name"]): result}
        return {"success": True, "result": result, **named}

    return read if function.outputs else write


def _items(written: str) -> tuple[Item, ...]:
    found: list[Item] = []
    for part in filter(None, (part.strip() for part in written.split(","))):
        if part.startswith("("):
            inner = _items(part.strip("()").replace(";", ","))
            found.append({"name": "config", "type": "tuple", "components": inner})
        else:
            kind, name = part.split()
            found.append({"name": name, "type": kind})
    return tuple(found)


def _names(items: tuple[Item, ...]) -> list[str]:
    return [
        name
        for item in items
        for name in (_names(item["components"]) if item["type"] == "tuple" else [str(item["name"])])
    ]


SUPERFLUID: Mapping[str, Action] = {f"superfluid/{slug}": _action(call) for slug, call in CALLS.items()}
SENDING = frozenset(f"superfluid/{slug}" for slug, call in CALLS.items() if not call.outputs)
