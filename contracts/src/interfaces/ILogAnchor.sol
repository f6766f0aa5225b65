// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title Where an event log leaves its size and root, so that it can't be shortened or rewritten unseen.
/// A log is known by its writer and name: keccak256(abi.encode(writer, name)). Nobody else can write to it.
interface ILogAnchor {
    struct Anchor {
        uint64 size;
        uint64 anchoredAt;
        bytes32 root;
    }

    /// @param size events in the log, strictly growing
    /// @param root RFC 6962 tree head of that size
    event Anchored(bytes32 indexed logId, address indexed writer, bytes32 name, uint64 size, bytes32 root);

    error NotGrowing(uint64 size, uint64 held);
    error RootMissing();

    function anchor(bytes32 name, uint64 size, bytes32 root) external;
    function logIdOf(address writer, bytes32 name) external pure returns (bytes32);
    /// @return size 0: never anchored
    /// @return anchoredAt unix seconds
    function latest(bytes32 logId) external view returns (uint64 size, uint64 anchoredAt, bytes32 root);
    function count(bytes32 logId) external view returns (uint256);
    function anchorAt(bytes32 logId, uint256 index)
        external
        view
        returns (uint64 size, uint64 anchoredAt, bytes32 root);
}
