// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ISessionEscrow, Terms, Voucher} from "../src/interfaces/ISessionEscrow.sol";
import {IGdaForwarder} from "../src/interfaces/ISuperfluid.sol";
import {MockUSDC} from "../src/MockUSDC.sol";
import {SessionWorld} from "./SessionWorld.sol";

/// @title Everyone who tries to get at a payer's money, and every refund that is refused.
contract SessionAttacksTest is SessionWorld {
    uint256 private constant THIEF_KEY = 0x7417;
    address private thief = vm.addr(THIEF_KEY);
    uint256 private before;

    function setUp() external {
        deployWorld();
        usdc.mint(thief, 100e6);
        before = usdc.balanceOf(payer);
    }

    function refused(
        Terms memory terms,
        Voucher memory voucher,
        uint32 active,
        address opener,
        bytes memory why
    ) private {
        vm.prank(opener);
        vm.expectRevert(why);
        factory.open(terms, voucher, active);
    }

    // ---- opening

    function test_a_voucher_that_somebody_pushed_first_still_opens_the_session() external {
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "n");
        vm.prank(STRANGER);
        push(terms, voucher);
        vm.prank(CONTROLLER);
        ISessionEscrow session = ISessionEscrow(factory.open(terms, voucher, 1));
        pass(10);
        closed(session);
        same(usdc.balanceOf(payer), before - 500);
    }

    function test_a_stranger_does_not_open() external {
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "n");
        refused(terms, voucher, 0, STRANGER, abi.encodeWithSelector(ISessionEscrow.NotOpener.selector));
        terms.payer = address(0);
        voucher = voucherOf(PAYER_KEY, terms, CAP, "n");
        refused(terms, voucher, 0, payer, abi.encodeWithSelector(ISessionEscrow.NotOpener.selector));
    }

    function test_the_clone_itself_opens_for_the_factory_alone() external {
        Terms memory terms = someTerms();
        ISessionEscrow session = ISessionEscrow(factory.deploy(terms));
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "n");
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.NotFactory.selector);
        session.open(voucher, 1, CONTROLLER);
    }

    function test_a_strangers_voucher_does_not_open_the_payers_session() external {
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(THIEF_KEY, terms, CAP, "n");
        bytes memory why = abi.encodeWithSelector(ISessionEscrow.VoucherInvalid.selector);
        refused(terms, voucher, 0, CONTROLLER, why);
        push(terms, voucher);
        refused(terms, voucher, 0, CONTROLLER, why);
    }

    function test_a_payer_who_opens_early_starts_no_meter() external {
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "n");
        refused(terms, voucher, 1, payer, abi.encodeWithSelector(ISessionEscrow.NotController.selector));
        vm.prank(payer);
        ISessionEscrow session = ISessionEscrow(factory.open(terms, voucher, 0));
        pass(100);
        same(session.spent(), 0);
        vm.prank(payer);
        vm.expectRevert(ISessionEscrow.NotController.selector);
        session.setActive(1);
    }

    function test_after_open_by_nothing_opens() external {
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "n");
        pass(301);
        bytes memory why = abi.encodeWithSelector(ISessionEscrow.OpenedTooLate.selector, terms.openBy);
        refused(terms, voucher, 0, CONTROLLER, why);
    }

    function test_a_session_opens_once() external {
        Terms memory terms = someTerms();
        ISessionEscrow session = opened(terms, 1);
        Voucher memory again = voucherOf(PAYER_KEY, terms, CAP, "again");
        bytes memory why = abi.encodeWithSelector(ISessionEscrow.AlreadyOpened.selector);
        refused(terms, again, 1, CONTROLLER, why);
        closed(session);
        refused(terms, again, 1, CONTROLLER, why);
    }

    function test_a_voucher_outside_the_terms_is_refused() external {
        Terms memory terms = someTerms();
        bytes memory why = abi.encodeWithSelector(ISessionEscrow.VoucherInvalid.selector);
        refused(terms, voucherOf(PAYER_KEY, terms, terms.minCap - 1, "n"), 0, CONTROLLER, why);
        refused(terms, voucherOf(PAYER_KEY, terms, terms.cap + 1, "n"), 0, CONTROLLER, why);
        coalition.limit(CAP - 1);
        refused(terms, voucherOf(PAYER_KEY, terms, CAP, "n"), 0, CONTROLLER, why);
    }

    function test_terms_that_could_not_be_kept_are_refused() external {
        for (uint256 i = 0; i < 8; ++i) {
            Terms memory terms = someTerms();
            if (i == 0) terms.rate = 0;
            if (i == 1) terms.rate = RATE + 1;
            if (i == 2) terms.maxConcurrent = 0;
            if (i == 3) terms.maxConcurrent = 9;
            if (i == 4) terms.closeBy = uint64(block.timestamp);
            if (i == 5) terms.rate = uint96(type(int96).max) / 1e12 * 1e12;
            if (i == 6) terms.closeBy = uint64(type(uint32).max) + 1;
            if (i == 7) terms.closeBy = uint64(block.timestamp) + coalition.longestSession() + 1;
            bytes memory why = abi.encodeWithSelector(ISessionEscrow.TermsInvalid.selector);
            refused(terms, voucherOf(PAYER_KEY, terms, CAP, "n"), 0, CONTROLLER, why);
        }
    }

    function test_fuzz_a_voucher_for_other_terms_does_not_pay_for_these(uint96 rate, bytes32 id) external {
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "n");
        Terms memory other = someTerms();
        other.rate = uint96(bounded(rate, 1, 1e9)) * 1e12;
        other.sessionId = id;
        vm.assume(other.rate != terms.rate || id != terms.sessionId);
        bytes memory why = abi.encodeWithSelector(MockUSDC.SignatureInvalid.selector);
        refused(other, voucher, 0, CONTROLLER, why);
        push(terms, voucher);
        refused(
            other, voucher, 0, CONTROLLER, abi.encodeWithSelector(ISessionEscrow.SignatureInvalid.selector)
        );
    }

    function test_a_cancelled_voucher_opens_nothing() external {
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "n");
        cancel(PAYER_KEY, "n");
        bytes memory why = abi.encodeWithSelector(ISessionEscrow.VoucherNotFunded.selector);
        refused(terms, voucher, 0, CONTROLLER, why);
    }

    // ---- the end

    function test_a_stranger_closes_neither_early_nor_while_idle() external {
        ISessionEscrow session = opened(someTerms(), 1);
        uint64 hardStop = session.hardStop();
        vm.warp(hardStop - 1);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(ISessionEscrow.TooEarly.selector, hardStop));
        session.close();
        set(session, 0);
        uint64 closeBy = session.terms().closeBy;
        vm.warp(closeBy - 1);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(ISessionEscrow.TooEarly.selector, closeBy));
        session.close();
        vm.warp(closeBy);
        vm.prank(STRANGER);
        session.close();
        same(usdc.balanceOf(payer) + session.spent() / 1e12, before);
        same(received(pool), session.spent());
    }

    function test_a_session_closes_once() external {
        ISessionEscrow session = opened(someTerms(), 1);
        closed(session);
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.AlreadyClosed.selector);
        session.close();
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.NotOpen.selector);
        session.setActive(1);
        vm.prank(payer);
        vm.expectRevert(ISessionEscrow.NotOpen.selector);
        session.stop();
        vm.expectRevert(ISessionEscrow.NothingLeft.selector);
        session.claimRefund();
    }

    function test_a_session_never_opened_cannot_be_closed() external {
        ISessionEscrow session = ISessionEscrow(factory.deploy(someTerms()));
        vm.expectRevert(ISessionEscrow.NotOpen.selector);
        session.close();
        vm.expectRevert(ISessionEscrow.NotClosed.selector);
        session.claimRefund();
    }

    function test_whoever_closes_with_little_gas_closes_nothing_and_holds_no_refund_back() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(10);
        uint256 given = 200_000;
        while (true) {
            vm.prank(payer);
            try session.close{gas: given}() {
                break;
            } catch {
                holds(session.state() == ISessionEscrow.State.Open);
                given += 5000;
            }
        }
        holds(given > 700_000);
        same(usdc.balanceOf(payer), before - 500);
    }

    function test_a_blacklisted_payer_stops_no_one_from_closing_and_is_paid_later() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(10);
        usdc.setBlacklisted(payer, true);
        vm.expectEmit(address(session));
        emit ISessionEscrow.RefundHeld(payer, CAP - 500);
        closed(session);
        same(received(pool), 10 * RATE);
        same(gda.getFlowDistributionFlowRate(usdcx, address(session), pool), 0);
        vm.expectRevert(abi.encodeWithSelector(MockUSDC.Blacklisted.selector, payer));
        session.claimRefund();
        usdc.setBlacklisted(payer, false);
        vm.prank(STRANGER);
        session.claimRefund();
        same(usdc.balanceOf(payer), before - 500);
        vm.expectRevert(ISessionEscrow.NothingLeft.selector);
        session.claimRefund();
    }

    function test_fuzz_a_gift_moves_neither_the_meter_nor_the_refund(uint256 gift, uint256 ran) external {
        gift = bounded(gift, 1, 3e18);
        ran = bounded(ran, 2, 10_000);
        ISessionEscrow session = opened(someTerms(), 1);
        uint64 hardStop = session.hardStop();
        give(address(session), gift);
        pass(ran);
        set(session, 0);
        set(session, 1);
        holds(session.hardStop() <= hardStop + 600);
        pass(2);
        closed(session);
        same(usdc.balanceOf(payer) + session.spent() / 1e12, before);
        same(received(pool), session.spent());
        same(usdcx.balanceOf(address(session)), gift);
    }

    function give(address to, uint256 weiGiven) private {
        uint256 micro = weiGiven / 1e12 + 1;
        usdc.mint(address(this), micro);
        usdc.approve(address(usdcx), micro);
        usdcx.upgrade(micro * 1e12);
        usdcx.transfer(to, weiGiven);
    }

    function test_a_coalition_that_breaks_keeps_nobodys_money() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(10);
        vm.etch(address(coalition), hex"fe");
        vm.prank(CONTROLLER);
        vm.expectRevert();
        session.setActive(2);
        closed(session);
        same(usdc.balanceOf(payer), before - 500);
    }

    function test_a_pool_emptied_of_units_keeps_no_stream_from_stopping() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(1); // below the least time, so that a distribution is tried too
        for (uint256 i = 0; i < operators.length; ++i) {
            gda.updateMemberUnits(pool, operators[i], 0, "");
        }
        closed(session);
        same(gda.getFlowDistributionFlowRate(usdcx, address(session), pool), 0);
        session.claimRefund(); // what was meant for members who are not there
        same(usdc.balanceOf(payer), before - 50);
    }

    function test_a_pool_that_refuses_the_least_time_keeps_no_stream_from_stopping() external {
        ISessionEscrow session = opened(someTerms(), 1);
        vm.mockCallRevert(address(gda), abi.encodePacked(IGdaForwarder.distribute.selector), "no");
        closed(session);
        same(session.spent(), 0);
        same(usdc.balanceOf(payer), before);
    }

    // ---- vouchers that did not fund the session

    function test_a_named_payer_gets_back_all_that_lies_beside_the_session() external {
        Terms memory terms = someTerms();
        push(terms, voucherOf(PAYER_KEY, terms, 1e6, "lost"));
        ISessionEscrow session = opened(terms, 1);
        pass(10);
        vm.prank(STRANGER);
        session.reclaim();
        same(usdc.balanceOf(payer), before - CAP);
        closed(session);
        same(usdc.balanceOf(payer), before - 500);
        vm.expectRevert(ISessionEscrow.NothingLeft.selector);
        session.reclaim();
    }

    function test_a_session_that_never_opened_gives_everything_back_after_open_by() external {
        Terms memory terms = someTerms();
        push(terms, voucherOf(PAYER_KEY, terms, CAP, "n"));
        ISessionEscrow session = ISessionEscrow(factory.deploy(terms));
        vm.expectRevert(abi.encodeWithSelector(ISessionEscrow.TooEarly.selector, terms.openBy + 1));
        session.reclaim();
        vm.warp(terms.openBy + 1);
        session.reclaim();
        same(usdc.balanceOf(payer), before);
    }

    function unnamed() private view returns (Terms memory terms) {
        terms = someTerms();
        terms.payer = address(0);
    }

    function test_without_a_named_payer_the_controller_gives_a_voucher_back_once() external {
        Terms memory terms = unnamed();
        Voucher memory second = voucherOf(THIEF_KEY, terms, 1e6, "second");
        push(terms, second);
        Voucher memory first = voucherOf(PAYER_KEY, terms, CAP, terms.sessionId);
        ISessionEscrow session = opened(terms, 1);
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.VoucherUsed.selector);
        session.reclaimVoucher(first);
        vm.prank(CONTROLLER);
        session.reclaimVoucher(second);
        same(usdc.balanceOf(thief), 100e6);
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.VoucherUsed.selector);
        session.reclaimVoucher(second);
        vm.expectRevert(ISessionEscrow.NotPayer.selector);
        session.reclaim();
    }

    /// EIP-3009 shows a cancelled nonce as used: a thief could show his own and take what another had pushed.
    function test_a_cancelled_voucher_takes_nobody_elses_money() external {
        Terms memory terms = unnamed();
        push(terms, voucherOf(PAYER_KEY, terms, CAP, "honest"));
        Voucher memory forged = voucherOf(THIEF_KEY, terms, CAP, "never paid");
        cancel(THIEF_KEY, "never paid");
        ISessionEscrow session = ISessionEscrow(factory.deploy(terms));
        vm.warp(terms.openBy + 1);
        vm.prank(thief);
        vm.expectRevert(ISessionEscrow.NotController.selector);
        session.reclaimVoucher(forged);
        Terms memory named = someTerms();
        push(named, voucherOf(PAYER_KEY, named, CAP, "named"));
        ISessionEscrow other = ISessionEscrow(factory.deploy(named));
        Voucher memory alsoForged = voucherOf(THIEF_KEY, named, CAP, "never paid");
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.VoucherInvalid.selector);
        other.reclaimVoucher(alsoForged);
    }

    function test_a_voucher_not_used_yet_is_not_given_back() external {
        Terms memory terms = unnamed();
        Voucher memory unused = voucherOf(THIEF_KEY, terms, 1e6, "unused");
        push(terms, voucherOf(PAYER_KEY, terms, CAP, "honest"));
        ISessionEscrow session = ISessionEscrow(factory.deploy(terms));
        vm.warp(terms.openBy + 1);
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.VoucherNotFunded.selector);
        session.reclaimVoucher(unused);
    }

    function test_a_vanished_controller_locks_nobodys_money_for_ever() external {
        Terms memory terms = unnamed();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "honest");
        push(terms, voucher);
        ISessionEscrow session = ISessionEscrow(factory.deploy(terms));
        vm.warp(terms.closeBy + 30 days);
        vm.prank(STRANGER);
        session.reclaimVoucher(voucher);
        same(usdc.balanceOf(payer), before);
    }

    function test_what_is_no_clone_of_this_factory_is_no_session() external view {
        Terms memory terms = someTerms();
        holds(!factory.isSession(factory.addressOf(terms)));
        holds(!factory.isSession(factory.logic()));
        holds(!factory.isSession(address(this)));
    }
}
