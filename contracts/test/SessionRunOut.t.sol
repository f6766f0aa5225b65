// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ISessionEscrow, Terms} from "../src/interfaces/ISessionEscrow.sol";
import {SessionWorld} from "./SessionWorld.sol";

/// @title What happens when nobody stops a stream in time: every moment from hardStop to past the buffer.
/// CAP is 40 000 s of RATE; the buffer holds 600 s of it, so the money available ends after 39 400 s.
contract SessionRunOutTest is SessionWorld {
    uint256 private constant AVAILABLE_SECONDS = 39_400;
    ISessionEscrow private session;
    uint256 private before;

    function setUp() external {
        deployWorld();
        before = usdc.balanceOf(payer);
        Terms memory terms = someTerms();
        terms.closeBy = uint64(block.timestamp + 30 days);
        session = opened(terms, 1);
    }

    function closedByStrangerAfter(uint256 ran) private {
        pass(ran);
        vm.prank(STRANGER);
        session.close();
        same(received(pool), ran * RATE);
        same(session.spent(), ran * RATE);
        same(usdc.balanceOf(STRANGER) + usdcx.balanceOf(STRANGER) + usdcx.balanceOf(REWARD), 0);
    }

    function test_hard_stop_lies_a_margin_before_the_money_ends() external view {
        same(session.hardStop(), block.timestamp + AVAILABLE_SECONDS - MARGIN);
    }

    function test_from_hard_stop_anyone_closes() external {
        closedByStrangerAfter(AVAILABLE_SECONDS - MARGIN);
        same(usdc.balanceOf(payer), before - (AVAILABLE_SECONDS - MARGIN) * 50);
    }

    function test_in_the_last_second_available_and_one_later_the_refund_is_exact() external {
        closedByStrangerAfter(AVAILABLE_SECONDS + 1);
        same(usdc.balanceOf(payer), before - (AVAILABLE_SECONDS + 1) * 50);
    }

    function test_fuzz_a_late_close_within_the_buffer_refunds_to_the_second(uint256 late) external {
        late = bounded(late, 0, 600);
        closedByStrangerAfter(AVAILABLE_SECONDS + late);
        same(usdc.balanceOf(payer), before - (AVAILABLE_SECONDS + late) * 50);
    }

    function test_past_the_buffer_it_still_closes_and_the_payer_loses_no_more_than_the_voucher() external {
        closedByStrangerAfter(AVAILABLE_SECONDS + 600 + 1000);
        same(usdc.balanceOf(payer), before - CAP);
        vm.expectRevert(ISessionEscrow.NothingLeft.selector);
        session.claimRefund();
    }

    function test_in_time_others_cannot_liquidate() external {
        pass(AVAILABLE_SECONDS - 1);
        vm.prank(STRANGER);
        vm.expectRevert();
        gda.distributeFlow(usdcx, address(session), pool, 0, "");
    }

    function test_a_liquidated_session_says_so_and_closes() external {
        pass(AVAILABLE_SECONDS + 100);
        vm.prank(STRANGER);
        gda.distributeFlow(usdcx, address(session), pool, 0, "");
        uint256 paid = received(pool);
        same(paid, (AVAILABLE_SECONDS + 100) * RATE);
        pass(50);
        vm.expectEmit(address(session));
        emit ISessionEscrow.StreamLost(pool);
        vm.prank(STRANGER);
        session.close();
        same(received(pool), paid);
        uint256 taken = usdcx.balanceOf(REWARD) + usdcx.balanceOf(STRANGER);
        same(session.spent(), paid + taken);
        same(usdc.balanceOf(payer) + session.spent() / 1e12, before);
    }

    function test_more_requests_end_sooner_and_fewer_later() external {
        pass(1000);
        set(session, 2);
        // 39 000 s of RATE left, 1 200 of them locked as buffer, used at twice the rate
        same(session.hardStop(), block.timestamp + (39_000 - 1200) / 2 - MARGIN);
        set(session, 1);
        same(session.hardStop(), block.timestamp + 39_000 - 600 - MARGIN); // the oldest ended, which ran 1000 s
    }

    function test_a_request_that_could_not_last_is_not_begun() external {
        set(session, 0);
        Terms memory terms = someTerms();
        terms.sessionId = "small";
        terms.cap = uint64(50 * (600 + 100));
        terms.minCap = 1;
        ISessionEscrow small = opened(terms, 1);
        pass(40);
        set(small, 0);
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.NothingLeft.selector);
        small.setActive(1);
        closed(small);
        same(small.spent(), 40 * RATE);
    }

    function test_nothing_begins_after_close_by() external {
        set(session, 0);
        vm.warp(session.terms().closeBy);
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.NothingLeft.selector);
        session.setActive(1);
    }

    function test_close_by_bounds_hard_stop() external {
        Terms memory terms = someTerms();
        terms.sessionId = "short";
        terms.closeBy = uint64(block.timestamp + 100);
        ISessionEscrow short = opened(terms, 1);
        same(short.hardStop(), terms.closeBy);
        pass(100);
        vm.prank(STRANGER);
        short.close();
        same(short.spent(), 100 * RATE);
    }
}
