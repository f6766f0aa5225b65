// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title Deploys at addresses that depend on owner, salt and code alone, and makes the set-up calls as owner.
interface IGenesis {
    event Deployed(address indexed made, bytes32 indexed salt, bytes32 initCodeHash);
    event Executed(address indexed target, bytes4 indexed selector);

    error NotOwner();
    /// @notice The constructor failed, or there is code at that address already.
    error DeployFailed(bytes32 salt);
    /// @notice The target has no code: a call would succeed and do nothing.
    error NoCode(address target);

    function owner() external view returns (address);
    function deploy(bytes32 salt, bytes calldata code) external returns (address made);
    /// @notice A failing call fails with the target's own error.
    function exec(address target, bytes calldata data) external returns (bytes memory result);
    function addressOf(bytes32 salt, bytes32 initCodeHash) external view returns (address);
}
