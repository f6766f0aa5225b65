"""Ethereum JSON-RPC over HTTP: what this project asks a chain, each with its type. Knows no contract.

Every method is safe to repeat (a raw transaction has one hash however often it is sent), so a request that
the transport lost is asked again a few times.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import httpx

Tag = Literal["latest", "pending", "safe", "finalized", "earliest"]
Height = int | Tag
Read = TypeVar("Read")
OVERLOADED = {429, 502, 503, 504}
FAILING = {-32603, -32005}
"""Internal error, limit exceeded (JSON-RPC 2.0, EIP-1474)."""


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

    @property
    def of_the_node(self) -> bool:
        """The node could not, whatever was asked; nothing is said of the request."""
        return self.number in FAILING


class NoSuchBlock(RpcRefused):
    """rpc_refused: the chain has no block of this height (yet, or any more), and says so."""


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
        """The `result` of one request. What is no answer to it counts as none."""
        self._number += 1
        number = self._number
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for attempt in range(1, self._attempts + 1):
            try:
                response = await self._client.post(self.url, json=request)
                if response.status_code not in OVERLOADED:
                    answer = _answer(response.json(), number)
                    break
                why = f"answered {response.status_code}"
            except (httpx.RequestError, ValueError) as away:
                why = f"{type(away).__name__}: {away}"
            if attempt == self._attempts:
                raise ChainAway(f"{self.url} {why} to {method}")
            await asyncio.sleep(0.1 * 4**attempt)
        error = answer.get("error")
        if error is None:
            return answer["result"]
        message, code = str(error.get("message") or ""), error.get("code")
        if "revert" in message.lower():
            data = error.get("data")
            raw = data if isinstance(data, str) and data.startswith("0x") else "0x"
            raise CallReverted(_bytes(raw), message)
        raise RpcRefused(method, code if isinstance(code, int) else 0, message)

    async def _read(self, read: Callable[[Any], Read], method: str, *params: object) -> Read:
        """What `read` makes of the `result`; one of another shape is a refusal."""
        found = await self.ask(method, *params)
        try:
            return read(found)
        except (LookupError, TypeError, ValueError, AttributeError) as odd:
            raise RpcRefused(method, 0, f"answered {str(found)[:80]!r}") from odd

    async def chain_id(self) -> int:
        return await self._read(_int, "eth_chainId")

    async def block(self, height: Height = "latest") -> Block:
        """Raises NoSuchBlock."""
        found = await self._read(_block, "eth_getBlockByNumber", _height(height), False)
        if found is None:
            raise NoSuchBlock("eth_getBlockByNumber", 0, f"no block {height}")
        return found

    async def block_number(self) -> int:
        return await self._read(_int, "eth_blockNumber")

    async def code(self, address: str, height: Height = "latest") -> bytes:
        return await self._read(_bytes, "eth_getCode", address, _height(height))

    async def storage(self, address: str, slot: int) -> int:
        return await self._read(_int, "eth_getStorageAt", address, hex(slot), "latest")

    async def balance(self, address: str) -> int:
        return await self._read(_int, "eth_getBalance", address, "latest")

    async def nonce(self, address: str, height: Height = "pending") -> int:
        return await self._read(_int, "eth_getTransactionCount", address, _height(height))

    async def call(self, to: str, data: bytes, height: Height = "latest", sender: str | None = None) -> bytes:
        """A contract's answer; empty when nothing stands at `to`. "pending" sees the next block's time."""
        return await self._read(_bytes, "eth_call", _request(sender, to, data), _height(height))

    async def estimate(self, sender: str, to: str, data: bytes, value_wei: int = 0) -> int:
        """Gas that the transaction would use now."""
        return await self._read(_int, "eth_estimateGas", _request(sender, to, data, value_wei))

    async def tip_wei(self) -> int:
        """The priority fee that the node suggests; 0 when it suggests none."""
        try:
            return await self._read(_int, "eth_maxPriorityFeePerGas")
        except RpcRefused as refused:
            if refused.of_the_node:
                raise
            return 0

    async def send(self, raw: bytes) -> str:
        """Hand a signed transaction over; its hash. One that the node has already is no error."""
        return str(await self.ask("eth_sendRawTransaction", "0x" + raw.hex()))

    async def transaction(self, transaction: str) -> Asked | None:
        """None: the node has never heard of it, or has forgotten it."""
        return await self._read(_asked, "eth_getTransactionByHash", transaction)

    async def receipt(self, transaction: str) -> Receipt | None:
        """None: not in a block (yet)."""
        return await self._read(_receipt, "eth_getTransactionReceipt", transaction)

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
        found = await self._read(_logs, "eth_getLogs", wanted)
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


def _answer(found: Any, number: int) -> dict[str, Any]:
    """Raises ValueError for what is no JSON-RPC answer to this request."""
    if isinstance(found, dict):
        if isinstance(found.get("error"), dict) and found.get("id") in (number, None):
            return found
        if found.get("error") is None and "result" in found and found.get("id") == number:
            return found
    raise ValueError(f"no answer: {str(found)[:80]!r}")


def _block(found: Any) -> Block | None:
    if found is None:
        return None
    base = _int(found.get("baseFeePerGas") or "0x0")
    number = _int(found["number"])
    return Block(number, str(found["hash"]), found["parentHash"], _int(found["timestamp"]), base)


def _asked(found: Any) -> Asked | None:
    return None if found is None else Asked(found["from"], _int(found["nonce"]), found.get("blockHash"))


def _receipt(found: Any) -> Receipt | None:
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
        _logs(found["logs"]),
    )


def _logs(found: Any) -> tuple[Log, ...]:
    if not isinstance(found, list):
        raise TypeError("not a list")
    return tuple(_log(item) for item in found)


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
