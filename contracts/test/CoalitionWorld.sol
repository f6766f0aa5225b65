// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Coalition} from "../src/Coalition.sol";
import {Breach, CoalitionConfig, ICoalition, Receipt, Seat} from "../src/interfaces/ICoalition.sol";
import {ISessionEscrow, Terms} from "../src/interfaces/ISessionEscrow.sol";
import {SessionWorld} from "./SessionWorld.sol";

/// @title The whole coalition: two operators with keys and bonds, three attestors, five arbiters.
abstract contract CoalitionWorld is SessionWorld {
    uint256 internal constant ONE_KEY = 0x0A1;
    uint256 internal constant TWO_KEY = 0x0A2;
    uint256 internal constant RECEIPT_KEY = 0x5EC;
    address internal constant TREASURY = address(0x73EA5);
    address internal constant STEWARD = address(0x57E4);
    uint256 internal constant BOND = 5e6;
    uint64 internal constant DISPUTE = 1 days;
    uint64 internal constant RULING = 2 days;
    uint64 internal constant LONGEST = 1 days;
    uint64 internal constant UNBOND = 5 days;

    Coalition internal house;
    address internal one = vm.addr(ONE_KEY);
    address internal two = vm.addr(TWO_KEY);
    uint256[] internal attestorKeys;
    uint256[] internal arbiterKeys;

    function deployCoalition() internal {
        deployWorld();
        attestorKeys = sortedKeys(0xA77E, 3);
        arbiterKeys = sortedKeys(0xA4B1, 5);
        house = new Coalition(someConfig());
        bonded(one, BOND);
        bonded(two, BOND);
    }

    function someConfig() internal view returns (CoalitionConfig memory config) {
        config.steward = STEWARD;
        config.treasury = TREASURY;
        config.usdc = address(usdc);
        config.usdcx = address(usdcx);
        config.gdaForwarder = address(gda);
        config.factory = address(factory);
        config.sessionLimit = CAP;
        config.longestSession = LONGEST;
        config.leastBond = 1e6;
        config.counterBond = 500_000;
        config.mostPerKind = [uint256(1e6), 1e6, 3e6, 3e6, 2e6];
        config.disputeWindow = DISPUTE;
        config.rulingWindow = RULING;
        config.unbondDelay = UNBOND;
        config.leastProbes = 3;
        config.longestProbeWindow = 60;
        config.deterministic = true;
        config.attestors = addressesOf(attestorKeys);
        config.quorum = 2;
        config.arbiters = addressesOf(arbiterKeys);
        config.arbiterQuorum = 3;
    }

    function bonded(address operator, uint256 amount) internal {
        usdc.mint(address(this), amount);
        usdc.approve(address(house), amount);
        house.bond(operator, amount);
    }

    function addressesOf(uint256[] memory keys) internal pure returns (address[] memory accounts) {
        accounts = new address[](keys.length);
        for (uint256 i = 0; i < keys.length; ++i) {
            accounts[i] = vm.addr(keys[i]);
        }
    }

    /// Keys in the order of their addresses, as signatures must come.
    function sortedKeys(uint256 seed, uint256 count) internal pure returns (uint256[] memory keys) {
        keys = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint256 key = uint256(keccak256(abi.encode(seed, i)));
            uint256 place = i;
            for (; place != 0 && vm.addr(keys[place - 1]) > vm.addr(key); --place) {
                keys[place] = keys[place - 1];
            }
            keys[place] = key;
        }
    }

    function digestOf(bytes32 hash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked("\x19\x01", house.domainSeparator(), hash));
    }

    function seatOf(address operator, uint96 units, bytes32 node) internal pure returns (Seat memory) {
        return Seat(operator, units, node, vm.addr(uint256(keccak256(abi.encode(node)))));
    }

    function consentOf(uint256 key, Seat memory seat, uint256 epoch) internal view returns (bytes memory) {
        bytes32 typed = keccak256(
            "Accept(address coalition,uint256 epoch,uint256 units,bytes32 node,address receiptKey)"
        );
        bytes32 hash = keccak256(
            abi.encode(typed, address(house), epoch, uint256(seat.units), seat.node, seat.receiptKey)
        );
        return signed(key, digestOf(hash));
    }

    function twoSeats() internal view returns (Seat[] memory seats, bytes[] memory consents) {
        seats = new Seat[](2);
        seats[0] = seatOf(one, 6000, "node one");
        seats[0].receiptKey = vm.addr(RECEIPT_KEY);
        seats[1] = seatOf(two, 4000, "node two");
        consents = new bytes[](2);
        consents[0] = consentOf(ONE_KEY, seats[0], house.epoch() + 1);
        consents[1] = consentOf(TWO_KEY, seats[1], house.epoch() + 1);
    }

    function openedEpoch() internal returns (address made) {
        (Seat[] memory seats, bytes[] memory consents) = twoSeats();
        vm.prank(STEWARD);
        (, made) = house.openEpoch(seats, consents);
    }

    function ourTerms() internal view returns (Terms memory terms) {
        terms = someTerms();
        terms.coalition = address(house);
    }

    /// A session that streamed for 1000 s (50 000 micro-USDC) and runs on.
    function streaming() internal returns (ISessionEscrow session) {
        session = opened(ourTerms(), 1);
        pass(1000);
    }

    function breachOf(ISessionEscrow session, address operator, ICoalition.Kind kind, uint256 amount)
        internal
        view
        returns (Breach memory)
    {
        return Breach(
            address(session), operator, kind, amount, keccak256("evidence"), 0, 0, block.timestamp + 1 hours
        );
    }

    function votesOn(Breach memory breach, uint256 count) internal view returns (bytes[] memory votes) {
        bytes32 typed = keccak256(
            "Breach(address session,address operator,uint8 kind,uint256 amount,bytes32 evidenceHash,uint32 failedProbes,uint32 probeWindow,uint256 deadline)"
        );
        bytes32 digest = digestOf(keccak256(abi.encode(typed, breach)));
        votes = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            votes[i] = signed(attestorKeys[i], digest);
        }
    }

    function claimed(Breach memory breach) internal returns (uint256) {
        return house.openClaim(breach, votesOn(breach, 2));
    }

    function rulings(uint256 claimId, bool upheld, uint256 deadline, uint256 count)
        internal
        view
        returns (bytes[] memory signatures)
    {
        bytes32 typed = keccak256("Ruling(uint256 claimId,bool upheld,uint256 deadline)");
        bytes32 digest = digestOf(keccak256(abi.encode(typed, claimId, upheld, deadline)));
        signatures = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            signatures[i] = signed(arbiterKeys[i], digest);
        }
    }

    function receiptOf(ISessionEscrow session, bytes32 outputHash) internal view returns (Receipt memory) {
        return Receipt(house.epoch(), address(session), "request", 3, 1, keccak256("input"), outputHash);
    }

    function receiptSigned(uint256 key, Receipt memory receipt) internal view returns (bytes memory) {
        bytes32 typed = keccak256(
            "Receipt(uint256 epoch,address session,bytes32 request,uint32 segment,uint32 attempt,bytes32 inputHash,bytes32 outputHash)"
        );
        return signed(key, digestOf(keccak256(abi.encode(typed, receipt))));
    }

    function stateOf(uint256 claimId) internal view returns (ICoalition.ClaimState state) {
        (,,,, state,,,) = house.claimOf(claimId);
    }

    /// Every micro-USDC in the contract is somebody's bond or somebody's unpaid due.
    function solvent() internal view {
        uint256 owed = house.owedTo(payer) + house.owedTo(TREASURY) + house.owedTo(one) + house.owedTo(two);
        same(usdc.balanceOf(address(house)), house.bondOf(one) + house.bondOf(two) + owed);
    }
}
