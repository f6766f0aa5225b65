// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ILogAnchor} from "./interfaces/ILogAnchor.sol";

/// @title Sizes and roots of event logs; each log has one writer for ever, because its id holds the writer's address.
contract LogAnchor is ILogAnchor {
    mapping(bytes32 logId => Anchor[]) private _anchors;

    function anchor(bytes32 name, uint64 size, bytes32 root) external {
        bytes32 logId = logIdOf(msg.sender, name);
        (uint64 held,,) = latest(logId);
        if (size <= held) revert NotGrowing(size, held);
        if (root == bytes32(0)) revert RootMissing();
        _anchors[logId].push(Anchor(size, uint64(block.timestamp), root));
        emit Anchored(logId, msg.sender, name, size, root);
    }

    function logIdOf(address writer, bytes32 name) public pure returns (bytes32) {
        return keccak256(abi.encode(writer, name));
    }

    function latest(bytes32 logId) public view returns (uint64 size, uint64 anchoredAt, bytes32 root) {
        uint256 held = _anchors[logId].length;
        return held == 0 ? (0, 0, bytes32(0)) : anchorAt(logId, held - 1);
    }

    function count(bytes32 logId) external view returns (uint256) {
        return _anchors[logId].length;
    }

    function anchorAt(bytes32 logId, uint256 index)
        public
        view
        returns (uint64 size, uint64 anchoredAt, bytes32 root)
    {
        Anchor storage held = _anchors[logId][index];
        return (held.size, held.anchoredAt, held.root);
    }
}
