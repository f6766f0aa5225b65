"""A paying client: answers a 402 by one signed voucher, within limits its owner set. Knows no route of ours.

Source: x402 version 2, scheme `exact` with EIP-3009. What it signs is shown before (`on_payment`), and it
never signs twice for one request: when an answer is lost, the same voucher is sent again.
"""

import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount

from services.facilitator import shapes
from services.facilitator.shapes import Authorization, Payment, Required, Requirements, Signed
from services.facilitator.verify import Token, typed
from services.typed_data import sign_typed

KEY_VARIABLE = "COMPUTEPOOL_WALLET_KEY"
PASSWORD_VARIABLE = "COMPUTEPOOL_WALLET_PASSWORD"


class WalletMissing(Exception):
    """wallet_missing: there is no key to pay with, or its file can't be opened."""

    code = "wallet_missing"
    remedy = f"Name a keystore file by --wallet, or put a key into {KEY_VARIABLE}."


class TooExpensive(Exception):
    """too_expensive: what is asked is more than the most you allowed, or of a token you did not allow."""

    code = "too_expensive"
    remedy = "Raise --most, or choose another pool."


class NotPaid(Exception):
    """not_paid: the server asked for a payment again after one was sent; the message quotes its reason."""

    code = "not_paid"
    remedy = (
        "Read the reason; the voucher can still be settled until it expires, so wait before you sign anew."
    )


def wallet_of(path: Path | None, environment: dict[str, str] | None = None) -> LocalAccount:
    """From an encrypted keystore file (version 3; password from the environment) or a plain hex key.

    Without a file: from COMPUTEPOOL_WALLET_KEY. Raises WalletMissing.
    """
    environment = dict(os.environ) if environment is None else environment
    try:
        if path is None:
            return _account(environment[KEY_VARIABLE])
        text = path.read_text().strip()
        if not text.startswith("{"):
            return _account(text)
        opened = Account.decrypt(json.loads(text), environment.get(PASSWORD_VARIABLE, ""))
        return _account(bytes(opened).hex())
    except KeyError as missing:
        raise WalletMissing(f"{KEY_VARIABLE} is not set") from missing
    except (OSError, ValueError, TypeError) as broken:
        raise WalletMissing(f"{path or KEY_VARIABLE}: not a key, or a wrong password") from broken


def _account(key_hex: str) -> LocalAccount:
    account: LocalAccount = Account.from_key(bytes.fromhex(key_hex.strip().removeprefix("0x")))
    return account


@dataclass
class Payer:
    """`most_micro` is the largest single voucher, in the asset's smallest unit (micro-USDC).

    `networks` (CAIP-2) and `assets` (addresses, any case) that may be paid with; empty: any.
    """

    account: LocalAccount
    most_micro: int
    networks: frozenset[str] = frozenset()
    assets: frozenset[str] = frozenset()
    on_payment: Callable[[Requirements], None] = lambda _: None
    spent_micro: int = field(default=0)

    def choose(self, required: Required) -> Requirements:
        """The first offer within the limits. Raises TooExpensive."""
        allowed = {asset.lower() for asset in self.assets}
        for offer in required.accepts:
            known = offer.scheme == "exact" and (not self.networks or offer.network in self.networks)
            if known and (not allowed or offer.asset.lower() in allowed):
                if int(offer.amount) <= self.most_micro:
                    return offer
                raise TooExpensive(
                    f"{offer.amount} of {offer.asset} asked, at most {self.most_micro} allowed"
                )
        raise TooExpensive(f"no offer by `exact` on {sorted(self.networks) or 'any chain'}: {required.error}")

    def sign(self, offer: Requirements, now_unix_s: int | None = None) -> Payment:
        """A voucher for exactly this offer, good for as long as the offer says."""
        now = int(time.time()) if now_unix_s is None else now_unix_s
        given = Authorization(
            self.account.address,
            offer.pay_to,
            offer.amount,
            "0",
            str(now + offer.max_timeout_seconds),
            "0x" + secrets.token_hex(32),
        )
        signature = "0x" + sign_typed(self.account, typed(token_of(offer), given)).removeprefix("0x")
        return Payment(2, offer, Signed(signature, given))

    async def request(
        self, client: httpx.AsyncClient, method: str, url: str, *, stream: bool = False, **content: Any
    ) -> httpx.Response:
        """As httpx's `send`, but a 402 is paid and the request sent again, once. Close a streamed answer.

        Raises TooExpensive, NotPaid, shapes.NotX402, httpx.HTTPError.
        """
        answer = await client.send(client.build_request(method, url, **content), stream=stream)
        if answer.status_code != 402:
            return answer
        await answer.aread()
        await answer.aclose()
        if shapes.REQUIRED not in answer.headers:
            return answer
        offer = self.choose(shapes.from_header(answer.headers[shapes.REQUIRED], Required))
        self.on_payment(offer)
        headers = {
            **(content.pop("headers", None) or {}),
            shapes.SIGNATURE: shapes.as_header(self.sign(offer)),
        }
        again = client.build_request(method, url, headers=headers, **content)
        try:
            paid = await client.send(again, stream=stream)
        except httpx.TransportError:
            paid = await client.send(
                client.build_request(method, url, headers=headers, **content), stream=stream
            )
        if paid.status_code == 402:
            await paid.aread()
            raise NotPaid(_reason(paid))
        if not paid.is_error:
            self.spent_micro += int(offer.amount)
        return paid


def token_of(offer: Requirements) -> Token:
    """The asset of an offer, with the EIP-712 domain it claims. Raises TooExpensive: no EVM chain."""
    family, _, chain_id = offer.network.partition(":")
    if family != "eip155" or not chain_id.isdigit():
        raise TooExpensive(f"{offer.network} is no EVM chain")
    name, version = (str(offer.extra.get(key, "")) for key in ("name", "version"))
    return Token(int(chain_id), offer.asset, name, version)


def _reason(answer: httpx.Response) -> str:
    try:
        content = answer.json()
        error = content.get("error", content)
        return str(error.get("message") or error.get("detail") or error.get("code"))
    except (ValueError, AttributeError):
        return answer.text[:200]
