// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title What the contracts use of a wrapped super token (USDCx, 18 decimals). Amounts are wei (1e-18 USDC).
interface ISuperToken {
    function balanceOf(address account) external view returns (uint256 availableWei);
    /// @return availableWei after the buffer; negative once the account has streamed more than it has
    /// @return bufferWei locked while a stream runs
    function realtimeBalanceOfNow(address account)
        external
        view
        returns (int256 availableWei, uint256 bufferWei, uint256 owedBufferWei, uint256 unixSeconds);
    function getUnderlyingToken() external view returns (address);
    function approve(address spender, uint256 amountWei) external returns (bool);
    function transfer(address to, uint256 amountWei) external returns (bool);
    /// @notice Takes the underlying token from the caller (micro-USDC = wei / 1e12).
    function upgrade(uint256 amountWei) external;
    /// @notice Burns the caller's wei and sends the underlying token to `to`.
    function downgradeTo(address to, uint256 amountWei) external;
}

/// @title Superfluid's General Distribution Agreement through its forwarder. Rates are wei per second.
interface IGdaForwarder {
    struct PoolConfig {
        bool transferabilityForUnitsOwner;
        bool distributionFromAnyAddress;
    }

    function createPool(ISuperToken token, address admin, PoolConfig calldata config)
        external
        returns (bool success, address gdaPool);
    function updateMemberUnits(address gdaPool, address member, uint128 units, bytes calldata userData)
        external
        returns (bool success);
    function distribute(
        ISuperToken token,
        address from,
        address gdaPool,
        uint256 amountWei,
        bytes calldata userData
    ) external returns (bool success);
    function distributeFlow(
        ISuperToken token,
        address from,
        address gdaPool,
        int96 rateWeiPerS,
        bytes calldata userData
    ) external returns (bool success);
    /// @return rateWeiPerS what really flows: floor(requested / total units) * total units
    function getFlowDistributionFlowRate(ISuperToken token, address from, address gdaPool)
        external
        view
        returns (int96 rateWeiPerS);
}

/// @title Superfluid's pool contract of one epoch. A member's income is claimable by anyone, to the member only.
interface IGdaPool {
    function admin() external view returns (address);
    function superToken() external view returns (address);
    function getTotalUnits() external view returns (uint128);
    function getUnits(address member) external view returns (uint128);
    function getMemberFlowRate(address member) external view returns (int96 rateWeiPerS);
    function getTotalAmountReceivedByMember(address member) external view returns (uint256 amountWei);
    function getClaimable(address member, uint32 unixSeconds) external view returns (int256 amountWei);
    function claimAll(address member) external returns (bool);
}
