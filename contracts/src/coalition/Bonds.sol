// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {CoalitionConfig, ICoalition} from "../interfaces/ICoalition.sol";
import {IUsdc} from "../interfaces/IUsdc.sol";

/// @title A coalition's bonds: what operators put in, what is locked, and how it leaves. Knows no epoch and no claim.
abstract contract Bonds is ICoalition, ReentrancyGuardTransient {
    IUsdc public immutable usdc;
    uint256 public immutable bondNeeded;
    uint64 public immutable unbondDelay;
    mapping(address operator => uint256) public bondOf;
    mapping(address operator => uint256) public lockedOf;
    mapping(address operator => uint256) public unbondingOf;
    mapping(address operator => uint64) public withdrawableAt;
    mapping(address to => uint256) public owedTo;

    constructor(CoalitionConfig memory config) {
        usdc = IUsdc(config.usdc);
        bondNeeded = config.leastBond > config.sessionLimit ? config.leastBond : config.sessionLimit;
        unbondDelay = config.unbondDelay;
    }

    function _isSeated(address operator) internal view virtual returns (bool);

    /// Unix seconds at which the last epoch the operator served ended; 0: it served none.
    function _leftAt(address operator) internal view virtual returns (uint64);

    function bond(address operator, uint256 amount) external nonReentrant {
        if (!usdc.transferFrom(msg.sender, address(this), amount)) revert AmountInvalid();
        _credit(operator, amount);
    }

    function bondWithAuthorization(
        address from,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external nonReentrant {
        usdc.receiveWithAuthorization(from, address(this), amount, validAfter, validBefore, nonce, signature);
        _credit(from, amount);
    }

    function _credit(address operator, uint256 amount) private {
        bondOf[operator] += amount;
        emit Bonded(operator, amount, bondOf[operator]);
    }

    function requestUnbond(uint256 amount) external {
        uint256 asked = unbondingOf[msg.sender] + amount;
        if (amount == 0 || asked > bondOf[msg.sender]) revert AmountInvalid();
        unbondingOf[msg.sender] = asked;
        withdrawableAt[msg.sender] = uint64(block.timestamp) + unbondDelay;
        emit UnbondRequested(msg.sender, asked, withdrawableAt[msg.sender]);
    }

    function withdrawBond() external nonReentrant {
        address operator = msg.sender;
        uint256 amount = unbondingOf[operator];
        uint256 free = _free(operator);
        uint64 from = withdrawableAt[operator];
        if (_isSeated(operator)) {
            free = free > bondNeeded ? free - bondNeeded : 0;
        } else {
            // What was done in the last second of an epoch can be claimed for as long as anything before.
            uint64 left = _leftAt(operator);
            if (left != 0 && left + unbondDelay > from) from = left + unbondDelay;
        }
        if (amount > free) amount = free;
        if (amount == 0) revert NothingToWithdraw();
        if (block.timestamp < from) revert TooEarly(from);
        unbondingOf[operator] -= amount;
        bondOf[operator] -= amount;
        emit BondWithdrawn(operator, amount);
        _pay(operator, amount);
    }

    function _free(address operator) internal view returns (uint256) {
        return bondOf[operator] - lockedOf[operator];
    }

    function withdrawOwed(address to) external nonReentrant {
        uint256 amount = owedTo[to];
        if (amount == 0) revert NothingToWithdraw();
        owedTo[to] = 0;
        if (!usdc.transfer(to, amount)) revert NothingToWithdraw();
    }

    /// A payee that the token refuses does not keep a claim from being executed.
    function _pay(address to, uint256 amount) internal {
        if (amount == 0) return;
        try usdc.transfer(to, amount) returns (bool done) {
            if (done) return;
        } catch {}
        owedTo[to] += amount;
        emit PaymentHeld(to, amount);
    }
}
