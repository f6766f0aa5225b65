// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ICoalitionFactory} from "./interfaces/ICoalitionFactory.sol";

/// @title Makes coalitions (see ICoalitionFactory). It has no owner, no storage, and holds no money.
contract CoalitionFactory is ICoalitionFactory {
    function propose(bytes32 salt, bytes calldata initCode) external returns (address coalition) {
        coalition = addressOf(salt, keccak256(initCode));
        if (coalition.code.length == 0) {
            bytes memory code = initCode;
            address made;
            assembly ("memory-safe") {
                made := create2(0, add(code, 32), mload(code), salt)
            }
            if (made != coalition) revert CreationFailed();
        }
        emit CoalitionProposed(salt, coalition, msg.sender);
    }

    function addressOf(bytes32 salt, bytes32 initCodeHash) public view returns (address) {
        bytes32 hash = keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, initCodeHash));
        return address(uint160(uint256(hash)));
    }
}
