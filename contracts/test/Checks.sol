// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Vm} from "./Vm.sol";

/// @title What every test has: the cheats, and equalities that say both sides when they fail.
abstract contract Checks {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    error Differ(uint256 found, uint256 wanted);
    error DifferSigned(int256 found, int256 wanted);
    error DifferAddress(address found, address wanted);
    error False();

    function same(uint256 found, uint256 wanted) internal pure {
        if (found != wanted) revert Differ(found, wanted);
    }

    function same(int256 found, int256 wanted) internal pure {
        if (found != wanted) revert DifferSigned(found, wanted);
    }

    function same(address found, address wanted) internal pure {
        if (found != wanted) revert DifferAddress(found, wanted);
    }

    function holds(bool condition) internal pure {
        if (!condition) revert False();
    }

    function bounded(uint256 value, uint256 least, uint256 most) internal pure returns (uint256) {
        return least + value % (most - least + 1);
    }

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}
