// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title Ballots by which independent workflow runs agree on a result before anybody acts on it.
/// A ballot's id commits to all of its terms, so nobody can open another one under it. It has no owner and
/// holds no money. A workflow run votes with the hash of what it found; which bytes were hashed is the voters'
/// own agreement.
interface IBallotBox {
    /// @param voters ascending; @param quorum more than half of them; @param deadline unix seconds, the last one
    event BallotOpened(
        bytes32 indexed ballotId, bytes32 indexed topic, address[] voters, uint256 quorum, uint64 deadline
    );
    event VoteCast(bytes32 indexed ballotId, address indexed voter, bytes32 resultHash);
    /// @notice Once, with the vote that made the quorum.
    event ConsensusReached(bytes32 indexed ballotId, bytes32 resultHash, uint256 votes);

    error TermsInvalid();
    error BallotUnknown(bytes32 ballotId);
    error NotVoter(address account);
    error AlreadyVoted(bytes32 resultHash);
    error ResultMissing();
    error TooLate(uint64 deadline);
    error NoConsensus(bytes32 ballotId);
    error OtherResult(bytes32 winningHash);

    /// @notice Opens it, or finds it open already. Anyone.
    /// @param topic what is voted on, such as the hash of a session and a phase
    /// @param voters 1 to 64, ascending, none twice
    function open(bytes32 topic, address[] calldata voters, uint256 quorum, uint64 deadline)
        external
        returns (bytes32 ballotId);
    /// @notice A voter's first vote, until the deadline; the same one again changes nothing.
    function cast(bytes32 ballotId, bytes32 resultHash) external;
    /// @notice keccak256(abi.encode(topic, voters, quorum, deadline)).
    function ballotIdOf(bytes32 topic, address[] calldata voters, uint256 quorum, uint64 deadline)
        external
        pure
        returns (bytes32);
    /// @return reached whether a quorum voted for one result; final
    /// @return winningHash 0 unless reached
    /// @return votes for the winning hash, or for the leading one
    /// @return given by all voters together
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
        );
    function votersOf(bytes32 ballotId) external view returns (address[] memory);
    /// @return 0: none yet
    function voteOf(bytes32 ballotId, address voter) external view returns (bytes32);
    /// @notice For contracts that act on a ballot: reverts unless the quorum voted for exactly this.
    function requireConsensus(bytes32 ballotId, bytes32 resultHash) external view;
}
