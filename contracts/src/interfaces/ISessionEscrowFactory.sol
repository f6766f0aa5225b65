// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Terms, Voucher} from "./ISessionEscrow.sol";

/// @title Makes sessions at addresses that commit to their terms, and knows which addresses are sessions.
interface ISessionEscrowFactory {
    event SessionDeployed(address indexed session, bytes32 indexed sessionId, address indexed coalition);

    /// @notice keccak256 of 0xff, this factory, salt = keccak256(abi.encode(terms)), keccak256(initCode(terms)).
    function addressOf(Terms calldata terms) external view returns (address);
    function initCode(Terms calldata terms) external view returns (bytes memory);
    /// @notice Deploys when needed and opens; the caller is the controller or the payer named in the terms.
    function open(Terms calldata terms, Voucher calldata voucher, uint32 active)
        external
        returns (address session);
    /// @notice Deploys without opening, so that a voucher of a session that never opened can be reclaimed. Anyone.
    function deploy(Terms calldata terms) external returns (address session);
    /// @notice True for a contract that this factory made, and for nothing else.
    function isSession(address account) external view returns (bool);

    function logic() external view returns (address);
    function usdc() external view returns (address);
    function usdcx() external view returns (address);
    function gdaForwarder() external view returns (address);
    /// @notice Seconds between hardStop and the second at which the money runs out.
    function marginSeconds() external view returns (uint32);
}
