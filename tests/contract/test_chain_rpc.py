"""A chain's RPC that answers with errors: each is told from an answer, and none is taken for a fact."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from services.chain import anvil
from services.chain.logs import is_canonical
from services.chain.rpc import Block, ChainAway, Rpc, RpcRefused, connected
from tests.rpc_proxy import FAULTS, Fault, RpcProxy, refusal, result, rpc_proxy

SHAPES: tuple[object, ...] = (7, {}, "soon", [None], {"number": "0x1"}, True)
NOWHERE = "0x" + "ab" * 20


@contextlib.asynccontextmanager
async def erring() -> AsyncIterator[tuple[Rpc, RpcProxy]]:
    """A real chain behind a proxy; every request is made once."""
    async with (
        anvil.running() as straight,
        rpc_proxy(int(straight.url.rpartition(":")[2])) as proxy,
        connected(f"http://127.0.0.1:{proxy.port}", attempts=1) as rpc,
    ):
        yield rpc, proxy


def always(proxy: RpcProxy, fault: Fault | None) -> None:
    proxy.fault = lambda _: fault


async def test_what_is_no_answer_is_an_rpc_that_is_away_or_refuses() -> None:
    async with erring() as (rpc, proxy):
        for name, fault in FAULTS.items():
            always(proxy, fault)
            with pytest.raises((ChainAway, RpcRefused)) as raised:
                await rpc.block_number()
            assert isinstance(raised.value, RpcRefused) == ("refusal" in name), name
            always(proxy, None)
            assert await rpc.block_number() == 0


async def test_a_node_that_fails_suggests_no_priority_fee() -> None:
    async with erring() as (rpc, proxy):
        always(proxy, refusal(-32601, "the method does not exist"))
        assert await rpc.tip_wei() == 0
        always(proxy, FAULTS["refusal -32603"])
        with pytest.raises(RpcRefused):
            await rpc.tip_wei()


async def test_an_answer_of_another_shape_is_a_refusal() -> None:
    async with erring() as (rpc, proxy):
        asks = (
            rpc.chain_id, rpc.block, rpc.block_number, lambda: rpc.balance(NOWHERE),
            lambda: rpc.nonce(NOWHERE), lambda: rpc.receipt("0x" + "1" * 64),
            lambda: rpc.transaction("0x" + "1" * 64), lambda: rpc.logs(0, 1),
        )  # fmt: skip
        for shape in SHAPES:
            always(proxy, result(shape))
            for ask in asks:
                with pytest.raises(RpcRefused, match="answered"):
                    await ask()


async def test_an_error_does_not_say_that_a_block_was_taken_back() -> None:
    async with erring() as (rpc, proxy):
        first: Block = await rpc.block(0)
        for fault in FAULTS.values():
            always(proxy, fault)
            with pytest.raises((ChainAway, RpcRefused)):
                await is_canonical(rpc, first.number, first.hash)
        always(proxy, None)
        assert await is_canonical(rpc, first.number, first.hash)
        assert not await is_canonical(rpc, first.number, "0x" + "0" * 64)
        assert not await is_canonical(rpc, first.number + 1, first.hash)
