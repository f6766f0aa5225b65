"""The keys that act on the chain, one file per role; knows no contract.

Each role has its own key (see docs/operate.md for what its loss costs): `facilitator` settles vouchers,
`controller` starts and stops paid sessions, `steward` opens a coalition's epochs.
"""

import os
from pathlib import Path
from typing import Literal, get_args

from eth_account import Account
from eth_account.signers.local import LocalAccount

from services.chain.rpc import Rpc
from services.settings import Settings

Role = Literal["facilitator", "controller", "steward"]
ROLES: tuple[Role, ...] = get_args(Role)
LOCAL_CHAIN_ID = 31337
LOCAL_COINS_WEI = 1000 * 10**18


def wallet(settings: Settings, role: Role) -> LocalAccount:
    """The role's key, `<state dir>/keys/chain/<role>.key` (0600); made when there is none."""
    directory = settings.state_dir / "keys" / "chain"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return kept_at(directory / f"{role}.key")


def kept_at(path: Path) -> LocalAccount:
    """The key in a file of hex (0600); made when there is none."""
    if not path.exists():
        _write_new(path, os.urandom(32).hex())
    account: LocalAccount = Account.from_key(bytes.fromhex(path.read_text().strip()))
    return account


def _write_new(path: Path, text: str) -> None:
    """Whole and on disk before it has its name; of two processes the first one's key is everybody's."""
    beside = path.with_suffix(f".{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(beside, path)
    except FileExistsError:
        pass
    finally:
        beside.unlink()


async def fund_local(rpc: Rpc, address: str) -> bool:
    """Coins for gas, on the local chain alone and only when there are few; whether any were given."""
    if await rpc.chain_id() != LOCAL_CHAIN_ID or await rpc.balance(address) >= LOCAL_COINS_WEI // 2:
        return False
    await rpc.ask("anvil_setBalance", address, hex(LOCAL_COINS_WEI))
    return True
