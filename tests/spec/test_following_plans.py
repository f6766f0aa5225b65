"""Who keeps a pool payable decides from what it sees: what to do now, what to wait for, what to say of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.chain.coalitions import Seat
from services.chain.consents import bond_nonce
from services.coalition_following import longest_pause_s, step_of
from services.coalition_opening import CoalitionNotOpened, CoalitionOutOfReach, CoalitionRunFailed
from services.consent_following import same_contract, unwanted
from services.gateway_rest import GatewayRefused
from services.node_keys import NodeKeys
from services.patience import Patience
from services.seat_consenting import Consenting, ConsentNotGiven, own_seats
from services.seat_signing import SignedBond, SignedSeat

COALITION, OPERATOR, KEY = ("0x" + byte * 20 for byte in ("c0", "0b", "4e"))
NODE = "n" * 26


@pytest.mark.parametrize(
    ("status", "serving", "paid", "step"),
    [
        ("active", 1, None, "open"),
        ("active", 2, 1, "open"),
        ("active", 2, 2, "look"),
        ("forming", None, None, "wait"),
        ("forming", None, 1, "wait"),
        ("retired", 2, 1, "end"),
    ],
)
def test_an_epoch_is_opened_for_the_plan_that_serves(
    status: str, serving: int | None, paid: int | None, step: str
) -> None:
    assert step_of({"status": status, "serving_epoch": serving, "paid_epoch": paid}) == step


def test_what_others_may_still_bring_is_waited_for_and_a_failing_run_longest() -> None:
    consents = longest_pause_s(CoalitionNotOpened("consents are missing"))
    away = longest_pause_s(httpx.ConnectError("refused"))
    stale = longest_pause_s(GatewayRefused("", "coalition_epoch_stale"))
    failed = longest_pause_s(CoalitionRunFailed("run 7 failed"))
    assert None not in (consents, away, stale, failed)
    assert consents == away == stale
    assert (consents or 0) < (failed or 0)


@pytest.mark.parametrize(
    "failure",
    [
        CoalitionOutOfReach("free"),
        GatewayRefused("", "invalid_api_key"),
        GatewayRefused("", "operator_only"),
        GatewayRefused("", "coalition_terms_refused"),
    ],
)
def test_what_no_waiting_brings_ends_it(failure: Exception) -> None:
    assert longest_pause_s(failure) is None


def test_a_reason_is_said_once_for_as_long_as_it_stays_and_pauses_grow_to_a_limit() -> None:
    said: list[str] = []
    patience = Patience(said.append)
    pauses = [patience.next_pause_s("two is missing", 2.0) for _ in range(9)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 2.0
    assert patience.next_pause_s("three is missing", 2.0) == pauses[0]
    patience.next_pause_s("two is missing", 2.0)
    patience.over()
    patience.next_pause_s("two is missing", 2.0)
    assert said == ["two is missing", "three is missing", "two is missing", "two is missing"]


def consenting(*seats: SignedSeat, coalition: str = COALITION, why: str = "") -> Consenting:
    nothing: Any = None
    return Consenting(nothing, {}, nothing, coalition, seats, why)


def seat(bonded_micro: int | None) -> SignedSeat:
    signature = "0x" + "1" * 130
    nonce = bond_nonce(COALITION, OPERATOR, bonded_micro or 0)
    bond = None if bonded_micro is None else SignedBond(5_000_000, nonce, signature)
    return SignedSeat(COALITION, 2, NODE, OPERATOR, 10_000, KEY, signature, bond)


def test_without_asking_a_first_bond_is_signed_and_never_a_second() -> None:
    assert unwanted(consenting(seat(None))) == ""
    assert unwanted(consenting(seat(0))) == ""
    assert "lacks 5.00 USDC" in unwanted(consenting(seat(None), seat(95_000_000)))
    assert unwanted(consenting(why="no node of plan 3")) == "no node of plan 3"


def test_what_was_agreed_for_one_contract_signs_for_no_other() -> None:
    assert same_contract(consenting(), None) == COALITION
    assert same_contract(consenting(), COALITION.upper().replace("X", "x")) == COALITION
    with pytest.raises(ConsentNotGiven, match="agreed was"):
        same_contract(consenting(coalition=OPERATOR), COALITION)


def test_an_operator_signs_a_seat_of_its_own_keys_alone(tmp_path: Path) -> None:
    """Another receipt key in it would answer with this operator's bond for what that key signs."""
    keys = NodeKeys.load_or_make(tmp_path / "node")
    held = {keys.node_id: keys}
    mine = Seat(keys.payout_wallet, 4_000, keys.node_id, keys.receipt_key)
    other = Seat(OPERATOR, 6_000, NODE, KEY)
    assert own_seats([other, mine], held) == [mine]
    for wrong in (replace(mine, receipt_key=KEY), replace(mine, operator=OPERATOR)):
        with pytest.raises(ConsentNotGiven, match=keys.node_id):
            own_seats([other, wrong], held)
