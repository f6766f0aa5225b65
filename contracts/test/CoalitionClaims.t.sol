// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Coalition} from "../src/Coalition.sol";
import {Breach, CoalitionConfig, ICoalition, Receipt, Seat} from "../src/interfaces/ICoalition.sol";
import {ISessionEscrow, Terms, Voucher} from "../src/interfaces/ISessionEscrow.sol";
import {CoalitionWorld} from "./CoalitionWorld.sol";

/// @title A session that nobody's factory made, with whatever payer its author likes.
contract FakeEscrow {
    address public payer = msg.sender;
    address public coalition;

    constructor(address coalition_) {
        coalition = coalition_;
    }
}

/// @title Votes, disputes, slashes.
contract CoalitionClaimsTest is CoalitionWorld {
    ISessionEscrow private session;
    uint256 private paidBefore;

    function setUp() external {
        deployCoalition();
        openedEpoch();
        session = streaming();
        paidBefore = usdc.balanceOf(payer);
    }

    function wrong(uint256 amount) private view returns (Breach memory) {
        return breachOf(session, one, ICoalition.Kind.WRONG_OUTPUT, amount);
    }

    function refused(Breach memory breach, bytes[] memory votes, bytes memory why) private {
        vm.expectRevert(why);
        house.openClaim(breach, votes);
    }

    // ---- votes

    function test_a_claim_stops_the_stream_ends_the_epoch_evicts_and_locks() external {
        uint256 claimId = claimed(wrong(1e6));
        same(session.active(), 0);
        same(session.spent(), 1000 * RATE);
        same(house.gdaPool(), address(0));
        holds(house.isEvicted(one));
        same(house.lockedOf(one), 1e6);
        same(house.bondOf(one), BOND);
        holds(stateOf(claimId) == ICoalition.ClaimState.Open);
    }

    function test_an_evicted_operator_is_not_seated_until_readmitted() external {
        claimed(breachOf(session, one, ICoalition.Kind.STALL, 0));
        same(house.bondOf(one) - house.lockedOf(one), BOND);
        (Seat[] memory seats, bytes[] memory consents) = twoSeats();
        vm.prank(STEWARD);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.OperatorEvicted.selector, one));
        house.openEpoch(seats, consents);
        vm.prank(STEWARD);
        house.readmit(one);
        openedEpoch();
    }

    function test_fewer_votes_than_the_quorum_open_nothing() external {
        Breach memory breach = wrong(1e6);
        bytes memory why = abi.encodeWithSelector(ICoalition.QuorumMissing.selector, 1, 2);
        refused(breach, votesOn(breach, 1), why);
    }

    function test_one_attestor_does_not_vote_twice_and_a_stranger_not_at_all() external {
        Breach memory breach = wrong(1e6);
        bytes[] memory votes = votesOn(breach, 2);
        address first = vm.addr(attestorKeys[0]);
        votes[1] = votes[0];
        refused(breach, votes, abi.encodeWithSelector(ICoalition.SignerInvalid.selector, first));
        votes = votesOn(breach, 2);
        (votes[0], votes[1]) = (votes[1], votes[0]);
        refused(breach, votes, abi.encodeWithSelector(ICoalition.SignerInvalid.selector, first));
        attestorKeys = sortedKeys(0xBAD, 2);
        votes = votesOn(breach, 2);
        address stranger = vm.addr(attestorKeys[0]);
        refused(breach, votes, abi.encodeWithSelector(ICoalition.SignerInvalid.selector, stranger));
    }

    function test_votes_on_one_breach_are_none_on_another() external {
        bytes[] memory votes = votesOn(wrong(1e6), 2);
        vm.expectRevert();
        house.openClaim(wrong(2e6), votes);
        Breach memory other = wrong(1e6);
        other.operator = two;
        vm.expectRevert();
        house.openClaim(other, votes);
    }

    function test_old_votes_do_not_count() external {
        Breach memory breach = wrong(1e6);
        bytes[] memory votes = votesOn(breach, 2);
        pass(1 hours + 1);
        refused(breach, votes, abi.encodeWithSelector(ICoalition.VotesExpired.selector));
    }

    function test_the_accused_does_not_vote_on_himself() external {
        CoalitionConfig memory config = someConfig();
        config.attestors[0] = one;
        house = new Coalition(config);
        bonded(one, BOND);
        bonded(two, BOND);
        openedEpoch();
        Terms memory terms = ourTerms();
        terms.sessionId = "other";
        ISessionEscrow other = opened(terms, 1);
        Breach memory breach = breachOf(other, one, ICoalition.Kind.WRONG_OUTPUT, 1e6);
        uint256 rest = vm.addr(attestorKeys[1]) < one ? 0 : 1;
        uint256[] memory keys = new uint256[](2);
        (keys[rest == 0 ? 1 : 0], keys[rest == 0 ? 0 : 1]) = (ONE_KEY, attestorKeys[1]);
        attestorKeys = keys;
        refused(breach, votesOn(breach, 2), abi.encodeWithSelector(ICoalition.SignerInvalid.selector, one));
    }

    function test_one_claim_for_one_cause() external {
        uint256 claimId = claimed(wrong(1e6));
        Breach memory again = wrong(5e5);
        bytes memory why = abi.encodeWithSelector(ICoalition.ClaimExists.selector, claimId);
        refused(again, votesOn(again, 2), why);
    }

    function test_no_kind_costs_more_than_its_most() external {
        Breach memory breach = wrong(3e6 + 1);
        refused(breach, votesOn(breach, 2), abi.encodeWithSelector(ICoalition.AmountInvalid.selector));
    }

    function test_stalls_and_no_shows_take_no_bond_without_enough_failed_probes_in_time() external {
        Breach memory breach = breachOf(session, one, ICoalition.Kind.STALL, 1e6);
        bytes memory why = abi.encodeWithSelector(ICoalition.ProbesMissing.selector);
        (breach.failedProbes, breach.probeWindow) = (2, 60);
        refused(breach, votesOn(breach, 2), why);
        (breach.failedProbes, breach.probeWindow) = (3, 61);
        refused(breach, votesOn(breach, 2), why);
        (breach.failedProbes, breach.probeWindow) = (3, 60);
        claimed(breach);
        same(house.lockedOf(one), 1e6);
    }

    function test_a_session_that_the_factory_did_not_make_is_none() external {
        Breach memory breach = wrong(1e6);
        breach.session = address(new FakeEscrow(address(house)));
        bytes memory why = abi.encodeWithSelector(ICoalition.NotSession.selector, breach.session);
        refused(breach, votesOn(breach, 2), why);
        Terms memory terms = someTerms(); // of another coalition
        terms.sessionId = "other";
        breach.session = address(opened(terms, 0));
        why = abi.encodeWithSelector(ICoalition.NotSession.selector, breach.session);
        refused(breach, votesOn(breach, 2), why);
        terms = ourTerms(); // never opened
        terms.sessionId = "fresh";
        breach.session = factory.deploy(terms);
        why = abi.encodeWithSelector(ICoalition.NotSession.selector, breach.session);
        refused(breach, votesOn(breach, 2), why);
    }

    function test_who_never_had_a_seat_is_not_accused() external {
        Breach memory breach = wrong(1e6);
        breach.operator = STRANGER;
        bytes memory why = abi.encodeWithSelector(ICoalition.NotOperator.selector, STRANGER);
        refused(breach, votesOn(breach, 2), why);
    }

    // ---- execution

    function test_undisputed_the_payer_gets_at_most_what_he_paid_and_the_treasury_the_rest() external {
        uint256 claimId = claimed(wrong(1e6));
        uint64 from = uint64(block.timestamp) + DISPUTE;
        vm.warp(from - 1);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.TooEarly.selector, from));
        house.execute(claimId);
        vm.warp(from);
        vm.prank(STRANGER);
        house.execute(claimId);
        same(usdc.balanceOf(payer), paidBefore + 50_000);
        same(usdc.balanceOf(TREASURY), 950_000);
        same(house.bondOf(one), BOND - 1e6);
        same(house.lockedOf(one), 0);
        same(usdc.balanceOf(STRANGER), 0);
        solvent();
        vm.expectRevert(abi.encodeWithSelector(ICoalition.ClaimNotIn.selector, ICoalition.ClaimState.Open));
        house.execute(claimId);
    }

    function test_several_claims_together_repay_no_more_than_was_paid() external {
        uint256 first = claimed(wrong(1e6));
        uint256 second = claimed(breachOf(session, two, ICoalition.Kind.METER_FRAUD, 2e6));
        pass(DISPUTE);
        house.execute(first);
        house.execute(second);
        same(usdc.balanceOf(payer), paidBefore + 50_000);
        same(usdc.balanceOf(TREASURY), 3e6 - 50_000);
        solvent();
    }

    function test_a_bond_under_claim_is_not_withdrawn() external {
        vm.prank(one);
        house.requestUnbond(BOND);
        pass(4 days);
        session = streamingAgain();
        claimed(wrong(3e6));
        pass(UNBOND);
        vm.prank(one);
        house.withdrawBond();
        same(usdc.balanceOf(one), BOND - 3e6);
        solvent();
    }

    function streamingAgain() private returns (ISessionEscrow) {
        Terms memory terms = ourTerms();
        terms.sessionId = "again";
        return opened(terms, 1);
    }

    function test_a_bond_smaller_than_the_claims_is_locked_to_the_last() external {
        claimed(wrong(3e6));
        Breach memory breach = breachOf(session, one, ICoalition.Kind.METER_FRAUD, 2e6);
        claimed(breach);
        Breach memory third = breachOf(session, one, ICoalition.Kind.NO_SHOW, 1e6);
        (third.failedProbes, third.probeWindow) = (5, 10);
        uint256 claimId = claimed(third);
        same(house.lockedOf(one), BOND);
        pass(DISPUTE);
        house.execute(claimId);
        same(house.bondOf(one), BOND);
    }

    function test_a_blacklisted_payer_keeps_no_claim_from_being_executed() external {
        uint256 claimId = claimed(wrong(1e6));
        usdc.setBlacklisted(payer, true);
        pass(DISPUTE);
        house.execute(claimId);
        same(house.owedTo(payer), 50_000);
        same(usdc.balanceOf(TREASURY), 950_000);
        solvent();
        vm.expectRevert();
        house.withdrawOwed(payer);
        usdc.setBlacklisted(payer, false);
        vm.prank(STRANGER);
        house.withdrawOwed(payer);
        same(usdc.balanceOf(payer), paidBefore + 50_000);
        vm.expectRevert(ICoalition.NothingToWithdraw.selector);
        house.withdrawOwed(payer);
        solvent();
    }

    // ---- disputes

    function disputed() private returns (uint256 claimId) {
        claimId = claimed(wrong(1e6));
        vm.prank(one);
        house.dispute(claimId);
    }

    function test_only_the_accused_disputes_and_only_in_time() external {
        uint256 claimId = claimed(wrong(1e6));
        vm.prank(two);
        vm.expectRevert(ICoalition.NotAccused.selector);
        house.dispute(claimId);
        pass(DISPUTE);
        vm.prank(one);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.TooLate.selector, uint64(block.timestamp)));
        house.dispute(claimId);
    }

    function test_a_disputed_claim_waits_for_the_ruling() external {
        uint256 claimId = disputed();
        same(house.lockedOf(one), 1_500_000);
        pass(DISPUTE);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.ClaimNotIn.selector, ICoalition.ClaimState.Open));
        house.execute(claimId);
    }

    function test_upheld_costs_the_counter_bond_too() external {
        uint256 claimId = disputed();
        uint256 deadline = block.timestamp + 60;
        house.rule(claimId, true, deadline, rulings(claimId, true, deadline, 3));
        same(house.bondOf(one), BOND - 1_500_000);
        same(house.lockedOf(one), 0);
        same(usdc.balanceOf(payer), paidBefore + 50_000);
        same(usdc.balanceOf(TREASURY), 1_450_000);
        solvent();
    }

    function test_rejected_frees_everything() external {
        uint256 claimId = disputed();
        uint256 deadline = block.timestamp + 60;
        house.rule(claimId, false, deadline, rulings(claimId, false, deadline, 3));
        same(house.bondOf(one), BOND);
        same(house.lockedOf(one), 0);
        holds(stateOf(claimId) == ICoalition.ClaimState.Cancelled);
        solvent();
    }

    function test_silence_of_the_arbiters_frees_everything() external {
        uint256 claimId = disputed();
        uint64 ruleBy = uint64(block.timestamp) + RULING;
        vm.expectRevert(abi.encodeWithSelector(ICoalition.TooEarly.selector, ruleBy));
        house.cancelUnruled(claimId);
        vm.warp(ruleBy);
        bytes[] memory late = rulings(claimId, true, ruleBy + 60, 3);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.TooLate.selector, ruleBy));
        house.rule(claimId, true, ruleBy + 60, late);
        house.cancelUnruled(claimId);
        same(house.lockedOf(one), 0);
        same(house.bondOf(one), BOND);
    }

    function test_a_ruling_needs_the_larger_quorum_of_arbiters_on_just_that() external {
        uint256 claimId = disputed();
        uint256 deadline = block.timestamp + 60;
        bytes[] memory few = rulings(claimId, true, deadline, 2);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.QuorumMissing.selector, 2, 3));
        house.rule(claimId, true, deadline, few);
        bytes[] memory other = rulings(claimId, false, deadline, 3);
        vm.expectRevert();
        house.rule(claimId, true, deadline, other);
        pass(61);
        bytes[] memory late = rulings(claimId, true, deadline, 3);
        vm.expectRevert(ICoalition.VotesExpired.selector);
        house.rule(claimId, true, deadline, late);
    }

    function test_a_dispute_needs_a_free_counter_bond() external {
        claimed(wrong(3e6));
        uint256 claimId = claimed(breachOf(session, one, ICoalition.Kind.METER_FRAUD, 2e6));
        vm.prank(one);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.BondTooSmall.selector, one, 0, 500_000));
        house.dispute(claimId);
        bonded(one, 500_000);
        vm.prank(one);
        house.dispute(claimId);
        solvent();
    }

    // ---- equivocation

    function equivocate(Receipt memory a, Receipt memory b, uint256 keyA, uint256 keyB) private {
        house.proveEquivocation(address(session), a, receiptSigned(keyA, a), b, receiptSigned(keyB, b));
    }

    function test_two_answers_to_one_input_prove_themselves_and_are_slashed_at_once() external {
        Receipt memory a = receiptOf(session, keccak256("yes"));
        Receipt memory b = receiptOf(session, keccak256("no"));
        bytes memory signedA = receiptSigned(RECEIPT_KEY, a);
        bytes memory signedB = receiptSigned(RECEIPT_KEY, b);
        vm.prank(STRANGER);
        house.proveEquivocation(address(session), a, signedA, b, signedB);
        same(house.bondOf(one), BOND - 3e6);
        same(usdc.balanceOf(payer), paidBefore + 50_000);
        same(usdc.balanceOf(TREASURY), 3e6 - 50_000);
        same(usdc.balanceOf(STRANGER), 0);
        same(session.active(), 0);
        holds(house.isEvicted(one));
        solvent();
        vm.expectRevert(abi.encodeWithSelector(ICoalition.ClaimExists.selector, 1));
        house.proveEquivocation(address(session), b, signedB, a, signedA);
    }

    function test_receipts_that_differ_in_more_or_in_nothing_prove_nothing() external {
        Receipt memory a = receiptOf(session, keccak256("yes"));
        for (uint256 i = 0; i < 6; ++i) {
            Receipt memory b = receiptOf(session, keccak256(i == 0 ? bytes("yes") : bytes("no")));
            if (i == 1) b.inputHash = keccak256("another input");
            if (i == 2) b.attempt = 2;
            if (i == 3) b.segment = 4;
            if (i == 4) b.request = "another";
            if (i == 5) b.epoch = 2;
            bytes memory signedA = receiptSigned(RECEIPT_KEY, a);
            bytes memory signedB = receiptSigned(RECEIPT_KEY, b);
            vm.expectRevert(ICoalition.NotEquivocation.selector);
            house.proveEquivocation(address(session), a, signedA, b, signedB);
        }
    }

    function test_receipts_of_two_nodes_or_of_a_stranger_prove_nothing() external {
        Receipt memory a = receiptOf(session, keccak256("yes"));
        Receipt memory b = receiptOf(session, keccak256("no"));
        bytes memory signedA = receiptSigned(RECEIPT_KEY, a);
        bytes memory signedB = receiptSigned(0xBAD, b);
        vm.expectRevert(ICoalition.NotEquivocation.selector);
        house.proveEquivocation(address(session), a, signedA, b, signedB);
        signedA = receiptSigned(0xBAD, a);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.NotOperator.selector, vm.addr(0xBAD)));
        house.proveEquivocation(address(session), a, signedA, b, signedB);
    }

    /// Anyone can make a session with another's sessionId and himself as its payer.
    function test_receipts_of_one_session_pay_nobody_elses() external {
        Receipt memory a = receiptOf(session, keccak256("yes"));
        Receipt memory b = receiptOf(session, keccak256("no"));
        bytes memory signedA = receiptSigned(RECEIPT_KEY, a);
        bytes memory signedB = receiptSigned(RECEIPT_KEY, b);
        Terms memory terms = ourTerms();
        terms.payer = address(0);
        Voucher memory voucher = voucherOf(0x7417, terms, CAP, "thief");
        usdc.mint(vm.addr(0x7417), CAP);
        vm.prank(CONTROLLER);
        address own = factory.open(terms, voucher, 1);
        vm.expectRevert(ICoalition.NotEquivocation.selector);
        house.proveEquivocation(own, a, signedA, b, signedB);
    }

    function test_where_outputs_may_differ_nothing_proves_itself() external {
        CoalitionConfig memory config = someConfig();
        config.deterministic = false;
        Coalition other = new Coalition(config);
        Receipt memory a = receiptOf(session, keccak256("yes"));
        vm.expectRevert(ICoalition.NotDeterministic.selector);
        other.proveEquivocation(address(session), a, "", a, "");
    }
}
