// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {ISessionEscrow, Terms, Voucher} from "./interfaces/ISessionEscrow.sol";
import {ISessionEscrowFactory} from "./interfaces/ISessionEscrowFactory.sol";
import {IGdaForwarder, ISuperToken} from "./interfaces/ISuperfluid.sol";
import {IUsdc} from "./interfaces/IUsdc.sol";
import {SessionEscrow} from "./SessionEscrow.sol";

/// @title Makes sessions (see ISessionEscrowFactory). It has no owner and holds no money.
contract SessionEscrowFactory is ISessionEscrowFactory {
    address public immutable logic;
    address public immutable usdc;
    address public immutable usdcx;
    address public immutable gdaForwarder;
    uint32 public immutable marginSeconds;
    mapping(address account => bool) public isSession;

    error WrongToken(address underlying);

    constructor(IUsdc usdc_, ISuperToken usdcx_, IGdaForwarder gdaForwarder_, uint32 marginSeconds_) {
        address underlying = usdcx_.getUnderlyingToken();
        if (underlying != address(usdc_)) revert WrongToken(underlying);
        logic = address(new SessionEscrow(usdc_, usdcx_, gdaForwarder_, marginSeconds_));
        usdc = address(usdc_);
        usdcx = address(usdcx_);
        gdaForwarder = address(gdaForwarder_);
        marginSeconds = marginSeconds_;
    }

    function open(Terms calldata terms, Voucher calldata voucher, uint32 active)
        external
        returns (address session)
    {
        session = deploy(terms);
        ISessionEscrow(session).open(voucher, active, msg.sender);
    }

    function deploy(Terms calldata terms) public returns (address session) {
        bytes memory arguments = abi.encode(terms);
        bytes32 salt = keccak256(arguments);
        session = Clones.predictDeterministicAddressWithImmutableArgs(logic, arguments, salt);
        if (isSession[session]) return session;
        isSession[session] = true;
        Clones.cloneDeterministicWithImmutableArgs(logic, arguments, salt);
        emit SessionDeployed(session, terms.sessionId, terms.coalition);
    }

    function addressOf(Terms calldata terms) external view returns (address) {
        bytes memory arguments = abi.encode(terms);
        return Clones.predictDeterministicAddressWithImmutableArgs(logic, arguments, keccak256(arguments));
    }

    function initCode(Terms calldata terms) external view returns (bytes memory) {
        bytes memory arguments = abi.encode(terms);
        // casting to 'uint16' is safe because the terms have a fixed length
        // forge-lint: disable-next-line(unsafe-typecast)
        uint16 length = uint16(arguments.length + 45);
        return abi.encodePacked(
            hex"61",
            length,
            hex"3d81600a3d39f3363d3d373d3d3d363d73",
            logic,
            hex"5af43d82803e903d91602b57fd5bf3",
            arguments
        );
    }
}
