// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {CoalitionConfig, Seat} from "../interfaces/ICoalition.sol";
import {IGdaForwarder, IGdaPool, ISuperToken} from "../interfaces/ISuperfluid.sol";
import {Bonds} from "./Bonds.sol";

/// @title A coalition's epochs: who is seated with which share, by consent, and the gda_pool that is paid. Knows no claim.
abstract contract Epochs is Bonds, EIP712 {
    uint256 private constant ALL_UNITS = 10_000;
    bytes32 private constant ACCEPT_TYPEHASH =
        keccak256("Accept(address coalition,uint256 epoch,uint256 units,bytes32 node,address receiptKey)");

    ISuperToken public immutable usdcx;
    IGdaForwarder public immutable gdaForwarder;
    uint256 public immutable sessionLimit;
    uint64 public immutable longestSession;
    address public steward;
    uint256 public epoch;
    address public gdaPool;
    mapping(uint256 epoch => address) public gdaPoolOf;
    mapping(uint256 epoch => uint64 unixSeconds) public endedAt;
    mapping(uint256 epoch => Seat[]) private _seats;
    mapping(uint256 epoch => mapping(address receiptKey => address operator)) public operatorOfKey;
    mapping(address operator => uint256 epoch) public lastEpochOf;
    mapping(address operator => bool) public isEvicted;

    constructor(CoalitionConfig memory config) Bonds(config) EIP712("ComputePool Coalition", "1") {
        usdcx = ISuperToken(config.usdcx);
        gdaForwarder = IGdaForwarder(config.gdaForwarder);
        sessionLimit = config.sessionLimit;
        longestSession = config.longestSession;
        steward = config.steward;
    }

    modifier onlySteward() {
        if (msg.sender != steward) revert NotSteward();
        _;
    }

    function handOver(address next) external onlySteward {
        if (next == address(0)) revert ConfigInvalid();
        steward = next;
        emit HandedOver(next);
    }

    function openEpoch(Seat[] calldata seats, bytes[] calldata consents)
        external
        onlySteward
        nonReentrant
        returns (uint256 opened, address made)
    {
        if (seats.length != consents.length) revert ConfigInvalid();
        if (gdaPool != address(0)) _endEpoch();
        opened = ++epoch;
        (, made) = gdaForwarder.createPool(usdcx, address(this), IGdaForwarder.PoolConfig(false, true));
        uint256 total;
        for (uint256 i = 0; i < seats.length; ++i) {
            _seat(opened, made, seats[i], consents[i]);
            total += seats[i].units;
        }
        if (total != ALL_UNITS) revert UnitsInvalid(total);
        gdaPool = made;
        gdaPoolOf[opened] = made;
        emit EpochOpened(opened, made, seats.length);
    }

    function _seat(uint256 opened, address made, Seat calldata seat, bytes calldata consent) private {
        address operator = seat.operator;
        if (seat.units == 0) revert UnitsInvalid(0);
        if (isEvicted[operator]) revert OperatorEvicted(operator);
        uint256 free = _free(operator);
        free = free > unbondingOf[operator] ? free - unbondingOf[operator] : 0;
        if (free < bondNeeded) revert BondTooSmall(operator, free, bondNeeded);
        bytes32 hash = keccak256(
            abi.encode(
                ACCEPT_TYPEHASH, address(this), opened, uint256(seat.units), seat.node, seat.receiptKey
            )
        );
        if (
            operatorOfKey[opened][seat.receiptKey] != address(0)
                || !SignatureChecker.isValidSignatureNow(operator, _hashTypedDataV4(hash), consent)
        ) revert ConsentInvalid(operator);
        operatorOfKey[opened][seat.receiptKey] = operator;
        uint128 held = lastEpochOf[operator] == opened ? IGdaPool(made).getUnits(operator) : 0;
        lastEpochOf[operator] = opened;
        _seats[opened].push(seat);
        gdaForwarder.updateMemberUnits(made, operator, held + seat.units, "");
        emit Seated(opened, operator, seat.node, seat.units, seat.receiptKey);
    }

    function endEpoch() external onlySteward {
        if (gdaPool == address(0)) revert NoEpoch();
        _endEpoch();
    }

    function _endEpoch() internal {
        gdaPool = address(0);
        endedAt[epoch] = uint64(block.timestamp);
        emit EpochEnded(epoch);
    }

    function _isSeated(address operator) internal view override returns (bool) {
        return gdaPool != address(0) && lastEpochOf[operator] == epoch;
    }

    function seatsOf(uint256 of_) external view returns (Seat[] memory) {
        return _seats[of_];
    }

    function _leftAt(address operator) internal view override returns (uint64) {
        return endedAt[lastEpochOf[operator]];
    }

    function readmit(address operator) external onlySteward {
        isEvicted[operator] = false;
        emit Readmitted(operator);
    }
}
