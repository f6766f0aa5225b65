"""What differs between chains, in one table by chain id. Knows no address: those stand in a manifest."""

from dataclasses import dataclass

GWEI = 10**9


class ChainUnknown(Exception):
    """chain_unknown: the RPC answers for a chain that the table of networks does not list."""

    code = "chain_unknown"
    remedy = "Check the RPC's address; a new chain needs a row in services/chain/networks.py."


@dataclass(frozen=True)
class Network:
    """`tip_floor_wei`: nodes refuse a smaller priority fee; `confirmations`: blocks from a fact's own to the
    newest, both counted, before it counts; `gas_cap`: the most gas one transaction may ask for."""

    chain_id: int
    name: str
    tip_floor_wei: int
    confirmations: int
    gas_cap: int
    block_time_s: float
    log_range: int
    """How many blocks one eth_getLogs may ask about."""
    play_money: bool
    """Whether MockUSDC, which anybody may mint, is the token when no other is named."""
    unprotected: bool
    """Whether nodes take transactions signed without a chain id (before EIP-155); where this is not known,
    True: it is tried, and `unprotected_refused` says what to do."""

    @property
    def receipt_within_s(self) -> float:
        """A sent transaction that is in no block after so long is looked at again."""
        return 30 + 20 * self.block_time_s


OSAKA_GAS_CAP = 1 << 24
"""EIP-7825; every transaction of a deployment fits into a third of it."""

NETWORKS = {
    network.chain_id: network
    for network in (
        Network(31337, "local anvil", 0, 1, OSAKA_GAS_CAP, 1.0, 10_000, True, True),
        Network(16602, "0G Galileo testnet", 2 * GWEI, 3, OSAKA_GAS_CAP, 2.0, 1_000, True, True),
        Network(16661, "0G mainnet", 2 * GWEI, 6, OSAKA_GAS_CAP, 2.0, 1_000, False, True),
    )
}
"""0G refuses a priority fee below 2 gwei on both of its networks; its other limits are cautious guesses."""


def network_of(chain_id: int) -> Network:
    """Raises ChainUnknown."""
    if chain_id not in NETWORKS:
        known = ", ".join(f"{network.chain_id} ({network.name})" for network in NETWORKS.values())
        raise ChainUnknown(f"chain id {chain_id}; known: {known}")
    return NETWORKS[chain_id]
