// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ILogAnchor} from "../src/interfaces/ILogAnchor.sol";
import {LogAnchor} from "../src/LogAnchor.sol";
import {Checks} from "./Checks.sol";

contract LogAnchorTest is Checks {
    LogAnchor private anchors = new LogAnchor();
    address private constant WRITER = address(0xA11CE);
    bytes32 private constant NAME = "cp-events";

    function test_an_anchor_is_the_latest_and_the_older_ones_stay() external {
        vm.warp(1000);
        vm.prank(WRITER);
        anchors.anchor(NAME, 10, keccak256("ten"));
        vm.warp(2000);
        vm.prank(WRITER);
        anchors.anchor(NAME, 11, keccak256("eleven"));
        bytes32 logId = anchors.logIdOf(WRITER, NAME);
        (uint64 size, uint64 anchoredAt, bytes32 root) = anchors.latest(logId);
        same(size, 11);
        same(anchoredAt, 2000);
        holds(root == keccak256("eleven"));
        same(anchors.count(logId), 2);
        (size, anchoredAt, root) = anchors.anchorAt(logId, 0);
        same(size, 10);
        same(anchoredAt, 1000);
        holds(root == keccak256("ten"));
    }

    function test_a_log_never_anchored_has_size_zero() external view {
        (uint64 size,, bytes32 root) = anchors.latest(anchors.logIdOf(WRITER, NAME));
        same(size, 0);
        holds(root == bytes32(0));
    }

    function test_fuzz_a_size_that_does_not_grow_is_refused(uint64 held, uint64 next) external {
        held = uint64(bounded(held, 1, type(uint64).max));
        next = uint64(bounded(next, 0, held));
        anchors.anchor(NAME, held, keccak256("held"));
        vm.expectRevert(abi.encodeWithSelector(ILogAnchor.NotGrowing.selector, next, held));
        anchors.anchor(NAME, next, keccak256("next"));
    }

    function test_an_empty_root_is_refused() external {
        vm.expectRevert(ILogAnchor.RootMissing.selector);
        anchors.anchor(NAME, 1, bytes32(0));
    }

    function test_fuzz_nobody_else_writes_to_a_log(address stranger) external {
        vm.assume(stranger != WRITER);
        vm.prank(WRITER);
        anchors.anchor(NAME, 5, keccak256("mine"));
        vm.prank(stranger);
        anchors.anchor(NAME, 9, keccak256("theirs"));
        (uint64 size,, bytes32 root) = anchors.latest(anchors.logIdOf(WRITER, NAME));
        same(size, 5);
        holds(root == keccak256("mine"));
    }
}
