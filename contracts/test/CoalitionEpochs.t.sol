// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Coalition} from "../src/Coalition.sol";
import {CoalitionConfig, ICoalition, Seat} from "../src/interfaces/ICoalition.sol";
import {IGdaPool} from "../src/interfaces/ISuperfluid.sol";
import {ISessionEscrow} from "../src/interfaces/ISessionEscrow.sol";
import {CoalitionWorld} from "./CoalitionWorld.sol";

/// @title Consent, shares and bonds.
contract CoalitionEpochsTest is CoalitionWorld {
    function setUp() external {
        deployCoalition();
    }

    function refused(Seat[] memory seats, bytes[] memory consents, bytes memory why) private {
        vm.prank(STEWARD);
        vm.expectRevert(why);
        house.openEpoch(seats, consents);
    }

    function test_an_epoch_has_its_own_pool_with_units_once_and_for_all() external {
        address first = openedEpoch();
        same(house.gdaPool(), first);
        same(IGdaPool(first).getTotalUnits(), 10_000);
        same(IGdaPool(first).getUnits(one), 6000);
        same(IGdaPool(first).admin(), address(house));
        same(house.seatsOf(1).length, 2);
        address second = openedEpoch();
        holds(second != first);
        same(house.gdaPool(), second);
        same(house.gdaPoolOf(1), first);
        same(IGdaPool(first).getUnits(one), 6000);
        same(house.epoch(), 2);
    }

    function test_a_session_pays_the_seats_by_their_units() external {
        address made = openedEpoch();
        ISessionEscrow session = streaming();
        closed(session);
        same(IGdaPool(made).getTotalAmountReceivedByMember(one), 600 * RATE);
        same(IGdaPool(made).getTotalAmountReceivedByMember(two), 400 * RATE);
    }

    function test_an_operator_with_two_nodes_has_the_sum_of_their_units() external {
        Seat[] memory seats = new Seat[](3);
        bytes[] memory consents = new bytes[](3);
        seats[0] = seatOf(one, 3000, "a");
        seats[1] = seatOf(two, 5000, "b");
        seats[2] = seatOf(one, 2000, "c");
        for (uint256 i = 0; i < 3; ++i) {
            consents[i] = consentOf(i == 1 ? TWO_KEY : ONE_KEY, seats[i], 1);
        }
        vm.prank(STEWARD);
        (, address made) = house.openEpoch(seats, consents);
        same(IGdaPool(made).getUnits(one), 5000);
        same(IGdaPool(made).getTotalUnits(), 10_000);
    }

    function test_nobody_is_seated_without_his_own_consent_to_just_that() external {
        (Seat[] memory seats, bytes[] memory consents) = twoSeats();
        bytes memory why = abi.encodeWithSelector(ICoalition.ConsentInvalid.selector, two);
        consents[1] = consentOf(ONE_KEY, seats[1], 1);
        refused(seats, consents, why);
        consents[1] = consentOf(TWO_KEY, seats[1], 2);
        refused(seats, consents, why);
        Seat memory other = seatOf(two, 4001, "node two");
        consents[1] = consentOf(TWO_KEY, other, 1);
        refused(seats, consents, why);
    }

    function test_a_consent_serves_one_epoch() external {
        (Seat[] memory seats, bytes[] memory consents) = twoSeats();
        vm.prank(STEWARD);
        house.openEpoch(seats, consents);
        refused(seats, consents, abi.encodeWithSelector(ICoalition.ConsentInvalid.selector, one));
    }

    function test_two_seats_do_not_share_a_receipt_key() external {
        (Seat[] memory seats, bytes[] memory consents) = twoSeats();
        seats[1].receiptKey = seats[0].receiptKey;
        consents[1] = consentOf(TWO_KEY, seats[1], 1);
        refused(seats, consents, abi.encodeWithSelector(ICoalition.ConsentInvalid.selector, two));
    }

    function test_units_total_ten_thousand() external {
        (Seat[] memory seats, bytes[] memory consents) = twoSeats();
        seats[1].units = 3999;
        consents[1] = consentOf(TWO_KEY, seats[1], 1);
        refused(seats, consents, abi.encodeWithSelector(ICoalition.UnitsInvalid.selector, 9999));
    }

    function test_a_seat_needs_a_bond_that_is_not_on_its_way_out() external {
        same(house.bondNeeded(), CAP);
        vm.prank(two);
        house.requestUnbond(BOND - CAP + 1);
        (Seat[] memory seats, bytes[] memory consents) = twoSeats();
        bytes memory why = abi.encodeWithSelector(ICoalition.BondTooSmall.selector, two, CAP - 1, CAP);
        refused(seats, consents, why);
    }

    function test_only_the_steward_opens_and_ends_and_hands_over() external {
        (Seat[] memory seats, bytes[] memory consents) = twoSeats();
        vm.expectRevert(ICoalition.NotSteward.selector);
        house.openEpoch(seats, consents);
        vm.expectRevert(ICoalition.NotSteward.selector);
        house.endEpoch();
        vm.expectRevert(ICoalition.NotSteward.selector);
        house.handOver(address(this));
        vm.expectRevert(ICoalition.NotSteward.selector);
        house.readmit(one);
        vm.prank(STEWARD);
        house.handOver(address(this));
        house.openEpoch(seats, consents);
        house.endEpoch();
        same(house.gdaPool(), address(0));
        vm.expectRevert(ICoalition.NoEpoch.selector);
        house.endEpoch();
    }

    function test_a_bond_is_given_with_or_without_gas() external {
        uint256 held = house.bondOf(one);
        usdc.mint(one, 3e6);
        bytes32 hash = keccak256(
            abi.encode(
                usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                one,
                address(house),
                3e6,
                0,
                block.timestamp + 60,
                bytes32("b")
            )
        );
        bytes memory signature =
            signed(ONE_KEY, keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), hash)));
        vm.prank(STRANGER);
        house.bondWithAuthorization(one, 3e6, 0, block.timestamp + 60, "b", signature);
        same(house.bondOf(one), held + 3e6);
        solvent();
    }

    function test_a_bond_leaves_after_the_delay_and_not_below_a_seats_need() external {
        openedEpoch();
        vm.prank(one);
        house.requestUnbond(BOND);
        uint64 from = uint64(block.timestamp) + UNBOND;
        vm.warp(from - 1);
        vm.prank(one);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.TooEarly.selector, from));
        house.withdrawBond();
        vm.warp(from);
        vm.prank(one);
        house.withdrawBond();
        same(usdc.balanceOf(one), BOND - CAP);
        vm.prank(one);
        vm.expectRevert(ICoalition.NothingToWithdraw.selector);
        house.withdrawBond();
        solvent();
    }

    function test_the_delay_runs_from_the_end_of_the_last_epoch_served() external {
        openedEpoch();
        vm.prank(one);
        house.requestUnbond(BOND);
        pass(UNBOND);
        vm.prank(STEWARD);
        house.endEpoch();
        uint64 from = uint64(block.timestamp) + UNBOND;
        vm.prank(one);
        vm.expectRevert(abi.encodeWithSelector(ICoalition.TooEarly.selector, from));
        house.withdrawBond();
        vm.warp(from);
        vm.prank(one);
        house.withdrawBond();
        same(usdc.balanceOf(one), BOND);
    }

    function test_nobody_asks_back_more_than_he_gave() external {
        vm.prank(one);
        vm.expectRevert(ICoalition.AmountInvalid.selector);
        house.requestUnbond(BOND + 1);
        vm.prank(STRANGER);
        vm.expectRevert(ICoalition.NothingToWithdraw.selector);
        house.withdrawBond();
    }

    function test_a_configuration_that_protects_nobody_is_refused() external {
        for (uint256 i = 0; i < 8; ++i) {
            CoalitionConfig memory config = someConfig();
            if (i == 0) config.unbondDelay = DISPUTE + RULING + LONGEST;
            if (i == 1) config.quorum = 1;
            if (i == 2) config.quorum = 4;
            if (i == 3) config.arbiterQuorum = 2;
            if (i == 4) config.arbiterQuorum = 6;
            if (i == 5) config.attestors[1] = config.attestors[0];
            if (i == 6) config.disputeWindow = 0;
            if (i == 7) config.leastProbes = 0;
            vm.expectRevert(ICoalition.ConfigInvalid.selector);
            new Coalition(config);
        }
    }
}
