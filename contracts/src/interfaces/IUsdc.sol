// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title What the contracts use of USDC: ERC-20 and EIP-3009. Amounts are micro-USDC (6 decimals).
interface IUsdc {
    /// @notice A signed transfer was made; `nonce` cannot be used again. Source: EIP-3009.
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    /// @notice The authorizer took `nonce` back before it was used. Source: EIP-3009.
    event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

    function balanceOf(address account) external view returns (uint256 micro);
    function approve(address spender, uint256 micro) external returns (bool);
    function transfer(address to, uint256 micro) external returns (bool);
    function transferFrom(address from, address to, uint256 micro) external returns (bool);

    /// @notice True once `nonce` was used OR cancelled: it does not prove that money moved.
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);

    /// @param validAfter unix seconds; valid when block.timestamp > validAfter
    /// @param validBefore unix seconds; valid when block.timestamp < validBefore
    function transferWithAuthorization(
        address from,
        address to,
        uint256 micro,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    /// @notice As `transferWithAuthorization`, but only `to` itself may call it.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 micro,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    function DOMAIN_SEPARATOR() external view returns (bytes32);
}
