// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ISessionEscrow, Terms, Voucher} from "../src/interfaces/ISessionEscrow.sol";
import {SessionWorld} from "./SessionWorld.sol";
import {Targets} from "./Targets.sol";

/// @title Everybody at once, in any order, at any time: controller, payer, operators, strangers, a new epoch.
contract Crowd is SessionWorld {
    ISessionEscrow[] public sessions;
    address[] public pools;
    uint256 public paidBefore;

    constructor() {
        deployWorld();
        pools.push(pool);
        paidBefore = usdc.balanceOf(payer);
    }

    function count() external view returns (uint256) {
        return sessions.length;
    }

    function open(uint96 rate, uint64 cap, uint8 active, bool named) external {
        if (sessions.length == 4 || usdc.isBlacklisted(payer)) return;
        Terms memory terms = someTerms();
        if (!named) terms.payer = address(0);
        terms.sessionId = bytes32(sessions.length + 1);
        terms.minCap = 1;
        terms.rate = uint96(bounded(rate, 1, 200)) * 1e12;
        terms.cap = uint64(bounded(cap, uint256(terms.rate) / 1e12 * 4000, 5e6));
        sessions.push(opened(terms, uint32(bounded(active, 0, 4))));
    }

    function setActive(uint8 which, uint8 active) external {
        ISessionEscrow session = one(which);
        if (address(session) == address(0)) return;
        vm.prank(CONTROLLER);
        try session.setActive(uint32(bounded(active, 0, 5))) {} catch {}
    }

    function stop(uint8 which, uint8 who) external {
        ISessionEscrow session = one(which);
        if (address(session) == address(0)) return;
        vm.prank(somebody(who));
        try session.stop() {} catch {}
    }

    function close(uint8 which, uint8 who) external {
        ISessionEscrow session = one(which);
        if (address(session) == address(0)) return;
        bool must = mustClose(session);
        vm.prank(somebody(who));
        try session.close() {}
        catch {
            holds(!must); // from hardStop and from closeBy on, anyone can
        }
    }

    function claimRefund(uint8 which, uint8 who) external {
        ISessionEscrow session = one(which);
        if (address(session) == address(0)) return;
        vm.prank(somebody(who));
        try session.claimRefund() {} catch {}
    }

    function reclaim(uint8 which, uint8 who) external {
        ISessionEscrow session = one(which);
        if (address(session) == address(0)) return;
        vm.prank(somebody(who));
        try session.reclaim() {} catch {}
    }

    function newEpoch() external {
        if (pools.length == 4) return;
        pools.push(newPool());
        coalition.point(pools[pools.length - 1]);
    }

    function blacklist(bool yes) external {
        usdc.setBlacklisted(payer, yes);
    }

    /// Time passes only as far as somebody closes in time: keepers are part of the design.
    function wait(uint16 secondsPassed) external {
        uint256 to = block.timestamp + secondsPassed;
        for (uint256 i = 0; i < sessions.length; ++i) {
            uint64 hardStop = sessions[i].hardStop();
            if (hardStop != 0 && to > hardStop + MARGIN) to = hardStop + MARGIN;
        }
        if (to > block.timestamp) vm.warp(to);
        for (uint256 i = 0; i < sessions.length; ++i) {
            uint64 hardStop = sessions[i].hardStop();
            if (hardStop != 0 && block.timestamp >= hardStop) sessions[i].close();
        }
    }

    function mustClose(ISessionEscrow session) private view returns (bool) {
        uint64 hardStop = session.hardStop();
        bool late =
            block.timestamp >= session.terms().closeBy || (hardStop != 0 && block.timestamp >= hardStop);
        return late && session.state() == ISessionEscrow.State.Open;
    }

    function one(uint8 which) private view returns (ISessionEscrow) {
        return sessions.length == 0 ? ISessionEscrow(address(0)) : sessions[which % sessions.length];
    }

    function somebody(uint8 who) private view returns (address) {
        if (who % 4 == 0) return CONTROLLER;
        if (who % 4 == 1) return payer;
        return who % 4 == 2 ? operators[who % operators.length] : STRANGER;
    }

    // ---- what must hold

    function checkConserved() external view {
        uint256 operatorsGot;
        for (uint256 i = 0; i < pools.length; ++i) {
            operatorsGot += received(pools[i]);
        }
        uint256 spent;
        uint256 held;
        for (uint256 i = 0; i < sessions.length; ++i) {
            spent += sessions[i].spent();
            (int256 available, uint256 buffer,,) = usdcx.realtimeBalanceOfNow(address(sessions[i]));
            held += uint256(available + int256(buffer));
        }
        same(operatorsGot, spent);
        same((paidBefore - usdc.balanceOf(payer)) * 1e12, operatorsGot + held);
    }

    function checkEachSession() external view {
        for (uint256 i = 0; i < sessions.length; ++i) {
            ISessionEscrow session = sessions[i];
            uint256 put = session.funded() * 1e12;
            holds(session.spent() <= put);
            (int256 available, uint256 buffer,,) = usdcx.realtimeBalanceOfNow(address(session));
            if (session.state() == ISessionEscrow.State.Open) {
                same(uint256(available + int256(buffer)) + session.spent(), put);
            } else {
                same(session.active(), 0);
                same(buffer, 0);
                holds(uint256(available) == 0 || uint256(available) + session.spent() == put);
            }
        }
    }

    function checkNobodyElseIsPaid() external view {
        address[4] memory others = [STRANGER, CONTROLLER, REWARD, address(factory)];
        for (uint256 i = 0; i < others.length; ++i) {
            same(usdc.balanceOf(others[i]) + usdcx.balanceOf(others[i]), 0);
        }
    }
}

contract SessionInvariantTest is Targets {
    Crowd private crowd;

    function setUp() external {
        crowd = new Crowd();
        target(address(crowd));
        call(Crowd.open.selector);
        call(Crowd.setActive.selector);
        call(Crowd.stop.selector);
        call(Crowd.close.selector);
        call(Crowd.claimRefund.selector);
        call(Crowd.reclaim.selector);
        call(Crowd.newEpoch.selector);
        call(Crowd.blacklist.selector);
        call(Crowd.wait.selector);
    }

    function invariant_paid_is_received_plus_held_and_refunded() external view {
        crowd.checkConserved();
        crowd.checkEachSession();
        crowd.checkNobodyElseIsPaid();
    }
}
