"""What a node and its operator sign to join (EIP-712 typed data, as plain dictionaries);
knows no key and no signature.
"""

from typing import Any

DOMAIN_NAME = "ComputePool"
DOMAIN_VERSION = "1"
SIGNERS = ("mesh", "nats", "receipt", "payout")
"""Keys that sign the registration digest: Ed25519 for mesh and nats, secp256k1 (65 bytes r,s,v) for the
others.
"""

_DOMAIN_TYPE = [
    {"name": "name", "type": "string"},
    {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"},
]


def registration(
    *,
    chain_id: int,
    node_id: str,
    mesh_key: str,
    nats_key: str,
    receipt_key: str,
    seal_key: str,
    payout_wallet: str,
    challenge: str,
    expires_unix_s: int,
) -> dict[str, Any]:
    """The ONE challenge that binds a node's keys. `mesh_key`, `seal_key`, `challenge`: 64 hex.

    Source: EIP-712.
    """
    return {
        "types": {
            "EIP712Domain": _DOMAIN_TYPE,
            "NodeRegistration": [
                {"name": "nodeId", "type": "string"},
                {"name": "meshKey", "type": "bytes32"},
                {"name": "natsKey", "type": "string"},
                {"name": "receiptKey", "type": "address"},
                {"name": "sealKey", "type": "bytes32"},
                {"name": "payoutWallet", "type": "address"},
                {"name": "challenge", "type": "bytes32"},
                {"name": "expires", "type": "uint64"},
            ],
        },
        "primaryType": "NodeRegistration",
        "domain": {"name": DOMAIN_NAME, "version": DOMAIN_VERSION, "chainId": chain_id},
        "message": {
            "nodeId": node_id,
            "meshKey": "0x" + mesh_key,
            "natsKey": nats_key,
            "receiptKey": receipt_key,
            "sealKey": "0x" + seal_key,
            "payoutWallet": payout_wallet,
            "challenge": "0x" + challenge,
            "expires": expires_unix_s,
        },
    }


def acceptance(*, chain_id: int, pool_id: str, node_id: str, weights_digest: str) -> dict[str, Any]:
    """An operator's consent to serve a pool, signed with the node's receipt key. Source: EIP-712."""
    return {
        "types": {
            "EIP712Domain": _DOMAIN_TYPE,
            "PoolAcceptance": [
                {"name": "poolId", "type": "string"},
                {"name": "nodeId", "type": "string"},
                {"name": "weightsDigest", "type": "bytes32"},
            ],
        },
        "primaryType": "PoolAcceptance",
        "domain": {"name": DOMAIN_NAME, "version": DOMAIN_VERSION, "chainId": chain_id},
        "message": {"poolId": pool_id, "nodeId": node_id, "weightsDigest": "0x" + weights_digest},
    }
