"""What a chain's log says of every session: who paid in, what flowed when to whom, what went back.

Recomputes each integer from rates, block times and units by `events.shares`, and compares it with what the
contracts say of themselves. Knows nothing of the event log.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from events.shares import WEI_PER_MICRO, actual_rate, distributed, streamed
from services.auditor.chain_log import Entry, Raw, decoded


class MoneyFinding(NamedTuple):
    """One thing that is wrong. `session` is its escrow's address, or ""; `wei`: by how much, if an amount."""

    session: str
    code: str
    detail: str
    wei: int = 0


@dataclass(frozen=True)
class Change:
    """One change of an escrow's flow, as recomputed. `paid`: by member, since the change before."""

    ref: tuple[str, int, str]
    unix_s: int
    active: int
    rate_wei_per_s: int
    gda_pool: str
    hard_stop_unix_s: int
    paid: dict[str, int]
    instant_wei: int
    seconds: int
    closed: bool
    refund_wei: int


@dataclass
class EscrowStory:
    """One escrow from its first entry to its last. Amounts are wei."""

    address: str
    session_number: int
    coalition: str
    payer: str = ""
    nonce: str = ""
    funded_wei: int = 0
    changes: list[Change] = field(default_factory=list)
    lost: bool = False
    voucher_refs: set[tuple[str, int, str]] = field(default_factory=set)

    @property
    def closed(self) -> bool:
        return bool(self.changes) and self.changes[-1].closed

    @property
    def spent_wei(self) -> int:
        return sum(sum(change.paid.values()) for change in self.changes)

    @property
    def refund_wei(self) -> int:
        return sum(change.refund_wei for change in self.changes)

    @property
    def billed_seconds(self) -> int:
        return sum(change.seconds for change in self.changes)


class ChainStory:
    """A whole log; `escrows`, `received` ((gda_pool, member) -> wei) and `findings` are what it comes to."""

    def __init__(self, entries: Iterable[Raw], factory: str, usdc: str, gda: str) -> None:
        self._factory, self._usdc, self._gda = factory.lower(), usdc.lower(), gda.lower()
        self.escrows: dict[str, EscrowStory] = {}
        self.received: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.findings: list[MoneyFinding] = []
        self._units: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._flows: dict[str, tuple[str, int, int]] = {}
        """Escrow -> gda_pool, rate, since: the agreement's own word."""
        self._instant: defaultdict[str, list[Entry]] = defaultdict(list)
        self._streamed: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._seconds: defaultdict[str, int] = defaultdict(int)
        self._incoming: defaultdict[str, list[Entry]] = defaultdict(list)
        """USDC by receiver."""
        self._held: set[str] = set()
        """Escrows whose refund the token refused; the payer can claim it."""
        for entry in decoded(entries):
            self._take(entry)

    def find(self, session: str, code: str, detail: str, wei: int = 0) -> None:
        self.findings.append(MoneyFinding(session, code, detail, abs(wei)))

    def _take(self, entry: Entry) -> None:
        match entry.name:
            case "SessionDeployed" if entry.address == self._factory:
                session = entry.text("session")
                number = int(entry.text("session_id"), 16)
                self.escrows[session] = EscrowStory(session, number, entry.text("coalition"))
                self._adopt_voucher(session)
            case "MemberUnitsUpdated":
                self._units[entry.address][entry.text("member")] = entry.number("new_units")
                if any(flow[0] == entry.address for flow in self._flows.values()):
                    self.find("", "units_changed", f"units of {entry.address} changed while money flowed")
            case "FlowDistributionUpdated" if entry.address == self._gda:
                self._flow(entry)
            case "InstantDistributionUpdated" if entry.address == self._gda:
                self._instant[entry.text("distributor")].append(entry)
            case "Transfer" if entry.address == self._usdc:
                self._transfer(entry)
            case _ if entry.address in self.escrows:
                self._of_escrow(self.escrows[entry.address], entry)
            case _:
                pass

    def _transfer(self, entry: Entry) -> None:
        target = entry.text("target")
        self._incoming[target].append(entry)
        if target in self.escrows:
            self.escrows[target].voucher_refs.add(entry.ref)

    def _adopt_voucher(self, session: str) -> None:
        """The voucher's transfer comes before the contract that it pays: its address was known before."""
        for entry in self._incoming[session]:
            self.escrows[session].voucher_refs.add(entry.ref)

    def _flow(self, entry: Entry) -> None:
        """The agreement's word on one distributor's flow; what flowed until now is divided."""
        distributor, now = entry.text("distributor"), entry.raw.block_unix_s
        self._divide(distributor, now)
        rate, gda_pool = entry.number("rate"), entry.text("gda_pool")
        total = sum(self._units[gda_pool].values())
        if rate != actual_rate(rate, total):
            self.find(
                distributor, "rate_indivisible", f"{rate} wei/s over {total} units", rate % (total or 1)
            )
        if rate:
            self._flows[distributor] = (gda_pool, rate, now)
        else:
            self._flows.pop(distributor, None)

    def _divide(self, distributor: str, until_unix_s: int) -> None:
        flow = self._flows.get(distributor)
        if flow is None:
            return
        gda_pool, rate, since = flow
        seconds = until_unix_s - since
        for member, wei in streamed(rate, seconds, self._units[gda_pool]).items():
            self.received[gda_pool, member] += wei
            kept = self._streamed[distributor]
            kept[member] = kept.get(member, 0) + wei
        self._seconds[distributor] += seconds
        self._flows[distributor] = (gda_pool, rate, until_unix_s)

    def _of_escrow(self, story: EscrowStory, entry: Entry) -> None:
        match entry.name:
            case "Opened":
                story.payer, story.nonce = entry.text("payer"), entry.text("nonce")
                story.funded_wei = entry.number("funded") * WEI_PER_MICRO
                arrived = sum(one.number("value") for one in self._incoming[story.address])
                if arrived * WEI_PER_MICRO < story.funded_wei:
                    short = story.funded_wei - arrived * WEI_PER_MICRO
                    self.find(story.address, "voucher", f"funded with {short} wei that never arrived", short)
            case "StreamLost":
                story.lost = True
                self.find(story.address, "liquidated", f"its stream ran out before {entry.raw.tx}")
            case "RefundHeld":
                self._held.add(story.address)
            case "RateSet":
                self._change(story, entry, closed=False)
            case "Closed":
                self._close(story, entry)
            case _:
                pass

    def _change(self, story: EscrowStory, entry: Entry, *, closed: bool) -> None:
        """An escrow's own word on its flow, against the agreement's."""
        active = 0 if closed else entry.number("active")
        rate = 0 if closed else entry.number("rate")
        now = entry.raw.block_unix_s
        self._divide(story.address, now)
        flow = self._flows.get(story.address)
        if (flow[1] if flow else 0) != rate:
            said = f"the escrow says {rate} wei/s, the agreement {flow[1] if flow else 0}"
            self.find(story.address, "flow_differs", said, rate - (flow[1] if flow else 0))
        paid, instant = dict(self._streamed.pop(story.address, {})), 0
        for one in self._instant.pop(story.address, []):
            instant += one.number("amount")
            for member, wei in self._share_out(one).items():
                paid[member] = paid.get(member, 0) + wei
                self.received[one.text("gda_pool"), member] += wei
        hard_stop = 0 if closed else entry.number("hard_stop")
        pool = flow[0] if flow else ""
        seconds = self._seconds.pop(story.address, 0)
        made = Change(entry.ref, now, active, rate, pool, hard_stop, paid, instant, seconds, closed, 0)
        story.changes.append(made)

    def _close(self, story: EscrowStory, entry: Entry) -> None:
        before = story.changes[-1] if story.changes else None
        self._change(story, entry, closed=True)
        made = story.changes.pop()
        refund = entry.number("refund") * WEI_PER_MICRO
        paid, instant, seconds = made.paid, made.instant_wei, made.seconds
        if before is not None and before.ref[0] == made.ref[0] and before.active == 0:
            story.changes.pop()
            paid, instant, seconds = before.paid, before.instant_wei, before.seconds
        story.changes.append(Change(made.ref, made.unix_s, 0, 0, "", 0, paid, instant, seconds, True, refund))
        if entry.number("ended") != entry.raw.block_unix_s:
            self.find(story.address, "time", f"ended at {entry.number('ended')}, its block says otherwise")
        spent = entry.number("spent")
        if spent != story.spent_wei:
            said = f"the escrow counts {spent} wei spent, recomputed {story.spent_wei}"
            self.find(story.address, "spent", said, spent - story.spent_wei)
        left = story.funded_wei - story.spent_wei - story.refund_wei
        if left and not story.lost:
            self.find(story.address, "unequal", f"voucher - operators - refund = {left} wei", left)

    def finish(self, head_unix_s: int) -> None:
        """What still flows is counted up to the head; refunds must have arrived."""
        for distributor in list(self._flows):
            self._divide(distributor, head_unix_s)
        for distributor, entries in self._instant.items():
            for one in entries:
                for member, wei in self._share_out(one).items():
                    self.received[one.text("gda_pool"), member] += wei
            if distributor in self.escrows and entries:
                self.find(distributor, "flow_differs", "money distributed at once that it does not speak of")
        for story in self.escrows.values():
            if story.closed and story.refund_wei and story.address not in self._held:
                self._check_refund(story)

    def _check_refund(self, story: EscrowStory) -> None:
        tx = story.changes[-1].ref[0]
        arrived = [one.number("value") for one in self._incoming[story.payer] if one.ref[0] == tx]
        missing = story.refund_wei - sum(arrived) * WEI_PER_MICRO
        if missing:
            said = f"{story.refund_wei} wei to refund, {missing} of it did not arrive in {tx}"
            self.find(story.address, "refund", said, missing)

    def _share_out(self, entry: Entry) -> dict[str, int]:
        return distributed(entry.number("amount"), self._units[entry.text("gda_pool")])
