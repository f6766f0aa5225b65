// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Genesis} from "../src/Genesis.sol";
import {IGenesis} from "../src/interfaces/IGenesis.sol";
import {LogAnchor} from "../src/LogAnchor.sol";
import {Checks} from "./Checks.sol";

contract Owned {
    address public owner = msg.sender;
    uint256 public set;

    error NotMine(address caller);

    function put(uint256 value) external returns (uint256) {
        if (msg.sender != owner) revert NotMine(msg.sender);
        set = value;
        return value + 1;
    }
}

contract NeverMade {
    constructor() {
        revert();
    }
}

contract GenesisTest is Checks {
    Genesis private genesis = new Genesis(address(this));

    function test_the_address_depends_on_salt_and_code_and_is_known_before() external {
        bytes32 hash = keccak256(type(LogAnchor).creationCode);
        address wanted = genesis.addressOf("salt", hash);
        same(genesis.deploy("salt", type(LogAnchor).creationCode), wanted);
        holds(wanted.code.length > 0);
        holds(genesis.addressOf("other", hash) != wanted);
    }

    function test_it_owns_what_it_deploys_and_makes_calls_for_its_owner() external {
        Owned owned = Owned(genesis.deploy("salt", type(Owned).creationCode));
        same(owned.owner(), address(genesis));
        bytes memory result = genesis.exec(address(owned), abi.encodeCall(Owned.put, (7)));
        same(abi.decode(result, (uint256)), 8);
        same(owned.set(), 7);
    }

    function test_a_second_deployment_with_the_same_salt_fails() external {
        genesis.deploy("salt", type(LogAnchor).creationCode);
        vm.expectRevert(abi.encodeWithSelector(IGenesis.DeployFailed.selector, bytes32("salt")));
        genesis.deploy("salt", type(LogAnchor).creationCode);
    }

    function test_a_constructor_that_fails_is_not_taken_for_a_contract() external {
        vm.expectRevert(abi.encodeWithSelector(IGenesis.DeployFailed.selector, bytes32("salt")));
        genesis.deploy("salt", type(NeverMade).creationCode);
    }

    function test_a_failing_call_fails_with_the_targets_own_error() external {
        Owned foreign = new Owned();
        vm.expectRevert(abi.encodeWithSelector(Owned.NotMine.selector, address(genesis)));
        genesis.exec(address(foreign), abi.encodeCall(Owned.put, (7)));
    }

    function test_a_call_to_an_address_without_code_is_refused() external {
        vm.expectRevert(abi.encodeWithSelector(IGenesis.NoCode.selector, address(0xBEEF)));
        genesis.exec(address(0xBEEF), abi.encodeCall(Owned.put, (7)));
    }

    function test_fuzz_nobody_but_the_owner_deploys_or_calls(address stranger) external {
        vm.assume(stranger != address(this));
        vm.prank(stranger);
        vm.expectRevert(IGenesis.NotOwner.selector);
        genesis.deploy("salt", type(LogAnchor).creationCode);
        vm.prank(stranger);
        vm.expectRevert(IGenesis.NotOwner.selector);
        genesis.exec(address(genesis), "");
    }
}
