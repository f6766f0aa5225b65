"""Paid sessions as an event log and as a chain's log, written side by side from one random course of events.

Amounts come from sums per operator and second, not from the rules under test; topics from the contracts' own
signatures. Knows nothing of the auditor's findings.
"""

import random
from dataclasses import dataclass, field
from typing import Any

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from events import payment, session, stream
from events.chain import ChainRef, Share
from events.envelope import Recorded, decode_commit, encode_commit
from events.kernel import Event
from services.auditor.chain_log import Raw
from services.auditor.money import ChainEvidence
from tests.aggregates import cause, digest, generation_ended, request_started, ulid
from tests.money import GDA_POOL, OPERATORS, PAYER, opened_paid, terms, verified

FACTORY, USDC, USDCX, GDA = ("0x" + byte * 20 for byte in ("fa", "5d", "5c", "9a"))
COALITION = "0x" + "c0" * 20
UNITS = dict(zip(OPERATORS, (6250, 3750), strict=True))
MICRO = 10**12
RATE = 50 * MICRO
CAP = 2_000_000 * MICRO
START_S = 1_700_000_000


def topic(signature: str) -> bytes:
    return keccak(text=signature)


def padded(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


@dataclass
class Books:
    """`log` and `entries` agree to the wei; a test then spoils one of them."""

    seed: int
    log: list[Recorded] = field(default_factory=list)
    entries: list[Raw] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    ledger: dict[tuple[str, str, str], int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._now, self._block, self._index = START_S, 0, 0
        self._tx = self._block_hash = ""
        self._versions: dict[tuple[str, str], int] = {}
        self.totals = {f"{GDA_POOL}/{member}": 0 for member in UNITS}
        self._mine(0)
        for member, units in UNITS.items():
            signature = "MemberUnitsUpdated(address,address,uint128,uint128)"
            self._emit(GDA_POOL, signature, [padded(USDCX), padded(member)], ("uint128", "uint128"), 0, units)

    def evidence(self, **changes: Any) -> ChainEvidence:
        totals = {key: str(wei) for key, wei in self.totals.items()}
        values: dict[str, Any] = {
            "factory": FACTORY,
            "usdc": USDC,
            "gda": GDA,
            "head_unix_s": self._now,
            "entries": tuple(self.entries),
            "member_totals": totals,
        }
        return ChainEvidence(**(values | changes))

    def _mine(self, seconds: int) -> None:
        self._now += seconds
        self._block += 1
        self._index = 0
        self._block_hash = f"0x{self._draw.getrandbits(256):064x}"
        self._tx = f"0x{self._draw.getrandbits(256):064x}"

    def _emit(
        self, address: str, signature: str, indexed: list[bytes], types: tuple[str, ...], *values: Any
    ) -> ChainRef:
        at = ChainRef(31337, self._block, self._block_hash, self._now, self._tx, self._index)
        self.entries.append(
            Raw(
                address,
                (topic(signature), *indexed),
                encode(types, values),
                at.block_number,
                at.block_hash,
                at.block_unix_s,
                at.tx,
                at.log_index,
            )
        )
        self._index += 1
        return at

    def tell(self, kind: str, key: str, *events: Event) -> None:
        version = self._versions.get((kind, key), 0) + 1
        self._versions[kind, key] = version + len(events) - 1
        sequence = len(self.log) + 1
        commit = encode_commit(kind, key, version, events, cause(f"{kind} {key} {version}", self._now * 1000))
        headers = {"Nats-Msg-Id": commit.commit_id}
        self.log.extend(decode_commit(commit.subject, sequence, headers, commit.payload))

    def add(self, key: str, *entry: str, wei: int) -> None:
        kind, account = entry
        self.ledger[key, kind, account] = self.ledger.get((key, kind, account), 0) + wei

    def session(self, number: int, *, end: bool = True) -> str:
        """One paid session with a few changes of its flow; with `end`, closed and refunded."""
        key, escrow = ulid(number), f"0x{number + 0xE5C:040x}"
        self.ids.append(key)
        agreed = terms(escrow=escrow, cap_wei=str(CAP))
        voucher = verified(asset=USDC, nonce=digest(number), terms=agreed)
        self._mine(self._draw.randrange(1, 9))
        transfer = "Transfer(address,address,uint256)"
        paid = self._emit(USDC, transfer, [padded(PAYER), padded(escrow)], ("uint256",), CAP // MICRO)
        self.tell("session", key, voucher)
        self.tell("session", key, payment.PaymentSettled(str(CAP), paid), opened_paid())
        self.add(key, "voucher", "", wei=CAP)
        self._mine(1)
        identifier = number_of(key).to_bytes(32, "big")
        deployed = "SessionDeployed(address,bytes32,address)"
        self._emit(FACTORY, deployed, [padded(escrow), identifier, padded(COALITION)], ())
        opened = "Opened(bytes32,address,address,uint256,bytes32)"
        indexed = [identifier, padded(PAYER), padded(COALITION)]
        nonce = bytes.fromhex(digest(number))
        self._emit(escrow, opened, indexed, ("uint256", "bytes32"), CAP // MICRO, nonce)
        self._run(key, escrow, agreed, end)
        return key

    def _run(self, key: str, escrow: str, agreed: Any, end: bool) -> None:
        flow, since, spent, change = 0, self._now, 0, 0
        self.tell("session", key, request_started(number_of(key) % 1000))
        plan = [1, *(self._draw.randrange(0, 3) for _ in range(self._draw.randrange(1, 4)))]
        for active in [*plan, 0] if end else [*plan, 1]:
            last = end and active == 0 and change == len(plan)
            change += 1
            if last:
                self.tell("session", key, generation_ended(number_of(key) % 1000))
                self.tell("session", key, payment.CloseRequested("payer"))
                asked: Any = stream.StopRequested(change, agreed, True, "payer", self._now * 1000)
            elif active:
                asked = stream.StartRequested(change, agreed, 1, active, self._now * 1000)
            else:
                asked = stream.StopRequested(change, agreed, False, "idle", self._now * 1000)
            self.tell("stream", key, asked)
            if active * RATE == flow and not last:
                continue
            self._mine(self._draw.randrange(1, 40))
            shares, wei = self._pay(flow, self._now - since)
            spent, since = spent + wei, self._now
            instant = 2 * RATE if flow and active == 0 and self._draw.random() < 0.5 else 0
            at = self._set_rate(escrow, flow, active, instant) if active * RATE != flow else None
            shares = self._add_instant(shares, instant)
            spent += instant
            flow = active * RATE
            for share in shares:
                self.add(key, "streamed", share.account, wei=int(share.wei))
            if last:
                refund = CAP - spent
                closed = self._close(escrow, spent, refund)
                fact: Any = stream.Stopped(shares, str(instant), True, str(refund), closed)
                self.add(key, "refund", "", wei=refund)
            elif active:
                assert at is not None
                fact = stream.Started(active, str(flow), 1, GDA_POOL, since + 9000, shares, "0", at)
            else:
                assert at is not None
                fact = stream.Stopped(shares, str(instant), False, "0", at)
            self.tell("stream", key, fact)
            if last:
                self.tell("session", key, session.Settled(1, str(CAP), str(refund)))
        if flow:
            self._mine(5)
            self._pay(flow, self._now - since)

    def _pay(self, flow: int, seconds: int) -> tuple[tuple[Share, ...], int]:
        """Second by second, so that no product can hide an error of the rules under test."""
        wei = dict.fromkeys(UNITS, 0)
        for _ in range(seconds):
            for member, units in UNITS.items():
                wei[member] += flow * units // 10_000
        for member, amount in wei.items():
            self.totals[f"{GDA_POOL}/{member}"] += amount
        shares = tuple(Share(member, UNITS[member], str(amount)) for member, amount in wei.items() if amount)
        return shares, sum(wei.values())

    def _add_instant(self, shares: tuple[Share, ...], instant: int) -> tuple[Share, ...]:
        wei = {share.account: int(share.wei) for share in shares}
        for member, units in UNITS.items():
            amount = instant * units // 10_000
            wei[member] = wei.get(member, 0) + amount
            self.totals[f"{GDA_POOL}/{member}"] += amount
        return tuple(Share(member, UNITS[member], str(amount)) for member, amount in wei.items() if amount)

    def _set_rate(self, escrow: str, before: int, active: int, instant: int) -> ChainRef:
        rate, indexed = active * RATE, [padded(USDCX), padded(GDA_POOL), padded(escrow)]
        signature = (
            "FlowDistributionUpdated(address,address,address,address,int96,int96,int96,address,int96,bytes)"
        )
        types: tuple[str, ...] = ("address", "int96", "int96", "int96", "address", "int96", "bytes")
        self._emit(GDA, signature, indexed, types, escrow, before, rate, rate, COALITION, 0, b"")
        if instant:
            signature = "InstantDistributionUpdated(address,address,address,address,uint256,uint256,bytes)"
            types = ("address", "uint256", "uint256", "bytes")
            self._emit(GDA, signature, indexed, types, escrow, instant, instant, b"")
            minimum = "MinimumPaid(address,uint256,uint32)"
            self._emit(escrow, minimum, [padded(GDA_POOL)], ("uint256", "uint32"), instant, 2)
        hard_stop = self._now + 9000 if active else 0
        set_rate = "RateSet(address,uint32,int96,uint64)"
        types = ("uint32", "int96", "uint64")
        return self._emit(escrow, set_rate, [padded(GDA_POOL)], types, active, rate, hard_stop)

    def _close(self, escrow: str, spent: int, refund: int) -> ChainRef:
        closed, types = "Closed(uint64,uint256,uint256,uint256)", ("uint64", "uint256", "uint256", "uint256")
        at = self._emit(escrow, closed, [], types, self._now, spent, refund // MICRO, 0)
        transfer = "Transfer(address,address,uint256)"
        self._emit(USDC, transfer, [padded(USDCX), padded(PAYER)], ("uint256",), refund // MICRO)
        self._emit(escrow, "RefundPaid(address,uint256)", [padded(PAYER)], ("uint256",), refund // MICRO)
        return at


def number_of(key: str) -> int:
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    number = 0
    for letter in key:
        number = number * 32 + alphabet.index(letter)
    return number
