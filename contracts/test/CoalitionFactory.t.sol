// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {CoalitionFactory} from "../src/CoalitionFactory.sol";
import {ICoalitionFactory} from "../src/interfaces/ICoalitionFactory.sol";
import {Checks} from "./Checks.sol";

contract Standing {
    uint256 public immutable number;

    error Refused();

    constructor(uint256 number_) {
        if (number_ == 0) revert Refused();
        number = number_;
    }
}

contract CoalitionFactoryTest is Checks {
    CoalitionFactory private factory = new CoalitionFactory();
    bytes32 private constant SALT = keccak256("pool");
    address private constant ANYONE = address(0xA11CE);

    function _code(uint256 number) private pure returns (bytes memory) {
        return abi.encodePacked(type(Standing).creationCode, abi.encode(number));
    }

    function test_it_stands_where_its_code_and_salt_say() external {
        address expected = factory.addressOf(SALT, keccak256(_code(7)));
        vm.expectEmit(address(factory));
        emit ICoalitionFactory.CoalitionProposed(SALT, expected, ANYONE);
        vm.prank(ANYONE);
        same(factory.propose(SALT, _code(7)), expected);
        same(Standing(expected).number(), 7);
    }

    function test_proposing_it_again_makes_nothing_new_and_says_where_it_stands() external {
        address first = factory.propose(SALT, _code(7));
        vm.expectEmit(address(factory));
        emit ICoalitionFactory.CoalitionProposed(SALT, first, address(this));
        same(factory.propose(SALT, _code(7)), first);
    }

    function test_fuzz_other_terms_or_another_pool_stand_elsewhere(uint256 number, bytes32 salt) external {
        number = bounded(number, 8, type(uint256).max);
        vm.assume(salt != SALT);
        address first = factory.propose(SALT, _code(7));
        holds(factory.propose(SALT, _code(number)) != first);
        holds(factory.propose(salt, _code(7)) != first);
    }

    function test_terms_that_are_refused_leave_nothing() external {
        vm.expectRevert(ICoalitionFactory.CreationFailed.selector);
        factory.propose(SALT, _code(0));
    }
}
