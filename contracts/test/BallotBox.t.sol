// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {BallotBox} from "../src/BallotBox.sol";
import {IBallotBox} from "../src/interfaces/IBallotBox.sol";
import {Checks} from "./Checks.sol";

contract BallotBoxTest is Checks {
    BallotBox private box = new BallotBox();
    bytes32 private constant TOPIC = "session 7, open";
    bytes32 private constant YES = keccak256("yes");
    bytes32 private constant NO = keccak256("no");
    uint64 private constant DEADLINE = 2000;

    function setUp() external {
        vm.warp(1000);
    }

    function voters(uint256 count) private pure returns (address[] memory found) {
        found = new address[](count);
        for (uint256 i; i < count; ++i) {
            found[i] = address(uint160(0x1000 + i));
        }
    }

    function opened(uint256 count, uint256 quorum) private returns (bytes32) {
        return box.open(TOPIC, voters(count), quorum, DEADLINE);
    }

    function vote(bytes32 ballotId, uint256 voter, bytes32 result) private {
        vm.prank(address(uint160(0x1000 + voter)));
        box.cast(ballotId, result);
    }

    function test_a_quorum_of_equal_results_is_a_consensus() external {
        bytes32 ballotId = opened(5, 3);
        vote(ballotId, 0, YES);
        vote(ballotId, 1, NO);
        vote(ballotId, 2, YES);
        (bool reached, bytes32 winner, uint256 votes, uint256 given,,) = box.tally(ballotId);
        holds(!reached && winner == bytes32(0));
        same(votes, 2);
        same(given, 3);
        vm.expectEmit(address(box));
        emit IBallotBox.ConsensusReached(ballotId, YES, 3);
        vote(ballotId, 4, YES);
        uint256 quorum;
        uint64 deadline;
        (reached, winner, votes, given, quorum, deadline) = box.tally(ballotId);
        holds(reached && winner == YES);
        same(votes, 3);
        same(given, 4);
        same(quorum, 3);
        same(deadline, DEADLINE);
        box.requireConsensus(ballotId, YES);
    }

    function test_it_stays_whatever_is_voted_later() external {
        bytes32 ballotId = opened(5, 3);
        for (uint256 i; i < 3; ++i) {
            vote(ballotId, i, YES);
        }
        vote(ballotId, 3, NO);
        vote(ballotId, 4, NO);
        vm.warp(DEADLINE + 1);
        box.requireConsensus(ballotId, YES);
        vm.expectRevert(abi.encodeWithSelector(IBallotBox.OtherResult.selector, YES));
        box.requireConsensus(ballotId, NO);
        holds(box.voteOf(ballotId, address(uint160(0x1004))) == NO);
    }

    function test_without_a_quorum_nobody_may_act() external {
        bytes32 ballotId = opened(3, 2);
        vote(ballotId, 0, YES);
        vote(ballotId, 1, NO);
        vm.expectRevert(abi.encodeWithSelector(IBallotBox.NoConsensus.selector, ballotId));
        box.requireConsensus(ballotId, YES);
        vm.warp(DEADLINE + 1);
        vm.expectRevert(abi.encodeWithSelector(IBallotBox.TooLate.selector, DEADLINE));
        vote(ballotId, 2, YES);
    }

    function test_the_first_vote_counts_and_the_same_again_changes_nothing() external {
        bytes32 ballotId = opened(3, 2);
        vote(ballotId, 0, YES);
        vote(ballotId, 0, YES);
        (,, uint256 votes, uint256 given,,) = box.tally(ballotId);
        same(votes, 1);
        same(given, 1);
        vm.expectRevert(abi.encodeWithSelector(IBallotBox.AlreadyVoted.selector, YES));
        vote(ballotId, 0, NO);
        vm.warp(DEADLINE + 1);
        vote(ballotId, 0, YES);
    }

    function test_fuzz_a_stranger_has_no_vote(address stranger) external {
        vm.assume(uint160(stranger) < 0x1000 || uint160(stranger) >= 0x1003);
        bytes32 ballotId = opened(3, 2);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IBallotBox.NotVoter.selector, stranger));
        box.cast(ballotId, YES);
    }

    function test_a_result_has_a_hash() external {
        bytes32 ballotId = opened(3, 2);
        vm.expectRevert(IBallotBox.ResultMissing.selector);
        vote(ballotId, 0, bytes32(0));
    }

    function test_opening_it_again_finds_it_with_its_votes() external {
        bytes32 ballotId = opened(3, 2);
        vote(ballotId, 0, YES);
        vm.warp(DEADLINE + 1);
        holds(opened(3, 2) == ballotId);
        holds(ballotId == box.ballotIdOf(TOPIC, voters(3), 2, DEADLINE));
        (,,, uint256 given,,) = box.tally(ballotId);
        same(given, 1);
        same(box.votersOf(ballotId).length, 3);
        holds(opened3() != ballotId);
    }

    function opened3() private returns (bytes32) {
        return box.open(TOPIC, voters(3), 3, DEADLINE + 5);
    }

    function test_fuzz_two_results_cannot_both_win(uint256 count, uint256 quorum) external {
        count = bounded(count, 1, 64);
        quorum = bounded(quorum, 0, 70);
        address[] memory some = voters(count);
        if (quorum > count || quorum * 2 <= count) {
            vm.expectRevert(IBallotBox.TermsInvalid.selector);
            box.open(TOPIC, some, quorum, DEADLINE);
            return;
        }
        bytes32 ballotId = box.open(TOPIC, some, quorum, DEADLINE);
        for (uint256 i; i < count; ++i) {
            vote(ballotId, i, i < quorum ? YES : NO);
        }
        box.requireConsensus(ballotId, YES);
        (,, uint256 votes, uint256 given,,) = box.tally(ballotId);
        same(votes, quorum);
        same(given, count);
    }

    function test_terms_that_make_no_ballot_are_refused() external {
        address[] memory some = voters(2);
        (some[0], some[1]) = (some[1], some[0]);
        vm.expectRevert(IBallotBox.TermsInvalid.selector);
        box.open(TOPIC, some, 2, DEADLINE);
        some[0] = some[1];
        vm.expectRevert(IBallotBox.TermsInvalid.selector);
        box.open(TOPIC, some, 2, DEADLINE);
        some[0] = address(0);
        vm.expectRevert(IBallotBox.TermsInvalid.selector);
        box.open(TOPIC, some, 2, DEADLINE);
        vm.expectRevert(IBallotBox.TermsInvalid.selector);
        box.open(TOPIC, voters(0), 0, DEADLINE);
        vm.expectRevert(IBallotBox.TermsInvalid.selector);
        box.open(TOPIC, voters(65), 40, DEADLINE);
        vm.expectRevert(abi.encodeWithSelector(IBallotBox.TooLate.selector, 999));
        box.open(TOPIC, voters(3), 2, 999);
    }

    function test_a_ballot_that_nobody_opened_is_unknown() external {
        bytes32 ballotId = keccak256("none");
        bytes memory unknown = abi.encodeWithSelector(IBallotBox.BallotUnknown.selector, ballotId);
        vm.expectRevert(unknown);
        box.cast(ballotId, YES);
        vm.expectRevert(unknown);
        box.tally(ballotId);
        vm.expectRevert(unknown);
        box.requireConsensus(ballotId, YES);
    }
}
