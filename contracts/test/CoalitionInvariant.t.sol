// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Breach, ICoalition, Receipt} from "../src/interfaces/ICoalition.sol";
import {ISessionEscrow, Terms} from "../src/interfaces/ISessionEscrow.sol";
import {CoalitionWorld} from "./CoalitionWorld.sol";
import {Targets} from "./Targets.sol";

/// @title Operators, attestors, arbiters, a steward and strangers around one coalition, in any order.
contract Assembly is CoalitionWorld {
    uint256 private constant TWO_RECEIPT_KEY = uint256(keccak256(abi.encode(bytes32("node two"))));
    ISessionEscrow[] private sessions;
    uint256 private bondsGiven;
    uint256 private tookOut;

    constructor() {
        deployCoalition();
        openedEpoch();
        bondsGiven = 2 * BOND;
    }

    function openSession(uint8 active) external {
        if (sessions.length == 3 || house.gdaPool() == address(0) || usdc.isBlacklisted(payer)) return;
        Terms memory terms = ourTerms();
        terms.sessionId = bytes32(sessions.length + 1);
        sessions.push(opened(terms, uint32(bounded(active, 0, 2))));
    }

    function addBond(bool first, uint32 amount) external {
        uint256 micro = bounded(amount, 1, 3e6);
        bonded(first ? one : two, micro);
        bondsGiven += micro;
    }

    function requestUnbond(bool first, uint32 amount) external {
        vm.prank(first ? one : two);
        try house.requestUnbond(amount) {} catch {}
    }

    function withdrawBond(bool first) external {
        address operator = first ? one : two;
        uint256 had = usdc.balanceOf(operator);
        vm.prank(operator);
        try house.withdrawBond() {} catch {}
        tookOut += usdc.balanceOf(operator) - had;
        if (house.gdaPool() != address(0) && house.lastEpochOf(operator) == house.epoch()) {
            holds(usdc.balanceOf(operator) == had || house.bondOf(operator) >= house.bondNeeded());
        }
    }

    function claim(uint8 which, bool first, uint8 kind, uint32 amount, uint8 votes) external {
        if (sessions.length == 0) return;
        ISessionEscrow session = sessions[which % sessions.length];
        ICoalition.Kind of_ = ICoalition.Kind(kind % 5);
        Breach memory breach = breachOf(session, first ? one : two, of_, bounded(amount, 0, 4e6));
        (breach.failedProbes, breach.probeWindow) = (votes, 30);
        bytes[] memory signatures = votesOn(breach, votes % 4);
        try house.openClaim(breach, signatures) {
            holds(votes % 4 >= 2);
            same(session.active(), 0);
        } catch {}
    }

    function equivocate(uint8 which, bool first) external {
        if (sessions.length == 0) return;
        ISessionEscrow session = sessions[which % sessions.length];
        Receipt memory a = receiptOf(session, keccak256("yes"));
        Receipt memory b = receiptOf(session, keccak256("no"));
        uint256 key = first ? RECEIPT_KEY : TWO_RECEIPT_KEY;
        bytes memory signedA = receiptSigned(key, a);
        bytes memory signedB = receiptSigned(key, b);
        vm.prank(STRANGER);
        try house.proveEquivocation(address(session), a, signedA, b, signedB) {} catch {}
    }

    function dispute(uint8 which, bool first) external {
        vm.prank(first ? one : two);
        try house.dispute(someClaim(which)) {} catch {}
    }

    function rule(uint8 which, bool upheld, uint8 voices) external {
        uint256 claimId = someClaim(which);
        uint256 deadline = block.timestamp + 1;
        bytes[] memory signatures = rulings(claimId, upheld, deadline, voices % 6);
        try house.rule(claimId, upheld, deadline, signatures) {
            holds(voices % 6 >= 3);
        } catch {}
    }

    function settle(uint8 which, bool cancel_) external {
        vm.prank(STRANGER);
        if (cancel_) {
            try house.cancelUnruled(someClaim(which)) {} catch {}
        } else {
            try house.execute(someClaim(which)) {} catch {}
        }
    }

    function newEpoch() external {
        vm.prank(STEWARD);
        house.readmit(one);
        vm.prank(STEWARD);
        house.readmit(two);
        uint256 free = house.bondOf(one) - house.lockedOf(one);
        uint256 other = house.bondOf(two) - house.lockedOf(two);
        if (free < house.bondNeeded() + house.unbondingOf(one)) return;
        if (other < house.bondNeeded() + house.unbondingOf(two)) return;
        if (house.epoch() < 5) openedEpoch();
    }

    function blacklist(bool yes) external {
        usdc.setBlacklisted(payer, yes);
    }

    function withdrawOwed() external {
        try house.withdrawOwed(payer) {} catch {}
    }

    function wait(uint16 minutesPassed) external {
        pass(uint256(minutesPassed) % 3000 * 60 + 1);
        for (uint256 i = 0; i < sessions.length; ++i) {
            uint64 hardStop = sessions[i].hardStop();
            if (hardStop != 0 && block.timestamp >= hardStop) sessions[i].close();
        }
    }

    function someClaim(uint8 which) private view returns (uint256) {
        uint256 count = house.claimCount();
        return count == 0 ? 1 : 1 + which % count;
    }

    // ---- what must hold

    function checkBonds() external view {
        solvent();
        address[2] memory both = [one, two];
        for (uint256 i = 0; i < 2; ++i) {
            holds(house.lockedOf(both[i]) <= house.bondOf(both[i]));
            holds(house.unbondingOf(both[i]) <= house.bondOf(both[i]));
        }
        same(lockedByClaims(one), house.lockedOf(one));
        same(lockedByClaims(two), house.lockedOf(two));
    }

    function lockedByClaims(address accused) private view returns (uint256 locked) {
        for (uint256 id = 1; id <= house.claimCount(); ++id) {
            (, address operator,,, ICoalition.ClaimState state, uint256 amount,,) = house.claimOf(id);
            if (operator != accused) continue;
            if (state == ICoalition.ClaimState.Open) locked += amount;
            if (state == ICoalition.ClaimState.Disputed) locked += amount + house.counterBond();
        }
    }

    /// What left: to operators who unbonded, to payers no more than they paid, the rest to the treasury.
    function checkPayees() external view {
        uint256 repaid;
        for (uint256 i = 0; i < sessions.length; ++i) {
            uint256 to = house.repaidTo(address(sessions[i]));
            holds(to <= sessions[i].spent() / 1e12);
            repaid += to;
        }
        uint256 treasury = usdc.balanceOf(TREASURY);
        uint256 bonds = house.bondOf(one) + house.bondOf(two);
        same(bondsGiven, bonds + tookOut + repaid + treasury);
        same(usdc.balanceOf(STRANGER) + usdc.balanceOf(STEWARD) + usdc.balanceOf(CONTROLLER), 0);
        for (uint256 i = 0; i < attestorKeys.length; ++i) {
            same(usdc.balanceOf(vm.addr(attestorKeys[i])), 0);
        }
    }
}

contract CoalitionInvariantTest is Targets {
    Assembly private assembly_;

    function setUp() external {
        assembly_ = new Assembly();
        target(address(assembly_));
        call(Assembly.openSession.selector);
        call(Assembly.addBond.selector);
        call(Assembly.requestUnbond.selector);
        call(Assembly.withdrawBond.selector);
        call(Assembly.claim.selector);
        call(Assembly.equivocate.selector);
        call(Assembly.dispute.selector);
        call(Assembly.rule.selector);
        call(Assembly.settle.selector);
        call(Assembly.newEpoch.selector);
        call(Assembly.blacklist.selector);
        call(Assembly.withdrawOwed.selector);
        call(Assembly.wait.selector);
    }

    function invariant_bonds_are_whole_and_leave_by_their_two_doors() external view {
        assembly_.checkBonds();
        assembly_.checkPayees();
    }
}
