// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {IBallotBox} from "./interfaces/IBallotBox.sol";

/// @title Ballots of workflow runs (see IBallotBox).
contract BallotBox is IBallotBox {
    uint256 private constant MOST_VOTERS = 64;

    struct Ballot {
        address[] voters;
        uint32 quorum;
        uint32 given;
        uint32 leading;
        uint64 deadline;
        bytes32 winningHash;
        mapping(address voter => bytes32) votes;
        mapping(bytes32 resultHash => uint256) count;
    }

    mapping(bytes32 ballotId => Ballot) private _ballots;

    function open(bytes32 topic, address[] calldata voters, uint256 quorum, uint64 deadline)
        external
        returns (bytes32 ballotId)
    {
        ballotId = ballotIdOf(topic, voters, quorum, deadline);
        Ballot storage ballot = _ballots[ballotId];
        if (ballot.voters.length != 0) return ballotId;
        uint256 count = voters.length;
        if (count == 0 || count > MOST_VOTERS || quorum > count || quorum * 2 <= count) {
            revert TermsInvalid();
        }
        if (deadline < block.timestamp) revert TooLate(deadline);
        address last;
        for (uint256 i; i < count; ++i) {
            if (voters[i] <= last) revert TermsInvalid();
            last = voters[i];
        }
        ballot.voters = voters;
        // forge-lint: disable-next-line(unsafe-typecast)
        ballot.quorum = uint32(quorum); // at most MOST_VOTERS
        ballot.deadline = deadline;
        emit BallotOpened(ballotId, topic, voters, quorum, deadline);
    }

    function cast(bytes32 ballotId, bytes32 resultHash) external {
        Ballot storage ballot = _known(ballotId);
        if (resultHash == bytes32(0)) revert ResultMissing();
        bytes32 held = ballot.votes[msg.sender];
        if (held == resultHash) return;
        if (held != bytes32(0)) revert AlreadyVoted(held);
        if (block.timestamp > ballot.deadline) revert TooLate(ballot.deadline);
        if (!_isVoter(ballot, msg.sender)) revert NotVoter(msg.sender);
        ballot.votes[msg.sender] = resultHash;
        ++ballot.given;
        uint256 votes = ++ballot.count[resultHash];
        // forge-lint: disable-next-line(unsafe-typecast)
        if (votes > ballot.leading) ballot.leading = uint32(votes); // at most MOST_VOTERS
        emit VoteCast(ballotId, msg.sender, resultHash);
        if (votes == ballot.quorum) {
            ballot.winningHash = resultHash;
            emit ConsensusReached(ballotId, resultHash, votes);
        }
    }

    function ballotIdOf(bytes32 topic, address[] calldata voters, uint256 quorum, uint64 deadline)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(topic, voters, quorum, deadline));
    }

    function tally(bytes32 ballotId)
        external
        view
        returns (
            bool reached,
            bytes32 winningHash,
            uint256 votes,
            uint256 given,
            uint256 quorum,
            uint64 deadline
        )
    {
        Ballot storage ballot = _known(ballotId);
        winningHash = ballot.winningHash;
        reached = winningHash != bytes32(0);
        // With more than half of the votes the winner also leads.
        return (reached, winningHash, ballot.leading, ballot.given, ballot.quorum, ballot.deadline);
    }

    function votersOf(bytes32 ballotId) external view returns (address[] memory) {
        return _known(ballotId).voters;
    }

    function voteOf(bytes32 ballotId, address voter) external view returns (bytes32) {
        return _known(ballotId).votes[voter];
    }

    function requireConsensus(bytes32 ballotId, bytes32 resultHash) external view {
        bytes32 winner = _known(ballotId).winningHash;
        if (winner == bytes32(0)) revert NoConsensus(ballotId);
        if (winner != resultHash) revert OtherResult(winner);
    }

    function _known(bytes32 ballotId) private view returns (Ballot storage ballot) {
        ballot = _ballots[ballotId];
        if (ballot.voters.length == 0) revert BallotUnknown(ballotId);
    }

    function _isVoter(Ballot storage ballot, address account) private view returns (bool) {
        uint256 count = ballot.voters.length;
        for (uint256 i; i < count; ++i) {
            if (ballot.voters[i] == account) return true;
        }
        return false;
    }
}
