"""Where every wei went: the event log, a chain's log, and (if given) the read model, against each other.

For every paid session: voucher = what operators received + refund, each integer recomputed from block times,
rates and units. Knows no connection; what pays is imported nowhere.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from events import payment, session, stream
from events.envelope import Recorded
from events.shares import WEI_PER_MICRO
from services.auditor import bonds
from services.auditor.bonds import BondAudit, BondStory
from services.auditor.chain_log import Raw
from services.auditor.money_chain import ChainStory, Change, EscrowStory

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


class ChainEvidence(msgspec.Struct, frozen=True):
    """What a chain showed at one block, whose time is `head_unix_s`. Addresses in any case.

    `member_totals`: "gda_pool/member" -> wei received, by the pool's own view. `bonds`:
    "coalition/operator" -> micro-USDC by the coalition's; `balances`: coalition -> micro-USDC by the token's.
    """

    factory: str
    usdc: str
    gda: str
    head_unix_s: int
    entries: tuple[Raw, ...]
    member_totals: dict[str, str]
    bonds: dict[str, int] = {}
    balances: dict[str, int] = {}


class SessionLine(msgspec.Struct, frozen=True):
    """One row of the table; `state` is "settled", "open" or "unpaid". Amounts in wei."""

    session: str
    state: str
    voucher_wei: str
    operators_wei: str
    refund_wei: str
    billed_seconds: int
    changes: int
    findings: int


class Finding(msgspec.Struct, frozen=True):
    """`session` is a session's id, an escrow's address when the log knows no session of it, or ""."""

    session: str
    code: str
    detail: str
    wei: str


class MoneyReport(msgspec.Struct, frozen=True):
    """`wei_drift` sums every difference. Sound: no finding, and there was something to audit.

    `slashed_wei` left bonds, `compensated_wei` of it for payers; `bonds_wei` is still held.
    """

    sessions: int
    settled: int
    billed_seconds: int
    operators: int
    usdc_in_wei: str
    usdc_out_wei: str
    bonds_wei: str
    slashes: int
    slashed_wei: str
    compensated_wei: str
    wei_drift: str
    empty: tuple[str, ...]
    lines: tuple[SessionLine, ...]
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        return not self.findings and not self.empty


class _Told:
    """What the event log says of one paid session."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.voucher: payment.PaymentVerified | None = None
        self.settlement: payment.PaymentSettled | None = None
        self.facts: dict[str, stream.Fact] = {}
        self.settled: session.Settled | None = None
        self.failed = False

    def take(self, event: object) -> None:
        match event:
            case payment.PaymentVerified():
                self.voucher = event
            case payment.PaymentSettled():
                self.settlement = event
            case payment.PaymentReverted():
                self.settlement = None
                self.failed = event.at is None
            case stream.Started() | stream.Stopped() | stream.Liquidated() | stream.Reconciled():
                self.facts[event.at.key] = event
            case stream.Reverted(_, _, _, at):
                self.facts.pop(at.key, None)
            case session.Settled():
                self.settled = event
            case _:
                pass


class MoneyAudit:
    """Takes the log's events in order, then the chain's evidence.

    `ledger_sequence`: up to where the read model had come; None: as far as the log.
    """

    def __init__(self, ledger_sequence: int | None = None) -> None:
        self._ledger_sequence = ledger_sequence
        self._told: dict[str, _Told] = {}
        self._projected: dict[str, _Told] = {}
        self._findings: list[Finding] = []
        self._bonds = BondAudit()
        self._projected_bonds = BondAudit()

    def take(self, recorded: Recorded) -> None:
        self._bonds.take(recorded)
        if self._ledger_sequence is None or recorded.sequence <= self._ledger_sequence:
            self._projected_bonds.take(recorded)
        if recorded.kind in ("session", "stream"):
            key, upto = recorded.aggregate_id, self._ledger_sequence
            self._told.setdefault(key, _Told(key)).take(recorded.event)
            if upto is None or recorded.sequence <= upto:
                self._projected.setdefault(key, _Told(key)).take(recorded.event)

    def report(
        self, evidence: ChainEvidence, ledger: Mapping[tuple[str, str, str], int] | None = None
    ) -> MoneyReport:
        """`ledger`: (session, kind, account or "") -> wei, as the read model sums it.

        Raises ChainLogUnreadable.
        """
        self._findings = []
        chain = ChainStory(evidence.entries, evidence.factory, evidence.usdc, evidence.gda)
        chain.finish(evidence.head_unix_s)
        paid = {key: told for key, told in self._told.items() if told.voucher is not None}
        by_escrow = {_escrow(told): told for told in paid.values()}
        for found in chain.findings:
            named = by_escrow[found.session].session_id if found.session in by_escrow else found.session
            self._find(named, found.code, found.detail, found.wei)
        for address in chain.escrows.keys() - by_escrow.keys():
            self._find(address, "session_unknown", "the chain has this session, the event log does not")
        for address, told in sorted(by_escrow.items()):
            self._compare(told, chain.escrows.get(address), evidence)
        self._compare_totals(chain, evidence)
        coalitions = bonds.stories(evidence.entries, evidence.usdc, self._bonds.coalitions)
        said = self._bonds.findings(coalitions, chain.escrows, evidence.bonds, evidence.balances)
        for wrong in said:
            named = by_escrow[wrong.subject].session_id if wrong.subject in by_escrow else wrong.subject
            self._find(named, wrong.code, wrong.detail, wrong.micro * WEI_PER_MICRO)
        if ledger is not None:
            self._compare_ledger(ledger)
        lines = tuple(self._line(told, chain.escrows.get(_escrow(told))) for told in paid.values())
        return self._sum_up(chain, lines, coalitions)

    def _find(self, session_id: str, code: str, detail: str, wei: int = 0) -> None:
        self._findings.append(Finding(session_id, code, detail, str(abs(wei))))

    def _compare(self, told: _Told, story: EscrowStory | None, evidence: ChainEvidence) -> None:
        """One session: its log against its escrow."""
        assert told.voucher is not None
        key, terms = told.session_id, told.voucher.terms
        if story is None:
            if told.facts or told.settled is not None:
                self._find(key, "session_missing", f"no escrow {terms.escrow} on the chain")
            return
        if _ulid(story.session_number) != key:
            self._find(key, "session_differs", f"its escrow was made for {_ulid(story.session_number)}")
        said = (
            ("asset", told.voucher.asset.lower(), evidence.usdc.lower()),
            ("payer", terms.payer.lower(), story.payer),
            ("nonce", told.voucher.nonce, story.nonce),
        )
        for name, in_log, on_chain in said:
            if story.payer and in_log != on_chain:
                self._find(key, "voucher", f"{name}: the log says {in_log}, the chain {on_chain}")
        if story.payer:
            self._equal(key, "voucher", "the voucher", int(terms.cap_wei), story.funded_wei)
        self._compare_settlement(told, story)
        self._compare_facts(told, story)
        self._compare_end(told, story, evidence.head_unix_s)

    def _compare_settlement(self, told: _Told, story: EscrowStory) -> None:
        if told.settlement is None:
            if story.payer:
                self._find(told.session_id, "voucher", "the chain has its money, the log no settlement")
            return
        at = told.settlement.at
        if (at.tx.lower(), at.log_index, at.block_hash.lower()) not in story.voucher_refs:
            self._find(told.session_id, "voucher", f"no transfer to its escrow stands at {at.tx}")

    def _compare_facts(self, told: _Told, story: EscrowStory) -> None:
        facts = {(f.at.tx.lower(), f.at.log_index, f.at.block_hash.lower()): f for f in told.facts.values()}
        for change in story.changes:
            fact = facts.pop(change.ref, None)
            if fact is None:
                kind = "close" if change.closed else "start" if change.active else "stop"
                money = sum(change.paid.values()) + change.refund_wei
                self._find(
                    told.session_id, "fact_missing", f"the log misses the {kind} in {change.ref[0]}", money
                )
            else:
                self._compare_fact(told.session_id, fact, change)
        for fact in facts.values():
            wei = sum(int(share.wei) for share in fact.paid)
            tag = str(fact.__struct_config__.tag)
            self._find(told.session_id, "fact_unknown", f"the chain has no {tag} at {fact.at.tx}", wei)

    def _compare_fact(self, key: str, fact: stream.Fact, change: Change) -> None:
        if fact.at.block_unix_s != change.unix_s:
            said = f"{fact.at.block_unix_s} in the log, {change.unix_s} on the chain, in {fact.at.tx}"
            self._find(key, "time", said)
        flows = isinstance(fact, stream.Started | stream.Reconciled)
        rate = int(fact.rate_wei_per_s) if isinstance(fact, stream.Started | stream.Reconciled) else 0
        active = fact.active if isinstance(fact, stream.Started | stream.Reconciled) else 0
        if active != change.active:
            self._find(key, "active", f"{active} in the log, {change.active} on the chain, in {fact.at.tx}")
        if flows or change.rate_wei_per_s:
            self._equal(key, "rate", f"the rate since {fact.at.tx}", rate, change.rate_wei_per_s)
        if isinstance(fact, stream.Started) and fact.gda_pool.lower() != change.gda_pool:
            self._find(key, "gda_pool", f"{fact.gda_pool} in the log, {change.gda_pool} on the chain")
        received: defaultdict[str, int] = defaultdict(int)
        for share in fact.paid:
            received[share.account.lower()] += int(share.wei)
        for account in sorted(received.keys() | change.paid.keys()):
            what = f"what {account} received up to {fact.at.tx}"
            self._equal(key, "share", what, received[account], change.paid.get(account, 0))
        if isinstance(fact, stream.Stopped | stream.Reconciled):
            self._equal(key, "refund", "the refund", int(fact.refund_wei), change.refund_wei)
            closed = fact.closed if isinstance(fact, stream.Stopped) else fact.found == "closed"
            if closed != change.closed:
                self._find(key, "closed", f"log and chain differ on whether {fact.at.tx} closed it")

    def _compare_end(self, told: _Told, story: EscrowStory, head_unix_s: int) -> None:
        key, last = told.session_id, story.changes[-1] if story.changes else None
        if told.settled is not None:
            if not story.closed:
                self._find(key, "left_open", "settled in the log, and its escrow is not closed")
            self._equal(key, "settled", "the voucher settled", int(told.settled.paid_wei), story.funded_wei)
            refund = int(told.settled.refund_wei)
            self._equal(key, "settled", "the refund settled", refund, story.refund_wei)
        elif story.closed:
            self._find(key, "not_settled", "its escrow is closed, and the log has not settled it")
        if last is not None and last.active and head_unix_s > last.hard_stop_unix_s:
            self._find(key, "left_open", f"its stream flows past {last.hard_stop_unix_s}, its hard stop")

    def _compare_totals(self, chain: ChainStory, evidence: ChainEvidence) -> None:
        """Of every operator: what all sessions come to, and what the pool itself says."""
        totals = {key.lower(): int(wei) for key, wei in evidence.member_totals.items()}
        recomputed = {f"{gda_pool}/{member}": wei for (gda_pool, member), wei in chain.received.items()}
        for key in sorted(totals.keys() | recomputed.keys()):
            self._equal("", "operator_total", f"of {key}", totals.get(key, 0), recomputed.get(key, 0))

    def _compare_ledger(self, ledger: Mapping[tuple[str, str, str], int]) -> None:
        expected: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        for key, told in self._projected.items():
            if told.settlement is not None:
                expected[key, "voucher", ""] += int(told.settlement.amount_wei)
            for fact in told.facts.values():
                for share in fact.paid:
                    expected[key, "streamed", share.account.lower()] += int(share.wei)
                if isinstance(fact, stream.Stopped | stream.Reconciled):
                    expected[key, "refund", ""] += int(fact.refund_wei)
                if isinstance(fact, stream.Liquidated):
                    expected[key, "penalty", ""] += int(fact.penalty_wei)
        for slash_id, to_payer, elsewhere in self._projected_bonds.payouts():
            expected[slash_id, "compensation", ""] += to_payer * WEI_PER_MICRO
            expected[slash_id, "treasury", ""] += elsewhere * WEI_PER_MICRO
        found = {(key, kind, account.lower()): wei for (key, kind, account), wei in ledger.items()}
        for entry in sorted(expected.keys() | found.keys()):
            what = f"{entry[1]} {entry[2]} in the read model"
            self._equal(entry[0], "read_model", what, found.get(entry, 0), expected.get(entry, 0))

    def _equal(self, key: str, code: str, what: str, said: int, true: int) -> None:
        if said != true:
            self._find(key, code, f"{what}: {said} wei said, {true} recomputed", said - true)

    def _line(self, told: _Told, story: EscrowStory | None) -> SessionLine:
        state = "settled" if told.settled is not None else "unpaid" if told.failed else "open"
        own = sum(item.session == told.session_id for item in self._findings)
        if story is None:
            return SessionLine(told.session_id, state, "0", "0", "0", 0, 0, own)
        amounts = (str(story.funded_wei), str(story.spent_wei), str(story.refund_wei))
        return SessionLine(told.session_id, state, *amounts, story.billed_seconds, len(story.changes), own)

    def _sum_up(
        self, chain: ChainStory, lines: tuple[SessionLine, ...], coalitions: Mapping[str, BondStory]
    ) -> MoneyReport:
        slashes = list(self._bonds.payouts())
        operators = {member for (_, member), wei in chain.received.items() if wei}
        usdc_in = sum(story.funded_wei for story in chain.escrows.values())
        usdc_out = sum(chain.received.values()) + sum(story.refund_wei for story in chain.escrows.values())
        seconds = sum(story.billed_seconds for story in chain.escrows.values())
        counts = {
            "sessions": len(lines),
            "seconds": seconds,
            "operators": len(operators),
            "usdc_in": usdc_in,
            "usdc_out": usdc_out,
        }
        return MoneyReport(
            sessions=len(lines),
            settled=sum(line.state == "settled" for line in lines),
            billed_seconds=seconds,
            operators=len(operators),
            usdc_in_wei=str(usdc_in),
            usdc_out_wei=str(usdc_out),
            bonds_wei=str(sum(story.held_micro for story in coalitions.values()) * WEI_PER_MICRO),
            slashes=len(slashes),
            slashed_wei=str(sum(to_payer + rest for _, to_payer, rest in slashes) * WEI_PER_MICRO),
            compensated_wei=str(sum(to_payer for _, to_payer, _ in slashes) * WEI_PER_MICRO),
            wei_drift=str(sum(int(item.wei) for item in self._findings)),
            empty=tuple(name for name, count in counts.items() if not count),
            lines=lines,
            findings=tuple(self._findings),
        )


def _escrow(told: _Told) -> str:
    assert told.voucher is not None
    return told.voucher.terms.escrow.lower()


def _ulid(number: int) -> str:
    """The session's id that an escrow's 32 bytes stand for."""
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def audit_money(
    history: Iterable[Recorded],
    evidence: ChainEvidence,
    ledger: Mapping[tuple[str, str, str], int] | None = None,
) -> MoneyReport:
    """The report over a whole log. Raises ChainLogUnreadable."""
    audit = MoneyAudit()
    for recorded in history:
        audit.take(recorded)
    return audit.report(evidence, ledger)
