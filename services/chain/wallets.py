"""The keys that act on the chain, one file per role; knows no contract.

Each role has its own key (see docs/operate.md for what its loss costs): `facilitator` settles vouchers,
`controller` is the keeper's: it starts and stops paid sessions and opens coalitions' epochs.
"""

import os
from pathlib import Path
from typing import Literal, get_args

from eth_account import Account
from eth_account.signers.local import LocalAccount

from services.chain.rpc import Rpc
from services.kept_file import kept
from services.settings import Settings

Role = Literal["facilitator", "controller"]
ROLES: tuple[Role, ...] = get_args(Role)
LOCAL_CHAIN_ID = 31337
LOCAL_COINS_WEI = 1000 * 10**18


def wallet(settings: Settings, role: Role) -> LocalAccount:
    """The role's key, `<state dir>/keys/chain/<role>.key` (0600); made when there is none."""
    directory = settings.state_dir / "keys" / "chain"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return kept_at(directory / f"{role}.key")


def verifier_key(settings: Settings, number: int) -> Path:
    """Where the local attestor `number` (from 1) has its key."""
    directory = settings.state_dir / "keys" / "verifiers"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory / f"{number}.key"


def verifiers(settings: Settings) -> tuple[LocalAccount, ...]:
    """The attestors of a local stack; made when there are none."""
    return tuple(kept_at(verifier_key(settings, number)) for number in range(1, settings.verifiers + 1))


def keeper_address(settings: Settings) -> str:
    """What keeper runs send with: our own controller, or the wallet that a hosted KeeperHub holds."""
    return settings.keeper_wallet or wallet(settings, "controller").address


def kept_at(path: Path) -> LocalAccount:
    """The key in a file of hex (0600); made when there is none."""
    return key_of(kept(path, lambda: os.urandom(32).hex().encode()))


def key_of(text: bytes) -> LocalAccount:
    """The key that a file of hex holds. Raises ValueError."""
    account: LocalAccount = Account.from_key(bytes.fromhex(text.decode().strip().removeprefix("0x")))
    return account


async def fund_local(rpc: Rpc, address: str) -> bool:
    """Coins for gas, on the local chain alone and only when there are few; whether any were given."""
    if await rpc.chain_id() != LOCAL_CHAIN_ID or await rpc.balance(address) >= LOCAL_COINS_WEI // 2:
        return False
    await rpc.ask("anvil_setBalance", address, hex(LOCAL_COINS_WEI))
    return True
