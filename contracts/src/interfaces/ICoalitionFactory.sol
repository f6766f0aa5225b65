// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title Makes coalitions at addresses that commit to their code and terms, and says where they stand.
/// It judges nothing: whoever means to pay or join a coalition compares its code and reads its terms.
interface ICoalitionFactory {
    /// @param salt of the pool
    event CoalitionProposed(bytes32 indexed salt, address indexed coalition, address indexed proposer);

    error CreationFailed();

    /// @notice Creates what `initCode` makes, or finds it standing there already; says so either way. Anyone.
    /// @param initCode a Coalition's creation code and its CoalitionConfig
    function propose(bytes32 salt, bytes calldata initCode) external returns (address coalition);
    /// @notice keccak256 of 0xff, this factory, salt, initCodeHash.
    function addressOf(bytes32 salt, bytes32 initCodeHash) external view returns (address);
}
