"""What `GET /api/mcp/schemas` says: which actions and triggers this runner knows, and their fields. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from services.keeper.runner.actions.superfluid import CALLS, DEFAULTS, Call
from services.keeper.runner.actions.table import KNOWN
from services.keeper.runner.runner import STARTED_HERE
from services.keeper.workflow_format import HANDLES

CHAIN, ADDRESS, ABI = "string (chain id)", "string (address)", "string (JSON of an ABI)"
BOX = {"network": CHAIN, "ballotBox": ADDRESS}
BALLOT = {**BOX, "ballotId": "string (bytes32)"}
CALL = {"network": CHAIN, "contractAddress": ADDRESS, "abi": ABI, "abiFunction": "string"}
GAS = {"gasLimitMultiplier": "string"}
TIP = {"priorityFeeGwei": "string", "failOnError": "boolean"}

FIELDS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "Condition": ({"condition": "string (expression)"}, {"conditionConfig": "object (group of rules)"}),
    "For Each": (
        {"arraySource": "string (template)"},
        {
            "maxIterations": "number",
            "mapExpression": "string (path)",
            "concurrency": "sequential | parallel | custom",
            "concurrencyLimit": "number",
        },
    ),
    "Collect": ({}, {}),
    "HTTP Request": (
        {"endpoint": "string (https URL)", "httpMethod": "string"},
        {
            "httpHeaders": "string (JSON object)",
            "httpBody": "string (JSON)",
            "timeout": "number (s, 1 to 30)",
            "retryAttempts": "number (0 to 5)",
            "retryDelay": "number (s)",
            "failOnError": "boolean",
        },
    ),
    "State Get": ({"key": "string"}, {}),
    "State Set": ({"key": "string", "value": "any"}, {"expectedVersion": "number", "ttl": "number (s)"}),
    "coalition/open-ballot": (
        {
            **BOX,
            "topic": "any",
            "voters": "string (JSON list of addresses)",
            "quorum": "number (more than half)",
            "deadlineUnix": "number (s)",
        },
        {},
    ),
    "coalition/cast-vote": ({**BALLOT, "result": "any"}, {}),
    "coalition/tally": (BALLOT, {}),
    "coalition/require-consensus": ({**BALLOT, "result": "any"}, {}),
    "web3/check-balance": ({"network": CHAIN, "address": ADDRESS}, {}),
    "web3/get-transaction": ({"network": CHAIN, "transactionHash": "string (bytes32)"}, {}),
    "web3/query-events": (
        {"network": CHAIN, "contractAddress": ADDRESS, "abi": ABI, "eventName": "string"},
        {
            "eventArgs": "string (JSON list)",
            "fromBlock": "string",
            "toBlock": "string",
            "blockCount": "string",
        },
    ),
    "web3/read-contract": (CALL, {"functionArgs": "string (JSON list)"}),
    "web3/transfer-funds": ({"network": CHAIN, "recipientAddress": ADDRESS, "amount": "string"}, TIP),
    "web3/write-contract": (
        CALL,
        {"functionArgs": "string (JSON list)", "ethValue": "string", **GAS, **TIP},
    ),
}


def _superfluid(call: Call) -> tuple[dict[str, str], dict[str, str]]:
    """The arguments by their names, those of a tuple among them."""
    named = dict(_flat(call.parsed.inputs))
    place = {"network": CHAIN} if call.contract else {"network": CHAIN, "contractAddress": ADDRESS}
    required = {name: kind for name, kind in named.items() if name not in DEFAULTS}
    optional = {name: kind for name, kind in named.items() if name in DEFAULTS}
    return {**place, **required}, optional if call.outputs else {**optional, **GAS, **TIP}


def _flat(items: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for item in items:
        if item["type"] == "tuple":
            yield from _flat(item["components"])
        else:
            yield item["name"], f"string ({item['type']})"


FIELDS |= {f"superfluid/{slug}": _superfluid(call) for slug, call in CALLS.items()}


def schemas() -> dict[str, Any]:
    return {
        "version": "1.0.0",
        "actions": {name: _action(name) for name in KNOWN},
        "triggers": {
            name: {"triggerType": name, "label": name, "requiredFields": {}, "optionalFields": {}}
            for name in STARTED_HERE
        },
        "templateSyntax": {"pattern": "{{@nodeId:Label.field}}"},
        "builtinVariables": {
            "nodeId": "__system",
            "nodeLabel": "System",
            "variables": ["unixTimestamp", "unixTimestampMs", "isoTimestamp"],
        },
    }


def _action(name: str) -> dict[str, Any]:
    required, optional = FIELDS.get(name, ({}, {}))
    found = {
        "actionType": name,
        "label": name,
        "category": name.partition("/")[0] if "/" in name else "System",
        "requiredFields": required,
        "optionalFields": optional,
    }
    return {**found, "sourceHandles": list(HANDLES[name])} if name in HANDLES else found
