"""Where a fact stands on a chain, who got what by it, and what an escrow promises; knows no connection."""

from typing import Annotated

import msgspec

from events.kernel import Address, Ulid, Wei

ChainHash = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{64}$", description="32 bytes, 0x and hex")]


class ChainRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a chain's log. The same transaction in another block, after a reorg, is another fact."""

    chain_id: int
    block_number: int
    block_hash: ChainHash
    block_unix_s: int
    tx: ChainHash
    log_index: int

    @property
    def key(self) -> str:
        """The natural key: a fact with the same key is the same fact, however often it is told."""
        return f"{self.chain_id}:{self.tx}:{self.log_index}:{self.block_hash}"

    @property
    def order(self) -> tuple[int, int]:
        """The chain's own order, whatever the order in which we heard."""
        return self.block_number, self.log_index


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one operator's account received, and the units it held of its epoch's 10 000."""

    account: Address
    units: int
    wei: Wei


class EscrowTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an escrow's address commits to. `rate_wei_per_s` is the price of one request's second."""

    pool_id: Ulid
    chain_id: int
    escrow: Address
    payer: Address
    rate_wei_per_s: Wei
    cap_wei: Wei


def total_wei(shares: tuple[Share, ...]) -> int:
    return sum(int(share.wei) for share in shares)
