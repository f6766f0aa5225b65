// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Epochs} from "./coalition/Epochs.sol";
import {Breach, CoalitionConfig, Receipt} from "./interfaces/ICoalition.sol";
import {ISessionEscrow} from "./interfaces/ISessionEscrow.sol";
import {ISessionEscrowFactory} from "./interfaces/ISessionEscrowFactory.sol";

/// @title Operators who serve a model together (see ICoalition); here: votes, disputes, slashes. It holds no payer's money.
/// A bond leaves by two doors: to its operator after the unbonding delay, or by a claim to the session's payer (at
/// most what that session paid) and the treasury; never to those who vote, rule or call.
contract Coalition is Epochs {
    uint256 private constant WEI_PER_MICRO = 1e12;
    bytes32 private constant BREACH_TYPEHASH = keccak256(
        "Breach(address session,address operator,uint8 kind,uint256 amount,bytes32 evidenceHash,uint32 failedProbes,uint32 probeWindow,uint256 deadline)"
    );
    bytes32 private constant RULING_TYPEHASH =
        keccak256("Ruling(uint256 claimId,bool upheld,uint256 deadline)");
    bytes32 private constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(uint256 epoch,address session,bytes32 request,uint32 segment,uint32 attempt,bytes32 inputHash,bytes32 outputHash)"
    );

    struct Claim {
        address session;
        Kind kind;
        ClaimState state;
        address operator;
        uint64 executableAt;
        address payer;
        uint64 ruleBy;
        uint256 amount;
    }

    ISessionEscrowFactory public immutable factory;
    address public immutable treasury;
    uint256 public immutable counterBond;
    uint64 public immutable disputeWindow;
    uint64 public immutable rulingWindow;
    uint32 public immutable leastProbes;
    uint32 public immutable longestProbeWindow;
    bool public immutable deterministic;
    uint256 public immutable quorum;
    uint256 public immutable arbiterQuorum;

    uint256[5] private _most;
    mapping(address account => bool) public isAttestor;
    mapping(address account => bool) public isArbiter;
    mapping(uint256 claimId => Claim) private _claims;
    mapping(bytes32 cause => uint256 claimId) private _claimOf;
    mapping(address session => uint256) public repaidTo;
    uint256 public claimCount;

    constructor(CoalitionConfig memory config) Epochs(config) {
        factory = ISessionEscrowFactory(config.factory);
        treasury = config.treasury;
        counterBond = config.counterBond;
        disputeWindow = config.disputeWindow;
        rulingWindow = config.rulingWindow;
        leastProbes = config.leastProbes;
        longestProbeWindow = config.longestProbeWindow;
        deterministic = config.deterministic;
        quorum = config.quorum;
        arbiterQuorum = config.arbiterQuorum;
        _most = config.mostPerKind;
        _register(config.attestors, isAttestor);
        _register(config.arbiters, isArbiter);
        if (
            config.steward == address(0) || config.treasury == address(0) || config.sessionLimit == 0
                || config.leastProbes == 0 || config.quorum * 2 <= config.attestors.length
                || config.quorum > config.attestors.length
                || config.arbiterQuorum * 2 <= config.arbiters.length
                || config.arbiterQuorum > config.arbiters.length || config.arbiterQuorum <= config.quorum
                || config.disputeWindow == 0 || config.rulingWindow == 0
                || uint256(config.unbondDelay)
                    <= uint256(config.disputeWindow) + config.rulingWindow + config.longestSession
        ) revert ConfigInvalid();
    }

    function _register(address[] memory accounts, mapping(address => bool) storage known) private {
        for (uint256 i = 0; i < accounts.length; ++i) {
            if (accounts[i] == address(0) || known[accounts[i]]) revert ConfigInvalid();
            known[accounts[i]] = true;
        }
    }

    // ---- breaches

    function openClaim(Breach calldata breach, bytes[] calldata votes)
        external
        nonReentrant
        returns (uint256 claimId)
    {
        if (block.timestamp > breach.deadline) revert VotesExpired();
        if (breach.amount > _most[uint8(breach.kind)]) revert AmountInvalid();
        if (lastEpochOf[breach.operator] == 0) revert NotOperator(breach.operator);
        if (
            breach.amount != 0 && (breach.kind == Kind.NO_SHOW || breach.kind == Kind.STALL)
                && (breach.failedProbes < leastProbes || breach.probeWindow > longestProbeWindow)
        ) revert ProbesMissing();
        bytes32 hash = keccak256(
            abi.encode(
                BREACH_TYPEHASH,
                breach.session,
                breach.operator,
                breach.kind,
                breach.amount,
                breach.evidenceHash,
                breach.failedProbes,
                breach.probeWindow,
                breach.deadline
            )
        );
        _checkQuorum(_hashTypedDataV4(hash), votes, isAttestor, quorum, breach.operator);
        claimId = _claim(breach.session, breach.operator, breach.kind, breach.amount, breach.evidenceHash);
    }

    function proveEquivocation(
        address session,
        Receipt calldata first,
        bytes calldata firstSignature,
        Receipt calldata second,
        bytes calldata secondSignature
    ) external nonReentrant returns (uint256 claimId) {
        if (!deterministic) revert NotDeterministic();
        if (
            first.session != session || second.session != session || first.epoch != second.epoch
                || first.request != second.request || first.segment != second.segment
                || first.attempt != second.attempt || first.inputHash != second.inputHash
                || first.outputHash == second.outputHash
        ) revert NotEquivocation();
        bytes32 digest = _receiptDigest(first);
        address signer = _signerOf(digest, firstSignature);
        bytes32 other = _receiptDigest(second);
        if (signer != _signerOf(other, secondSignature)) revert NotEquivocation();
        address operator = operatorOfKey[first.epoch][signer];
        if (operator == address(0)) revert NotOperator(signer);
        bytes32 evidence = keccak256(abi.encode(digest, other));
        uint256 amount = _most[uint8(Kind.EQUIVOCATION)];
        claimId = _claim(session, operator, Kind.EQUIVOCATION, amount, evidence);
        _slash(claimId, _claims[claimId].amount, 0);
    }

    /// Stops the session's stream, evicts, and locks as much of the amount as the bond has left.
    function _claim(address session, address operator, Kind kind, uint256 amount, bytes32 evidenceHash)
        private
        returns (uint256 claimId)
    {
        if (!factory.isSession(session)) revert NotSession(session);
        ISessionEscrow escrow = ISessionEscrow(session);
        address payer = escrow.payer();
        if (payer == address(0) || escrow.coalition() != address(this)) revert NotSession(session);
        bytes32 cause = keccak256(abi.encode(session, operator, kind));
        if (_claimOf[cause] != 0) revert ClaimExists(_claimOf[cause]);

        if (escrow.active() != 0) escrow.stop();
        if (_isSeated(operator)) _endEpoch();
        isEvicted[operator] = true;
        emit Evicted(operator, kind);

        claimId = _claimOf[cause] = ++claimCount;
        uint256 free = _free(operator);
        if (amount > free) amount = free;
        lockedOf[operator] += amount;
        uint64 executableAt = uint64(block.timestamp) + disputeWindow;
        _claims[claimId] = Claim(session, kind, ClaimState.Open, operator, executableAt, payer, 0, amount);
        emit ClaimOpened(claimId, session, operator, kind, amount, evidenceHash, executableAt);
    }

    function dispute(uint256 claimId) external {
        Claim storage claim = _in(claimId, ClaimState.Open);
        if (msg.sender != claim.operator) revert NotAccused();
        if (block.timestamp >= claim.executableAt) revert TooLate(claim.executableAt);
        uint256 free = _free(claim.operator);
        if (free < counterBond) revert BondTooSmall(claim.operator, free, counterBond);
        lockedOf[claim.operator] += counterBond;
        claim.state = ClaimState.Disputed;
        claim.ruleBy = uint64(block.timestamp) + rulingWindow;
        emit Disputed(claimId, counterBond, claim.ruleBy);
    }

    function rule(uint256 claimId, bool upheld, uint256 deadline, bytes[] calldata rulings)
        external
        nonReentrant
    {
        Claim storage claim = _in(claimId, ClaimState.Disputed);
        if (block.timestamp >= claim.ruleBy) revert TooLate(claim.ruleBy);
        if (block.timestamp > deadline) revert VotesExpired();
        bytes32 hash = keccak256(abi.encode(RULING_TYPEHASH, claimId, upheld, deadline));
        _checkQuorum(_hashTypedDataV4(hash), rulings, isArbiter, arbiterQuorum, claim.operator);
        emit Ruled(claimId, upheld);
        if (upheld) _slash(claimId, claim.amount, counterBond);
        else _cancel(claimId, claim);
    }

    function cancelUnruled(uint256 claimId) external {
        Claim storage claim = _in(claimId, ClaimState.Disputed);
        if (block.timestamp < claim.ruleBy) revert TooEarly(claim.ruleBy);
        _cancel(claimId, claim);
    }

    function _cancel(uint256 claimId, Claim storage claim) private {
        claim.state = ClaimState.Cancelled;
        lockedOf[claim.operator] -= claim.amount + counterBond;
        emit ClaimCancelled(claimId);
    }

    function execute(uint256 claimId) external nonReentrant {
        Claim storage claim = _in(claimId, ClaimState.Open);
        if (block.timestamp < claim.executableAt) revert TooEarly(claim.executableAt);
        _slash(claimId, claim.amount, 0);
    }

    /// @param lostCounterBond half of it may go to the payer, the other half never
    function _slash(uint256 claimId, uint256 amount, uint256 lostCounterBond) private {
        Claim storage claim = _claims[claimId];
        claim.state = ClaimState.Executed;
        uint256 taken = amount + lostCounterBond;
        address operator = claim.operator;
        lockedOf[operator] -= taken;
        bondOf[operator] -= taken;
        if (unbondingOf[operator] > bondOf[operator]) unbondingOf[operator] = bondOf[operator];

        uint256 toPayer = amount + lostCounterBond / 2;
        uint256 paid = ISessionEscrow(claim.session).spent() / WEI_PER_MICRO;
        uint256 repaid = repaidTo[claim.session];
        uint256 most = paid > repaid ? paid - repaid : 0;
        if (toPayer > most) toPayer = most;
        repaidTo[claim.session] = repaid + toPayer;
        emit Slashed(claimId, operator, claim.payer, toPayer, taken - toPayer);
        _pay(claim.payer, toPayer);
        _pay(treasury, taken - toPayer);
    }

    function _in(uint256 claimId, ClaimState wanted) private view returns (Claim storage claim) {
        claim = _claims[claimId];
        if (claim.state != wanted) revert ClaimNotIn(wanted);
    }

    function _checkQuorum(
        bytes32 digest,
        bytes[] calldata signatures,
        mapping(address => bool) storage registered,
        uint256 needed,
        address accused
    ) private view {
        if (signatures.length < needed) revert QuorumMissing(signatures.length, needed);
        address last;
        for (uint256 i = 0; i < signatures.length; ++i) {
            address signer = _signerOf(digest, signatures[i]);
            if (signer <= last || !registered[signer] || signer == accused) revert SignerInvalid(signer);
            last = signer;
        }
    }

    function _receiptDigest(Receipt calldata receipt) private view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    RECEIPT_TYPEHASH,
                    receipt.epoch,
                    receipt.session,
                    receipt.request,
                    receipt.segment,
                    receipt.attempt,
                    receipt.inputHash,
                    receipt.outputHash
                )
            )
        );
    }

    function _signerOf(bytes32 digest, bytes calldata signature) private pure returns (address signer) {
        (signer,,) = ECDSA.tryRecover(digest, signature);
        if (signer == address(0)) revert SignerInvalid(signer);
    }

    // ---- views

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
        )
    {
        Claim storage claim = _claims[claimId];
        return (
            claim.session,
            claim.operator,
            claim.payer,
            claim.kind,
            claim.state,
            claim.amount,
            claim.executableAt,
            claim.ruleBy
        );
    }

    function mostOf(Kind kind) external view returns (uint256) {
        return _most[uint8(kind)];
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }
}
