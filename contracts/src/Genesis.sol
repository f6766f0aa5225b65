// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {IGenesis} from "./interfaces/IGenesis.sol";

/// @title The deployer on chain. Put up through the deterministic proxy, so its own address depends on the owner alone.
contract Genesis is IGenesis {
    address public immutable owner;

    constructor(address owner_) {
        owner = owner_;
    }

    modifier onlyOwner() {
        if (msg.sender != owner) revert NotOwner();
        _;
    }

    function deploy(bytes32 salt, bytes calldata code) external onlyOwner returns (address made) {
        bytes memory initCode = code;
        // Asked first, because a collision would burn all the gas.
        if (addressOf(salt, keccak256(initCode)).code.length != 0) revert DeployFailed(salt);
        assembly ("memory-safe") {
            made := create2(0, add(initCode, 0x20), mload(initCode), salt)
        }
        if (made == address(0)) revert DeployFailed(salt);
        emit Deployed(made, salt, keccak256(initCode));
    }

    function exec(address target, bytes calldata data) external onlyOwner returns (bytes memory result) {
        if (target.code.length == 0) revert NoCode(target);
        bool done;
        (done, result) = target.call(data);
        if (!done) {
            assembly ("memory-safe") {
                revert(add(result, 0x20), mload(result))
            }
        }
        // forge-lint: disable-next-line(unsafe-typecast): the first four bytes are what is wanted
        emit Executed(target, bytes4(data));
    }

    function addressOf(bytes32 salt, bytes32 initCodeHash) public view returns (address) {
        bytes32 digest = keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, initCodeHash));
        return address(uint160(uint256(digest)));
    }
}
