// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ISessionEscrow, Terms} from "../src/interfaces/ISessionEscrow.sol";
import {SessionWorld} from "./SessionWorld.sol";

/// @title Whatever the price, the units and the times: paid = received by operators + refund, to the wei.
contract SessionFuzzTest is SessionWorld {
    function setUp() external {
        deployWorld();
    }

    function test_fuzz_what_was_paid_is_what_was_received_and_refunded(
        uint96 rate,
        uint64 cap,
        uint16[4] calldata units,
        uint32[8] calldata waits,
        uint8[8] calldata active
    ) external {
        shareOut(units);
        Terms memory terms = someTerms();
        terms.rate = uint96(bounded(rate, 1, 2000)) * 1e12;
        terms.cap = uint64(bounded(cap, uint256(terms.rate) / 1e12 * 4000, 50e6));
        terms.minCap = 1;
        uint256 before = usdc.balanceOf(payer);
        ISessionEscrow session = opened(terms, 1);
        uint256 expected;
        uint256 now_ = block.timestamp;
        uint256 running = 1;
        for (uint256 i = 0; i < 8; ++i) {
            uint256 wait = bounded(waits[i], 2, 40); // no request is below its least time
            expected += wait * running * terms.rate;
            now_ += wait;
            vm.warp(now_);
            running = bounded(active[i], 0, 4);
            set(session, uint32(running));
        }
        vm.warp(now_ + 5);
        expected += 5 * running * terms.rate;
        closed(session);
        same(session.spent(), expected);
        same(received(pool), expected);
        same(before - usdc.balanceOf(payer), expected / 1e12);
        same(usdcx.balanceOf(address(session)), 0);
        same(usdc.balanceOf(address(session)), 0);
    }

    /// Four shares of 10 000, none of them nothing.
    function shareOut(uint16[4] calldata units) private {
        uint256 left = 10_000;
        for (uint256 i = 0; i < 3; ++i) {
            uint256 part = bounded(units[i], 1, left - (3 - i));
            shares[i] = uint128(part);
            left -= part;
        }
        shares[3] = uint128(left);
        pool = newPool();
        coalition.point(pool);
    }

    function test_fuzz_short_requests_pay_the_least_time_each(uint32 least, uint8[6] calldata ran) external {
        Terms memory terms = someTerms();
        terms.minSecondsPerRequest = uint32(bounded(least, 0, 30));
        ISessionEscrow session = opened(terms, 0);
        uint256 expected;
        uint256 now_ = block.timestamp;
        for (uint256 i = 0; i < 6; ++i) {
            set(session, 1);
            now_ += ran[i];
            vm.warp(now_);
            set(session, 0);
            expected += ran[i] < terms.minSecondsPerRequest ? terms.minSecondsPerRequest : ran[i];
        }
        closed(session);
        same(session.spent(), expected * RATE);
        same(received(pool), expected * RATE);
    }

    function test_fuzz_whoever_is_late_nobody_pays_more_than_the_voucher(uint256 late, uint8 active)
        external
    {
        ISessionEscrow session = opened(someTerms(), uint32(bounded(active, 1, 4)));
        uint256 before = usdc.balanceOf(payer);
        vm.warp(uint256(session.hardStop()) + bounded(late, 0, 100_000));
        vm.prank(STRANGER);
        session.close();
        uint256 refund = usdc.balanceOf(payer) - before;
        uint256 paid = received(pool);
        same(session.spent(), paid);
        if (paid <= uint256(CAP) * 1e12) same(refund * 1e12 + paid, uint256(CAP) * 1e12);
        else same(refund, 0);
    }
}
