// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Checks} from "./Checks.sol";

/// @title What forge asks an invariant test: which contract it may call, and by which functions.
abstract contract Targets is Checks {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    address private _target;
    bytes4[] private _selectors;

    function target(address called) internal {
        _target = called;
    }

    function call(bytes4 selector) internal {
        _selectors.push(selector);
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = _target;
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(_target, _selectors);
    }
}
