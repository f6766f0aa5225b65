// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @notice Everything a payer agrees to. The session's address is CREATE2 of it, so one ordinary EIP-3009 signature
/// to that address (x402: `payTo`) commits to every field.
/// @param payer who pays and gets the refund; 0: whoever signs the voucher (then only the controller may open)
/// @param coalition whose current epoch's gda_pool is paid
/// @param rate wei of USDCx per second and per request in flight; a multiple of 1e12
/// @param minCap least voucher, micro-USDC
/// @param cap largest voucher, micro-USDC
/// @param minSecondsPerRequest a shorter request pays the difference
/// @param maxConcurrent requests in flight at once, 1 to 8
/// @param openBy unix seconds; not opened by then: the voucher can be taken back
/// @param closeBy unix seconds; from then on anyone may close; at most the coalition's longestSession after opening
/// @param controller starts and stops the stream
/// @param sessionId chosen by the server, unique
struct Terms {
    address payer;
    address coalition;
    uint96 rate;
    uint64 minCap;
    uint64 cap;
    uint32 minSecondsPerRequest;
    uint32 maxConcurrent;
    uint64 openBy;
    uint64 closeBy;
    address controller;
    bytes32 sessionId;
}

/// @notice An EIP-3009 TransferWithAuthorization whose `to` is the session's address.
/// @param value micro-USDC
/// @param validAfter unix seconds
/// @param validBefore unix seconds
struct Voucher {
    address from;
    uint256 value;
    uint256 validAfter;
    uint256 validBefore;
    bytes32 nonce;
    bytes signature;
}

/// @title One paid session: holds the payer's money, streams it to the coalition while requests run, refunds the rest.
interface ISessionEscrow {
    enum State {
        Fresh,
        Open,
        Closed
    }

    /// @param funded micro-USDC
    event Opened(
        bytes32 indexed sessionId,
        address indexed payer,
        address indexed coalition,
        uint256 funded,
        bytes32 voucherNonce
    );
    /// @notice From this block's timestamp on the stream runs at this rate to this gda_pool.
    /// @param flowRate wei per second, read back from the chain; 0: stopped
    /// @param hardStop unix seconds from which anyone may close; 0 while stopped
    event RateSet(address indexed gdaPool, uint32 active, int96 flowRate, uint64 hardStop);
    /// @notice Requests shorter than the least time paid the difference at once.
    /// @param amount wei
    event MinimumPaid(address indexed gdaPool, uint256 amount, uint32 secondsPaid);
    /// @notice The stream had run out and was liquidated by a third party before it was closed.
    event StreamLost(address indexed gdaPool);
    /// @param endedAt unix seconds, the stop block's timestamp
    /// @param spent wei: streamed and paid as minimum, all of it to the gda_pools' members
    /// @param refund micro-USDC to the payer
    /// @param dust wei of the session's own that are too small for USDC (what strangers gave, `claimRefund` pays out)
    event Closed(uint64 endedAt, uint256 spent, uint256 refund, uint256 dust);
    /// @param micro micro-USDC
    event RefundPaid(address indexed payer, uint256 micro);
    /// @notice The token refused the refund; it stays here until `claimRefund` succeeds.
    event RefundHeld(address indexed payer, uint256 micro);
    /// @notice Money that did not fund the session went back.
    event Reclaimed(address indexed to, uint256 micro);

    error NotFactory();
    error NotController();
    error NotAllowed();
    /// @notice Only the controller, or a payer named in the terms, opens.
    error NotOpener();
    error NotPayer();
    error AlreadyOpened();
    error NotOpen();
    error AlreadyClosed();
    error NotClosed();
    error OpenedTooLate(uint64 openBy);
    error TooEarly(uint64 from);
    /// @notice `closeBy` has passed or what is left does not last longer than the margin.
    error NothingLeft();
    error TermsInvalid();
    /// @notice The voucher is not of these terms: another payer, or an amount outside minCap..cap and the limit.
    error VoucherInvalid();
    /// @notice The voucher's nonce is used but its money is not here (cancelled, or used elsewhere).
    error VoucherNotFunded();
    error VoucherUsed();
    error SignatureInvalid();
    error SignatureExpired();
    error TransferRefused();
    /// @notice A refund would run out of gas, of which so much must be left for it.
    error TooLittleGas(uint256 needed);
    error TooManyActive(uint32 maxConcurrent);
    /// @notice The coalition has no epoch to pay.
    error NoEpoch();
    /// @notice The chain streams another rate than asked (the units do not divide it).
    error RateNotExact(int96 asked, int96 actual);

    /// @notice Called by the factory once; takes the voucher's money, or finds it here when somebody pushed it before.
    /// @param active requests in flight from the start (controller only), 0: nothing streams yet
    function open(Voucher calldata voucher, uint32 active, address opener) external;
    /// @notice n requests are in flight: the stream runs at rate x n to the coalition's current gda_pool.
    /// Idempotent. Ending requests are taken oldest first for the least time per request. Controller only.
    function setActive(uint32 n) external;
    /// @notice Stops the stream, the session stays open: controller, payer, the coalition, or any member paid by it
    /// (a member's or the coalition's stop charges no least time).
    function stop() external;
    /// @notice The payer's brake without gas: EIP-712 Stop(uint256 nonce,uint256 deadline); anyone relays.
    function stopBySig(uint256 deadline, bytes calldata signature) external;
    /// @notice Stops and refunds, once: controller and payer at any time; anyone from closeBy or hardStop.
    function close() external;
    /// @notice EIP-712 Close(uint256 deadline) by the payer; anyone relays.
    function closeBySig(uint256 deadline, bytes calldata signature) external;
    /// @notice Pays a refund that was refused, and whatever else lies here; to the payer only; anyone may call.
    function claimRefund() external;
    /// @notice Money here that did not fund the session goes to the payer named in the terms; anyone may call, once
    /// the session was opened or `openBy` has passed.
    function reclaim() external;
    /// @notice The same for terms that name no payer: to the voucher's signer. Controller only, because a used nonce
    /// does not prove a payment (EIP-3009 cancels look the same); from closeBy + 30 days anyone.
    function reclaimVoucher(Voucher calldata voucher) external;

    function terms() external view returns (Terms memory);
    function state() external view returns (State);
    /// @notice 0 until opened.
    function payer() external view returns (address);
    function coalition() external view returns (address);
    function active() external view returns (uint32);
    /// @notice The gda_pool last streamed to.
    function gdaPool() external view returns (address);
    /// @notice unix seconds; 0 while stopped.
    function hardStop() external view returns (uint64);
    /// @notice micro-USDC
    function funded() external view returns (uint256);
    /// @notice wei to members so far, with the running stream up to this block. After StreamLost: all that is gone,
    /// with what the liquidation took.
    function spent() external view returns (uint256);
    /// @notice The nonce `stopBySig` wants next.
    function stopNonce() external view returns (uint256);
    function domainSeparator() external view returns (bytes32);
}
