// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @notice One operator's place in an epoch.
/// @param operator the wallet that is paid and whose bond stands for it
/// @param units share of 10 000
/// @param node the node's id
/// @param receiptKey signs the node's receipts
struct Seat {
    address operator;
    uint96 units;
    bytes32 node;
    address receiptKey;
}

/// @notice What a coalition is made with, for good. Amounts are micro-USDC, times seconds.
/// @param steward opens and ends epochs, readmits
/// @param treasury gets what of a slash is not the payer's
/// @param sessionLimit largest voucher of a session
/// @param longestSession largest closeBy, counted from the opening
/// @param leastBond a seat needs this or the session limit, whichever is more: the worst it could cost a payer
/// @param counterBond what the accused locks to dispute
/// @param mostPerKind largest slash for each Kind, in its order
/// @param unbondDelay longer than disputeWindow + rulingWindow + longestSession
/// @param leastProbes without so many failed probes within longestProbeWindow, NO_SHOW and STALL take no bond
/// @param deterministic equal inputs give equal outputs here, so unequal receipts prove a lie
/// @param quorum more than half of the attestors
/// @param arbiterQuorum more than half of the arbiters, and more than `quorum`
struct CoalitionConfig {
    address steward;
    address treasury;
    address usdc;
    address usdcx;
    address gdaForwarder;
    address factory;
    uint256 sessionLimit;
    uint64 longestSession;
    uint256 leastBond;
    uint256 counterBond;
    uint256[5] mostPerKind;
    uint64 disputeWindow;
    uint64 rulingWindow;
    uint64 unbondDelay;
    uint32 leastProbes;
    uint32 longestProbeWindow;
    bool deterministic;
    address[] attestors;
    uint256 quorum;
    address[] arbiters;
    uint256 arbiterQuorum;
}

/// @notice What a quorum of attestors says, byte for byte the same.
/// @param session a session of this coalition
/// @param amount micro-USDC to slash; 0: evict only
/// @param evidenceHash of the canonical evidence
/// @param failedProbes signed failed probes from distinct vantage points (NO_SHOW and STALL)
/// @param probeWindow seconds in which they failed
/// @param deadline unix seconds after which the votes do not count
struct Breach {
    address session;
    address operator;
    ICoalition.Kind kind;
    uint256 amount;
    bytes32 evidenceHash;
    uint32 failedProbes;
    uint32 probeWindow;
    uint256 deadline;
}

/// @notice A node's word on what it computed for `segment` of `request`, signed with its receipt key: EIP-712
/// Receipt(uint256 epoch,address session,bytes32 request,uint32 segment,uint32 attempt,bytes32 inputHash,
/// bytes32 outputHash). It names the session's address, because anyone can make a session with another's sessionId.
struct Receipt {
    uint256 epoch;
    address session;
    bytes32 request;
    uint32 segment;
    uint32 attempt;
    bytes32 inputHash;
    bytes32 outputHash;
}

/// @title Operators who serve a model together: consent, shares, bonds, breaches. Amounts are micro-USDC.
/// EIP-712 domain: ("ComputePool Coalition", "1", chainId, this contract).
interface ICoalition {
    enum Kind {
        NO_SHOW,
        STALL,
        WRONG_OUTPUT,
        EQUIVOCATION,
        METER_FRAUD
    }

    enum ClaimState {
        None,
        Open,
        Disputed,
        Executed,
        Cancelled
    }

    /// @param gdaPool of this epoch; units are never edited
    event EpochOpened(uint256 indexed epoch, address indexed gdaPool, uint256 seats);
    event Seated(
        uint256 indexed epoch,
        address indexed operator,
        bytes32 indexed node,
        uint96 units,
        address receiptKey
    );
    /// @notice Nothing is paid until the next epoch opens.
    event EpochEnded(uint256 indexed epoch);
    event Bonded(address indexed operator, uint256 amount, uint256 total);
    event UnbondRequested(address indexed operator, uint256 amount, uint64 withdrawableAt);
    event BondWithdrawn(address indexed operator, uint256 amount);
    event Evicted(address indexed operator, Kind kind);
    event Readmitted(address indexed operator);
    /// @param amount locked, micro-USDC
    /// @param executableAt unix seconds
    event ClaimOpened(
        uint256 indexed claimId,
        address indexed session,
        address indexed operator,
        Kind kind,
        uint256 amount,
        bytes32 evidenceHash,
        uint64 executableAt
    );
    event Disputed(uint256 indexed claimId, uint256 counterBond, uint64 ruleBy);
    event Ruled(uint256 indexed claimId, bool upheld);
    event ClaimCancelled(uint256 indexed claimId);
    /// @param toPayer micro-USDC to the session's payer, at most what it paid
    /// @param toTreasury the rest
    event Slashed(
        uint256 indexed claimId,
        address indexed operator,
        address indexed payer,
        uint256 toPayer,
        uint256 toTreasury
    );
    /// @notice The token refused a payment; `withdrawOwed` tries again.
    event PaymentHeld(address indexed to, uint256 amount);
    event HandedOver(address indexed steward);

    error NotSteward();
    error ConfigInvalid();
    error UnitsInvalid(uint256 total);
    error ConsentInvalid(address operator);
    error BondTooSmall(address operator, uint256 bond, uint256 needed);
    error OperatorEvicted(address operator);
    error NoEpoch();
    error NothingToWithdraw();
    error TooEarly(uint64 from);
    error TooLate(uint64 until);
    error NotSession(address session);
    error NotOperator(address operator);
    error QuorumMissing(uint256 signatures, uint256 needed);
    /// @notice Signatures come sorted by signer, each signer once, registered, and not the accused.
    error SignerInvalid(address signer);
    error VotesExpired();
    error AmountInvalid();
    /// @notice NO_SHOW and STALL take no bond without enough failed probes in the window.
    error ProbesMissing();
    error ClaimExists(uint256 claimId);
    error ClaimNotIn(ClaimState wanted);
    error NotAccused();
    error NotEquivocation();
    error NotDeterministic();

    // ---- epochs
    /// @notice Steward: a new gda_pool with these units (total 10 000); each seat with its operator's EIP-712
    /// Accept(address coalition,uint256 epoch,uint256 units,bytes32 node,address receiptKey).
    function openEpoch(Seat[] calldata seats, bytes[] calldata consents)
        external
        returns (uint256 epoch, address gdaPool);
    function endEpoch() external;
    /// @notice Counts from 1; the number the next consents sign is epoch() + 1.
    function epoch() external view returns (uint256);
    /// @notice The current epoch's; 0: there is none, nothing can be streamed.
    function gdaPool() external view returns (address);
    function gdaPoolOf(uint256 epoch) external view returns (address);
    function seatsOf(uint256 epoch) external view returns (Seat[] memory);
    /// @notice Largest voucher a session of this coalition may take, micro-USDC.
    function sessionLimit() external view returns (uint256);
    /// @notice Largest closeBy of a session, seconds from its opening.
    function longestSession() external view returns (uint64);
    /// @notice Steward: another key takes over.
    function handOver(address next) external;

    // ---- bonds
    /// @notice Anyone may add to an operator's bond; the caller pays.
    function bond(address operator, uint256 amount) external;
    /// @notice Without gas: EIP-3009 ReceiveWithAuthorization to this contract, credited to `from`.
    function bondWithAuthorization(
        address from,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
    function requestUnbond(uint256 amount) external;
    function withdrawBond() external;
    /// @notice micro-USDC; what is asked back counts, and can be slashed, until it is withdrawn.
    function bondOf(address operator) external view returns (uint256);
    function lockedOf(address operator) external view returns (uint256);
    /// @notice What a seat needs.
    function bondNeeded() external view returns (uint256);
    function isEvicted(address operator) external view returns (bool);
    function readmit(address operator) external;

    // ---- breaches
    /// @notice EIP-712 Breach(address session,address operator,uint8 kind,uint256 amount,bytes32 evidenceHash,
    /// uint32 failedProbes,uint32 probeWindow,uint256 deadline) by a quorum of attestors. Stops the stream first.
    function openClaim(Breach calldata breach, bytes[] calldata votes) external returns (uint256 claimId);
    /// @notice Two receipts of one node that differ in outputHash alone; needs no vote, slashes at once. Anyone.
    function proveEquivocation(
        address session,
        Receipt calldata first,
        bytes calldata firstSignature,
        Receipt calldata second,
        bytes calldata secondSignature
    ) external returns (uint256 claimId);
    /// @notice The accused, before the claim can be executed; locks `counterBond` of its bond.
    function dispute(uint256 claimId) external;
    /// @notice EIP-712 Ruling(uint256 claimId,bool upheld,uint256 deadline) by a quorum of arbiters.
    function rule(uint256 claimId, bool upheld, uint256 deadline, bytes[] calldata rulings) external;
    /// @notice No ruling in time: the claim falls and what was locked is free again. Anyone.
    function cancelUnruled(uint256 claimId) external;
    /// @notice After the dispute window, undisputed. Anyone.
    function execute(uint256 claimId) external;
    /// @notice Pays what the token refused before; to that account only; anyone may call.
    function withdrawOwed(address to) external;
    /// @notice amount: micro-USDC locked; executableAt, ruleBy: unix seconds (ruleBy 0: not disputed).
    function claimOf(uint256 claimId)
        external
        view
        returns (
            address session,
            address operator,
            address payer,
            Kind kind,
            ClaimState state,
            uint256 amount,
            uint64 executableAt,
            uint64 ruleBy
        );
    function domainSeparator() external view returns (bytes32);
}
