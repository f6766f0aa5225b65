// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ISessionEscrow, Terms, Voucher} from "../src/interfaces/ISessionEscrow.sol";
import {SessionWorld} from "./SessionWorld.sol";

/// @title Gas of whole transactions (each call is one, so storage is cold and the 21 000 are counted).
/// The figures are committed in snapshots/SessionEscrow.json; another figure fails the test.
/// forge-config: default.isolate = true
/// forge-config: long.isolate = true
contract SessionGasTest is SessionWorld {
    function setUp() external {
        deployWorld();
    }

    function test_gas_of_a_session() external {
        closed(opened(someTerms(), 1)); // the pool has had a payer before, as it has in use
        Terms memory terms = someTerms();
        terms.sessionId = "measured";
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "measured");
        vm.prank(CONTROLLER);
        ISessionEscrow session = ISessionEscrow(factory.open(terms, voucher, 1));
        holds(vm.snapshotGasLastCall("SessionEscrow", "open and start") <= 1_000_000);
        pass(37);
        set(session, 2);
        vm.snapshotGasLastCall("SessionEscrow", "setActive 1 to 2");
        pass(37);
        set(session, 0);
        vm.snapshotGasLastCall("SessionEscrow", "setActive 2 to 0");
        pass(37);
        set(session, 1);
        vm.snapshotGasLastCall("SessionEscrow", "setActive 0 to 1");
        set(session, 0);
        vm.snapshotGasLastCall("SessionEscrow", "setActive 1 to 0 below the least time");
        set(session, 1);
        pass(37);
        closed(session);
        holds(vm.snapshotGasLastCall("SessionEscrow", "close while streaming") <= 800_000);
        terms.sessionId = "idle";
        voucher = voucherOf(PAYER_KEY, terms, CAP, "idle");
        vm.prank(CONTROLLER);
        session = ISessionEscrow(factory.open(terms, voucher, 0));
        vm.snapshotGasLastCall("SessionEscrow", "open without a stream");
        closed(session);
        vm.snapshotGasLastCall("SessionEscrow", "close while idle");
    }

    function test_gas_of_a_session_that_is_the_pools_first() external {
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "first");
        vm.prank(CONTROLLER);
        ISessionEscrow session = ISessionEscrow(factory.open(terms, voucher, 1));
        holds(vm.snapshotGasLastCall("SessionEscrow", "open and start, first in its pool") <= 1_000_000);
        closed(session); // in the same second: the least time is paid too
        uint256 gas = vm.snapshotGasLastCall("SessionEscrow", "close below the least time, first in its pool");
        holds(gas <= 800_000);
    }
}
