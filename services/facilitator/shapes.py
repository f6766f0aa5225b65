"""x402 version 2 on the wire: the JSON of headers and of the facilitator's routes; knows no chain, no price.

Source: x402 specification v2, scheme `exact` on EVM with EIP-3009. Amounts are decimal strings in the asset's
smallest unit.
"""

import base64
import binascii
from typing import Annotated, Any, TypeVar

import msgspec

REQUIRED, SIGNATURE, RESPONSE = "payment-required", "payment-signature", "payment-response"
"""The three headers: what is to be paid, the payment, what became of it."""

Amount = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,77})$")]
Account = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{40}$")]
Word = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{64}$")]
Signature = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{130}$")]
LONGEST_HEADER = 16_384


class NotX402(Exception):
    """not_x402: a payment header or a body is not the JSON that x402 version 2 describes."""

    code = "not_x402"
    remedy = "Pay with an x402 client, version 2, scheme `exact` with EIP-3009."


class _Wire(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Unknown fields are ignored: x402 adds some now and then."""


class Requirements(_Wire, frozen=True):
    scheme: str
    network: str
    asset: str
    amount: Amount
    pay_to: str
    max_timeout_seconds: int
    extra: dict[str, Any] = {}


class Resource(_Wire, frozen=True):
    url: str
    description: str = ""
    mime_type: str = ""


class Required(msgspec.Struct, frozen=True, rename="camel"):
    """The content of PAYMENT-REQUIRED."""

    error: str
    resource: Resource
    accepts: tuple[Requirements, ...]
    x402_version: int = 2
    extensions: dict[str, Any] = {}


class Authorization(_Wire, frozen=True):
    """An EIP-3009 TransferWithAuthorization. Times are unix seconds."""

    source: Account = msgspec.field(name="from")
    to: Account
    value: Amount
    valid_after: Amount
    valid_before: Amount
    nonce: Word


class Signed(_Wire, frozen=True):
    """65 bytes r, s, v: accounts with code (ERC-1271, ERC-6492) can't pay here."""

    signature: Signature
    authorization: Authorization


class Payment(_Wire, frozen=True):
    """The content of PAYMENT-SIGNATURE; `accepted` is what the payer says was asked."""

    x402_version: int
    accepted: Requirements
    payload: Signed


class FacilitatorRequest(_Wire, frozen=True):
    """What /verify and /settle take."""

    x402_version: int
    payment_payload: Payment
    payment_requirements: Requirements


class Verified(_Wire, frozen=True):
    is_valid: bool
    invalid_reason: str | None = None
    invalid_message: str | None = None
    payer: str | None = None


class Settlement(_Wire, frozen=True):
    """What /settle answers, and the content of PAYMENT-RESPONSE. `transaction` is "" when there is none."""

    success: bool
    transaction: str
    network: str
    payer: str | None = None
    amount: str | None = None
    error_reason: str | None = None
    error_message: str | None = None


Shape = TypeVar("Shape")


def decoded(body: bytes, shape: type[Shape]) -> Shape:
    """Raises NotX402."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, RecursionError) as broken:
        raise NotX402(str(broken)) from broken


def from_header(text: str, shape: type[Shape]) -> Shape:
    """Raises NotX402."""
    if len(text) > LONGEST_HEADER:
        raise NotX402(f"longer than {LONGEST_HEADER} characters")
    try:
        body = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as broken:
        raise NotX402("not base64") from broken
    return decoded(body, shape)


def as_header(value: msgspec.Struct) -> str:
    return base64.b64encode(msgspec.json.encode(value)).decode()
