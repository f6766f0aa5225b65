"""Ethereum JSON-RPC over HTTP: what this project asks a chain, each with its type. Knows no contract.

Every method is safe to repeat (a raw transaction has one hash however often it is sent), so a request that
the transport lost is asked again a few times.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx

Tag = Literal["latest", "pending", "safe", "finalized", "earliest"]
Height = int | Tag
OVERLOADED = {429, 502, 503, 504}


class ChainAway(Exception):
    """chain_away: the chain's RPC does not answer; it, or the way to it, is down."""

    code = "chain_away"
    remedy = "computepool ps; or check CHAIN_RPC_URL"


class RpcRefused(Exception):
    """rpc_refused: the chain's RPC answered a request with an error; the message quotes it."""

    code = "rpc_refused"

    def __init__(self, method: str, number: int, message: str) -> None:
        super().__init__(f"{method}: {message} ({number})")
        self.number = number
        self.message = message


class CallReverted(Exception):
    """call_reverted: the contract refuses the call; the message names its error."""

    code = "call_reverted"

    def __init__(self, data: bytes, text: str) -> None:
        super().__init__(text)
        self.data = data


@dataclass(frozen=True)
class Block:
    """`timestamp`: seconds since 1970; `base_fee_wei` is 0 on a chain without EIP-1559."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    base_fee_wei: int


@dataclass(frozen=True)
class Log:
    """One event of a contract. `topics[0]` is the hash of its signature."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: str
    transaction: str
    index: int


@dataclass(frozen=True)
class Receipt:
    """`succeeded` False: the transaction was mined and reverted, its nonce is used."""

    transaction: str
    block_number: int
    block_hash: str
    succeeded: bool
    gas_used: int
    fee_wei: int
    logs: tuple[Log, ...]


@dataclass(frozen=True)
class Asked:
    """A transaction that a node knows; `block_hash` is None while it waits."""

    sender: str
    nonce: int
    block_hash: str | None


class Rpc:
    """Use through `connected`. Raises ChainAway, RpcRefused, and CallReverted from `call` and `estimate`."""

    def __init__(self, url: str, client: httpx.AsyncClient, attempts: int = 3) -> None:
        self.url = url
        self._client = client
        self._attempts = attempts
        self._number = 0

    async def ask(self, method: str, *params: object) -> Any:
        """The `result` of one request."""
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        for attempt in range(1, self._attempts + 1):
            try:
                response = await self._client.post(self.url, json=request)
                if response.status_code not in OVERLOADED:
                    answer = response.json()
                    break
                why = f"answered {response.status_code}"
            except (httpx.TransportError, ValueError) as away:
                why = f"{type(away).__name__}: {away}"
            if attempt == self._attempts:
                raise ChainAway(f"{self.url} {why} to {method}")
            await asyncio.sleep(0.1 * 4**attempt)
        error = answer.get("error")
        if error is None:
            return answer["result"]
        message, number = str(error.get("message", "")), int(error.get("code", 0))
        if "revert" in message.lower():
            data = error.get("data")
            raw = data if isinstance(data, str) and data.startswith("0x") else "0x"
            raise CallReverted(_bytes(raw), message)
        raise RpcRefused(method, number, message)

    async def chain_id(self) -> int:
        return _int(await self.ask("eth_chainId"))

    async def block(self, height: Height = "latest") -> Block:
        """Raises RpcRefused when there is no such block (yet)."""
        found = await self.ask("eth_getBlockByNumber", _height(height), False)
        if found is None:
            raise RpcRefused("eth_getBlockByNumber", 0, f"no block {height}")
        base = _int(found.get("baseFeePerGas") or "0x0")
        number = _int(found["number"])
        return Block(number, str(found["hash"]), found["parentHash"], _int(found["timestamp"]), base)

    async def block_number(self) -> int:
        return _int(await self.ask("eth_blockNumber"))

    async def code(self, address: str, height: Height = "latest") -> bytes:
        return _bytes(await self.ask("eth_getCode", address, _height(height)))

    async def storage(self, address: str, slot: int) -> int:
        return _int(await self.ask("eth_getStorageAt", address, hex(slot), "latest"))

    async def balance(self, address: str) -> int:
        return _int(await self.ask("eth_getBalance", address, "latest"))

    async def nonce(self, address: str, height: Height = "pending") -> int:
        return _int(await self.ask("eth_getTransactionCount", address, _height(height)))

    async def call(self, to: str, data: bytes, height: Height = "latest", sender: str | None = None) -> bytes:
        """A contract's answer; empty when nothing stands at `to`. "pending" sees the next block's time."""
        return _bytes(await self.ask("eth_call", _request(sender, to, data), _height(height)))

    async def estimate(self, sender: str, to: str, data: bytes, value_wei: int = 0) -> int:
        """Gas that the transaction would use now."""
        return _int(await self.ask("eth_estimateGas", _request(sender, to, data, value_wei)))

    async def tip_wei(self) -> int:
        """The priority fee that the node suggests; 0 when it suggests none."""
        try:
            return _int(await self.ask("eth_maxPriorityFeePerGas"))
        except RpcRefused:
            return 0

    async def send(self, raw: bytes) -> str:
        """Hand a signed transaction over; its hash. One that the node has already is no error."""
        return str(await self.ask("eth_sendRawTransaction", "0x" + raw.hex()))

    async def transaction(self, transaction: str) -> Asked | None:
        """None: the node has never heard of it, or has forgotten it."""
        found = await self.ask("eth_getTransactionByHash", transaction)
        return found and Asked(found["from"], _int(found["nonce"]), found.get("blockHash"))

    async def receipt(self, transaction: str) -> Receipt | None:
        """None: not in a block (yet)."""
        found = await self.ask("eth_getTransactionReceipt", transaction)
        if found is None:
            return None
        gas = _int(found["gasUsed"])
        return Receipt(
            found["transactionHash"],
            _int(found["blockNumber"]),
            found["blockHash"],
            _int(found["status"]) == 1,
            gas,
            gas * _int(found.get("effectiveGasPrice") or "0x0"),
            tuple(_log(item) for item in found["logs"]),
        )

    async def logs(
        self,
        first: int,
        last: int,
        addresses: Sequence[str] = (),
        topics: Sequence[bytes | Sequence[bytes] | None] = (),
    ) -> list[Log]:
        """In order, of blocks `first` to `last` inclusive. None in `topics` matches anything."""
        wanted: dict[str, object] = {"fromBlock": hex(first), "toBlock": hex(last)}
        if addresses:
            wanted["address"] = list(addresses)
        if topics:
            wanted["topics"] = [_topic(topic) for topic in topics]
        found = [_log(item) for item in await self.ask("eth_getLogs", wanted)]
        return sorted(found, key=lambda log: (log.block_number, log.index))


@asynccontextmanager
async def connected(url: str, *, timeout_s: float = 20.0, attempts: int = 3) -> AsyncIterator[Rpc]:
    async with httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
        yield Rpc(url, client, attempts)


def _request(sender: str | None, to: str, data: bytes, value_wei: int = 0) -> dict[str, str]:
    found = {"to": to, "data": "0x" + data.hex()}
    if sender:
        found["from"] = sender
    if value_wei:
        found["value"] = hex(value_wei)
    return found


def _log(found: Any) -> Log:
    return Log(
        found["address"],
        tuple(_bytes(topic) for topic in found["topics"]),
        _bytes(found["data"]),
        _int(found["blockNumber"]),
        found["blockHash"],
        found["transactionHash"],
        _int(found["logIndex"]),
    )


def _topic(topic: bytes | Sequence[bytes] | None) -> object:
    if topic is None:
        return None
    return "0x" + topic.hex() if isinstance(topic, bytes) else ["0x" + item.hex() for item in topic]


def _height(height: Height) -> str:
    return hex(height) if isinstance(height, int) else height


def _int(text: str) -> int:
    return int(text, 16) if text != "0x" else 0


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
