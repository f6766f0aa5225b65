"""What nodes do to a chain, and what a chain's refusals become. USDC is play money whose owner sends for
the runner.
"""

import json
from typing import Any

from services.chain.artifacts import artifact
from tests.contract.runner.conformance.row import Row, keep, node

USDC, ME, OTHER, NETWORK = (f"{{{{@trigger:Trigger.{name}}}}}" for name in ("usdc", "me", "other", "network"))
USDCX = "{{@trigger:Trigger.usdcx}}"
ABI = json.dumps(artifact("MockUSDC").abi)


def write(node_id: str, function: str, *arguments: str, **more: Any) -> dict[str, Any]:
    return _call(node_id, "web3/write-contract", function, arguments, more)


def read(node_id: str, function: str, *arguments: str, **more: Any) -> dict[str, Any]:
    return _call(node_id, "web3/read-contract", function, arguments, more)


def events(node_id: str, event: str, **more: Any) -> dict[str, Any]:
    config = {"network": NETWORK, "contractAddress": USDC, "abi": ABI, "eventName": event, **more}
    return node(node_id, "web3/query-events", **config)


def _call(node_id: str, action: str, function: str, arguments: Any, more: dict[str, Any]) -> dict[str, Any]:
    config = {"network": NETWORK, "contractAddress": USDC, "abi": ABI, "abiFunction": function}
    return node(node_id, action, **{**config, "functionArgs": json.dumps(arguments), **more})


def _superfluid(node_id: str, slug: str, **config: Any) -> dict[str, Any]:
    return node(node_id, f"superfluid/{slug}", network=NETWORK, **config)


def refused(name: str, error: str, *nodes: dict[str, Any]) -> Row:
    return Row(name, (*nodes, keep("z", "1")), "trigger>a a>z", status="error", error=error, ran="trigger a")


ROWS = (
    Row(
        "a write, what it changed, and what it said",
        (
            write("a", "mint", OTHER, "1500000", gasLimitMultiplier="1.5", priorityFeeGwei="2.5"),
            node("tx", "web3/get-transaction", network=NETWORK, transactionHash="{{@a:A.transactionHash}}"),
            events(
                "said",
                "Transfer",
                eventArgs=f'["", "{OTHER}"]',
                fromBlock="{{@tx:Tx.blockNumber}}",
                toBlock="{{@tx:Tx.blockNumber}}",
            ),
            node(
                "same",
                "Condition",
                condition="{{@said:Said.events[0].transactionHash}} === {{@a:A.transactionHash}}"
                " && {{@said:Said.eventCount}} === 1",
            ),
            read("b", "balanceOf", OTHER),
        ),
        "trigger>a a>tx tx>said said>same same:true>b",
        outputs={
            "a": {"success": True, "chainId": 31337},
            "said": {"events": [{"args": {"value": "1500000"}}]},
            "same": {"condition": True},
            "b": {"success": True, "result": "1500000"},
        },
        ran="trigger a tx said same b",
    ),
    Row(
        "named answers come as an object, several without a name as a list",
        (read("a", "eip712Domain"), keep("b", "{{@a:A.version}}")),
        "trigger>a a>b",
        outputs={"a": {"result": {"name": "USD Coin", "version": "2", "chainId": "31337", "extensions": []}}},
        inputs={"b": {"value": "2"}},
    ),
    Row(
        "a function by its whole signature, an empty last argument left out",
        (read("a", "balanceOf(address)", "0x" + "00" * 20, ""),),
        "trigger>a",
        outputs={"a": {"result": "0"}},
    ),
    Row(
        "one transaction per item of a loop",
        (
            node("loop", "For Each", "For Each", arraySource="[1,2,3]", concurrency="parallel"),
            write("a", "mint", "0x" + "77" * 20, "{{@loop:For Each.currentItem}}"),
            node("collect", "Collect"),
            read("b", "balanceOf", "0x" + "77" * 20),
        ),
        "trigger>loop loop:loop>a loop:done>collect collect>b",
        outputs={"collect": {"count": 3}, "b": {"result": "6"}},
    ),
    Row(
        "coins, and what an account has of them",
        (
            node(
                "a", "web3/transfer-funds", network=NETWORK, recipientAddress="0x" + "66" * 20, amount="0.25"
            ),
            node("b", "web3/check-balance", network=NETWORK, address="0x" + "66" * 20),
        ),
        "trigger>a a>b",
        outputs={"b": {"balance": "0.25", "balanceWei": "250000000000000000"}},
    ),
    refused(
        "a refusal is the contract's error by its name, and nothing is sent",
        "ERC20InsufficientBalance(",
        write("a", "transfer", OTHER, str(10**30)),
    ),
    Row(
        "softly, when failOnError is off",
        (write("a", "transfer", OTHER, str(10**30), failOnError=False), keep("b", "{{@a:A.error}}")),
        "trigger>a a>b",
        outputs={"a": {"success": True}},
        ran="trigger a b",
    ),
    Row(
        "Superfluid's actions, by upstream's names",
        (
            _superfluid("pool", "create-pool", token=USDCX, admin=ME),
            _superfluid("balance", "get-super-token-balance", contractAddress=USDCX, account=ME),
            _superfluid("under", "get-underlying-token", contractAddress=USDCX),
            _superfluid("flow", "get-flow", token=USDCX, sender=ME, receiver=OTHER),
            _superfluid("net", "get-net-flow", token=USDCX, account=ME),
            keep("z", "{{@under:Under.underlying}} {{@flow:Flow.flowRate}} {{@net:Net.flowRate}}"),
        ),
        "trigger>pool pool>balance balance>under under>flow flow>net net>z",
        outputs={
            "pool": {"success": True, "chainId": 31337},
            "flow": {"result": {"lastUpdated": "0", "flowRate": "0", "deposit": "0", "owedDeposit": "0"}},
            "balance": {"balance": "0"},
        },
    ),
    refused(
        "a Superfluid action that was told too little",
        "not set: receiver, flowRate",
        _superfluid("a", "create-flow", token=USDCX, sender=ME),
    ),
    refused(
        "what Superfluid refuses",
        "CFA_",
        _superfluid("a", "create-flow", token=USDCX, sender=ME, receiver=ME, flowRate="1"),
    ),
    refused("an argument of another type", "not an address: me", read("a", "balanceOf", "me")),
    refused("too few arguments", "takes 2 arguments", write("a", "mint", OTHER)),
    refused("a function that is not in the ABI", "0 functions burn", write("a", "burn", "1")),
    refused("the keys of older editors", "abiFunction", write("a", "", "1", functionName="mint")),
    refused("another chain", "network 1", write("a", "mint", OTHER, "1", network="1")),
    refused(
        "no contract there",
        "no contract answers",
        read("a", "balanceOf", ME, contractAddress="0x" + "99" * 20),
    ),
    refused(
        "a transaction that nobody knows",
        "no transaction",
        node("a", "web3/get-transaction", network=NETWORK, transactionHash="0x" + "12" * 32),
    ),
    Row(
        "no events are no failure",
        (events("a", "BlacklistSet", blockCount="5"), keep("b", "{{@a:A.eventCount}}")),
        "trigger>a a>b",
        inputs={"b": {"value": "0"}},
    ),
    Row(
        "a quote in an input can change a call's arguments: inputs have to be checked before",
        (write("a", "mint", f"{OTHER}", "1", functionArgs='["{{@trigger:Trigger.evil}}", "1"]'),),
        "trigger>a",
        {"evil": "0x" + "88" * 20 + '", "5'},
        status="error",
        error="takes 2 arguments, not 3",
    ),
)
