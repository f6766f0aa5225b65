// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ICoalition} from "./interfaces/ICoalition.sol";
import {ISessionEscrow, Terms, Voucher} from "./interfaces/ISessionEscrow.sol";
import {IGdaForwarder, IGdaPool, ISuperToken} from "./interfaces/ISuperfluid.sol";
import {IUsdc} from "./interfaces/IUsdc.sol";

/// @title One paid session (see ISessionEscrow). The factory makes clones of it that carry their terms as code.
/// Money leaves by three doors only: to the gda_pools' members, back to the payer, back to a voucher's signer.
contract SessionEscrow is ISessionEscrow, ReentrancyGuardTransient {
    uint256 private constant WEI_PER_MICRO = 1e12;
    uint256 private constant MOST_CONCURRENT = 8;
    uint256 private constant RECLAIM_DELAY = 30 days;
    /// More than a refund takes: who gives less would have it held, and an estimate looks for the least.
    uint256 private constant REFUND_GAS = 400_000;
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant STOP_TYPEHASH = keccak256("Stop(uint256 nonce,uint256 deadline)");
    bytes32 private constant CLOSE_TYPEHASH = keccak256("Close(uint256 deadline)");
    bytes32 private constant TRANSFER_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    address private immutable FACTORY;
    IUsdc private immutable USDC;
    ISuperToken private immutable USDCX;
    IGdaForwarder private immutable GDA;
    uint256 private immutable MARGIN_SECONDS;

    address public payer;
    State public state;
    uint32 public active;
    uint32 private _stopNonce;
    /// The stream was liquidated by a third party, at a second unknown here.
    bool private _lost;

    address public gdaPool;
    /// Unix seconds up to which `_spent` counts.
    uint64 private _countedTo;

    /// Start of each request in flight, unix seconds in 32 bits, the oldest lowest.
    uint256 private _starts;

    uint128 private _spent;
    uint64 private _funded;
    uint64 public hardStop;

    /// Written only when the terms name no payer.
    bytes32 private _fundingVoucher;
    mapping(bytes32 voucher => bool) private _reclaimed;

    constructor(IUsdc usdc, ISuperToken usdcx, IGdaForwarder gda, uint256 marginSeconds) {
        FACTORY = msg.sender;
        USDC = usdc;
        USDCX = usdcx;
        GDA = gda;
        MARGIN_SECONDS = marginSeconds;
    }

    // ---- opening

    function open(Voucher calldata voucher, uint32 n, address opener) external nonReentrant {
        if (msg.sender != FACTORY) revert NotFactory();
        if (state != State.Fresh) revert AlreadyOpened();
        Terms memory agreed = terms();
        _checkOpening(agreed, voucher, n, opener);
        if (USDC.authorizationState(voucher.from, voucher.nonce)) {
            // Somebody pushed the public token call first, or the nonce was cancelled: then the money is not here.
            _checkVoucher(voucher);
        } else {
            USDC.transferWithAuthorization(
                voucher.from,
                address(this),
                voucher.value,
                voucher.validAfter,
                voucher.validBefore,
                voucher.nonce,
                voucher.signature
            );
        }
        payer = voucher.from;
        state = State.Open;
        // casting to 'uint64' is safe because the value is at most `cap`
        // forge-lint: disable-next-line(unsafe-typecast)
        _funded = uint64(voucher.value);
        if (agreed.payer == address(0)) _fundingVoucher = _idOf(voucher);
        USDC.approve(address(USDCX), voucher.value);
        USDCX.upgrade(voucher.value * WEI_PER_MICRO);
        emit Opened(agreed.sessionId, voucher.from, agreed.coalition, voucher.value, voucher.nonce);
        _setActive(agreed, n, true);
    }

    function _checkOpening(Terms memory agreed, Voucher calldata voucher, uint32 n, address opener)
        private
        view
    {
        if (opener != agreed.controller) {
            if (agreed.payer == address(0) || opener != agreed.payer) revert NotOpener();
            if (n != 0) revert NotController();
        }
        if (block.timestamp > agreed.openBy) revert OpenedTooLate(agreed.openBy);
        if (
            agreed.rate == 0 || agreed.rate % WEI_PER_MICRO != 0 || agreed.maxConcurrent == 0
                || agreed.maxConcurrent > MOST_CONCURRENT || agreed.controller == address(0)
                || uint256(agreed.rate) * agreed.maxConcurrent > uint96(type(int96).max)
                || agreed.closeBy <= block.timestamp || agreed.closeBy > type(uint32).max
                || agreed.closeBy - block.timestamp > ICoalition(agreed.coalition).longestSession()
        ) revert TermsInvalid();
        if (
            voucher.from == address(0) || (agreed.payer != address(0) && voucher.from != agreed.payer)
                || voucher.value < agreed.minCap || voucher.value > agreed.cap
                || voucher.value > ICoalition(agreed.coalition).sessionLimit()
        ) revert VoucherInvalid();
    }

    /// Signed for this address, used, and its amount lies here.
    function _checkVoucher(Voucher calldata voucher) private view {
        bytes32 hash = keccak256(
            abi.encode(
                TRANSFER_TYPEHASH,
                voucher.from,
                address(this),
                voucher.value,
                voucher.validAfter,
                voucher.validBefore,
                voucher.nonce
            )
        );
        _checkSigned(voucher.from, USDC.DOMAIN_SEPARATOR(), hash, voucher.signature);
        if (USDC.balanceOf(address(this)) < voucher.value) revert VoucherNotFunded();
    }

    // ---- the meter

    function setActive(uint32 n) external nonReentrant {
        Terms memory agreed = terms();
        if (msg.sender != agreed.controller) revert NotController();
        if (state != State.Open) revert NotOpen();
        _setActive(agreed, n, true);
    }

    function stop() external nonReentrant {
        if (state != State.Open) revert NotOpen();
        Terms memory agreed = terms();
        bool charged = msg.sender == agreed.controller || msg.sender == payer;
        if (!charged && msg.sender != agreed.coalition) {
            if (gdaPool == address(0) || IGdaPool(gdaPool).getUnits(msg.sender) == 0) revert NotAllowed();
        }
        _setActive(agreed, 0, charged);
    }

    function stopBySig(uint256 deadline, bytes calldata signature) external nonReentrant {
        if (state != State.Open) revert NotOpen();
        _checkPayer(
            deadline, keccak256(abi.encode(STOP_TYPEHASH, uint256(_stopNonce++), deadline)), signature
        );
        _setActive(terms(), 0, true);
    }

    /// @param charged whether requests that end now pay for the least time
    function _setActive(Terms memory agreed, uint32 n, bool charged) private {
        if (n > agreed.maxConcurrent) revert TooManyActive(agreed.maxConcurrent);
        uint32 was = _count(agreed);
        address from = gdaPool;
        address to = n == 0 ? from : _currentPool(agreed);
        if (n == was && (n == 0 || to == from)) return;

        if (was != 0 && (n == 0 || to != from)) _stream(from, 0);
        uint256 owed = n < was ? _endOldest(was - n, agreed.minSecondsPerRequest) : 0;
        if (n > was) _begin(was, n);
        active = n;
        gdaPool = to;
        if (n != 0) {
            // casting to 'int96' is safe because rate x maxConcurrent was checked at opening
            // forge-lint: disable-next-line(unsafe-typecast)
            _stream(to, int96(uint96(agreed.rate * n)));
        }
        if (charged && owed != 0) _payMinimum(agreed.rate, from, owed);
        hardStop = n == 0 ? 0 : _hardStop(agreed, n, n > was);
        // casting to 'int96' is safe as above
        // forge-lint: disable-next-line(unsafe-typecast)
        emit RateSet(to, n, int96(uint96(agreed.rate * n)), hardStop);
    }

    /// Adds what streamed since the last count. Returns the requests in flight, 0 when the stream was lost.
    function _count(Terms memory agreed) private returns (uint32 was) {
        was = active;
        if (was != 0) {
            uint256 rate = uint256(agreed.rate) * was;
            // casting to 'uint96' is safe because no rate of ours is negative
            // forge-lint: disable-next-line(unsafe-typecast)
            if (uint96(GDA.getFlowDistributionFlowRate(USDCX, address(this), gdaPool)) != rate) {
                _lost = true;
                active = 0;
                _starts = 0;
                hardStop = 0;
                emit StreamLost(gdaPool);
                return 0;
            }
            // casting to 'uint128' is safe because a rate is below 2^95 and a time below 2^32
            // forge-lint: disable-next-line(unsafe-typecast)
            _spent += uint128(rate * (block.timestamp - _countedTo));
        }
        _countedTo = uint64(block.timestamp);
    }

    function _stream(address to, int96 rate) private {
        GDA.distributeFlow(USDCX, address(this), to, rate, "");
        if (rate == 0) return;
        int96 actual = GDA.getFlowDistributionFlowRate(USDCX, address(this), to);
        if (actual != rate) revert RateNotExact(rate, actual);
    }

    function _begin(uint32 was, uint32 n) private {
        uint256 starts = _starts;
        for (uint256 place = was; place < n; ++place) {
            starts |= block.timestamp << (32 * place);
        }
        _starts = starts;
    }

    /// Seconds that the oldest `ended` requests lack to the least time.
    function _endOldest(uint256 ended, uint256 leastSeconds) private returns (uint256 owed) {
        uint256 starts = _starts;
        for (; ended != 0; --ended) {
            uint256 ran = block.timestamp - (starts & type(uint32).max);
            if (ran < leastSeconds) owed += leastSeconds - ran;
            starts >>= 32;
        }
        _starts = starts;
    }

    function _payMinimum(uint256 rate, address to, uint256 owedSeconds) private {
        // With nothing streaming all that is unspent is there to pay with.
        uint256 affordable = (active == 0 ? _unspent() : _available()) / rate;
        if (owedSeconds > affordable) owedSeconds = affordable;
        if (owedSeconds == 0) return;
        uint256 amount = owedSeconds * rate;
        // A pool that takes no distribution keeps no stream from stopping.
        try GDA.distribute(USDCX, address(this), to, amount, "") {
            // casting to 'uint128' and 'uint32' is safe: at most eight least times, and no more than there is
            // forge-lint: disable-next-line(unsafe-typecast)
            _spent += uint128(amount);
            // forge-lint: disable-next-line(unsafe-typecast)
            emit MinimumPaid(to, amount, uint32(owedSeconds));
        } catch {}
    }

    /// Below the second at which nothing is left, so that a public close comes before liquidation.
    function _hardStop(Terms memory agreed, uint256 n, bool more) private view returns (uint64) {
        uint256 unspent = _unspent();
        uint256 available = _available();
        if (available > unspent) available = unspent; // somebody gave to this account: not the session's money
        uint256 lasting = available / (agreed.rate * n);
        if (more && (lasting <= MARGIN_SECONDS || block.timestamp >= agreed.closeBy)) revert NothingLeft();
        uint256 from = block.timestamp + (lasting > MARGIN_SECONDS ? lasting - MARGIN_SECONDS : 0);
        // casting to 'uint64' is safe because it is at most closeBy
        // forge-lint: disable-next-line(unsafe-typecast)
        return from < agreed.closeBy ? uint64(from) : agreed.closeBy;
    }

    function _available() private view returns (uint256) {
        (int256 available,,,) = USDCX.realtimeBalanceOfNow(address(this));
        // forge-lint: disable-next-line(unsafe-typecast)
        return available > 0 ? uint256(available) : 0;
    }

    /// Of the voucher, by the session's own count.
    function _unspent() private view returns (uint256) {
        uint256 received = uint256(_funded) * WEI_PER_MICRO;
        return received > _spent ? received - _spent : 0;
    }

    function _currentPool(Terms memory agreed) private view returns (address current) {
        current = ICoalition(agreed.coalition).gdaPool();
        if (current == address(0)) revert NoEpoch();
    }

    // ---- the end

    function close() external nonReentrant {
        _checkOpen();
        Terms memory agreed = terms();
        if (msg.sender != agreed.controller && msg.sender != payer && block.timestamp < agreed.closeBy) {
            if (active == 0) revert TooEarly(agreed.closeBy);
            if (block.timestamp < hardStop) revert TooEarly(hardStop);
        }
        _close(agreed);
    }

    function closeBySig(uint256 deadline, bytes calldata signature) external nonReentrant {
        _checkOpen();
        _checkPayer(deadline, keccak256(abi.encode(CLOSE_TYPEHASH, deadline)), signature);
        _close(terms());
    }

    function claimRefund() external nonReentrant {
        if (state != State.Closed) revert NotClosed();
        uint256 micro = USDCX.balanceOf(address(this)) / WEI_PER_MICRO;
        if (micro == 0) revert NothingLeft();
        USDCX.downgradeTo(payer, micro * WEI_PER_MICRO);
        emit RefundPaid(payer, micro);
    }

    function _close(Terms memory agreed) private {
        _setActive(agreed, 0, true);
        state = State.Closed;
        // Unless a stream was lost, what the session has not spent is there to the wei; to ask for the balance
        // would cost more gas than all else here. Should it not be there, the refund is held (`claimRefund`).
        uint256 left = _lost ? USDCX.balanceOf(address(this)) : _unspent();
        uint256 micro = left / WEI_PER_MICRO;
        emit Closed(uint64(block.timestamp), _lost ? spent() : _spent, micro, left - micro * WEI_PER_MICRO);
        if (micro == 0) return;
        if (gasleft() < REFUND_GAS) revert TooLittleGas(REFUND_GAS);
        try USDCX.downgradeTo(payer, micro * WEI_PER_MICRO) {
            emit RefundPaid(payer, micro);
        } catch {
            emit RefundHeld(payer, micro);
        }
    }

    // ---- money that is not the session's

    function reclaim() external nonReentrant {
        Terms memory agreed = terms();
        if (agreed.payer == address(0)) revert NotPayer();
        _checkPastOpening(agreed);
        uint256 micro = USDC.balanceOf(address(this));
        if (micro == 0) revert NothingLeft();
        _giveBack(agreed.payer, micro);
    }

    function reclaimVoucher(Voucher calldata voucher) external nonReentrant {
        Terms memory agreed = terms();
        if (agreed.payer != address(0)) revert VoucherInvalid();
        _checkPastOpening(agreed);
        if (msg.sender != agreed.controller && block.timestamp < agreed.closeBy + RECLAIM_DELAY) {
            revert NotController();
        }
        bytes32 id = _idOf(voucher);
        if (id == _fundingVoucher || _reclaimed[id]) revert VoucherUsed();
        if (!USDC.authorizationState(voucher.from, voucher.nonce)) revert VoucherNotFunded();
        _checkVoucher(voucher);
        _reclaimed[id] = true;
        _giveBack(voucher.from, voucher.value);
    }

    function _checkPastOpening(Terms memory agreed) private view {
        if (state == State.Fresh && block.timestamp <= agreed.openBy) revert TooEarly(agreed.openBy + 1);
    }

    function _giveBack(address to, uint256 micro) private {
        emit Reclaimed(to, micro);
        if (!USDC.transfer(to, micro)) revert TransferRefused();
    }

    function _idOf(Voucher calldata voucher) private pure returns (bytes32) {
        return keccak256(abi.encode(voucher.from, voucher.nonce));
    }

    // ---- checks and views

    function _checkOpen() private view {
        if (state == State.Closed) revert AlreadyClosed();
        if (state != State.Open) revert NotOpen();
    }

    function _checkPayer(uint256 deadline, bytes32 hash, bytes calldata signature) private view {
        if (block.timestamp > deadline) revert SignatureExpired();
        _checkSigned(payer, domainSeparator(), hash, signature);
    }

    function _checkSigned(address signer, bytes32 domain, bytes32 hash, bytes calldata signature)
        private
        view
    {
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", domain, hash));
        if (!SignatureChecker.isValidSignatureNow(signer, digest, signature)) revert SignatureInvalid();
    }

    function terms() public view returns (Terms memory) {
        return abi.decode(Clones.fetchCloneArgs(address(this)), (Terms));
    }

    function coalition() external view returns (address) {
        return terms().coalition;
    }

    function funded() external view returns (uint256) {
        return _funded;
    }

    function spent() public view returns (uint256) {
        if (_lost) {
            uint256 received = uint256(_funded) * WEI_PER_MICRO;
            uint256 left = USDCX.balanceOf(address(this));
            return received > left ? received - left : 0;
        }
        return _spent + uint256(terms().rate) * active * (block.timestamp - _countedTo);
    }

    function stopNonce() external view returns (uint256) {
        return _stopNonce;
    }

    function domainSeparator() public view returns (bytes32) {
        return keccak256(
            abi.encode(
                DOMAIN_TYPEHASH,
                keccak256("ComputePool Session"),
                keccak256("1"),
                block.chainid,
                address(this)
            )
        );
    }
}
