// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {IUsdc} from "../src/interfaces/IUsdc.sol";
import {MockUSDC} from "../src/MockUSDC.sol";
import {Checks} from "./Checks.sol";

contract MockUSDCTest is Checks {
    uint256 private constant KEY = 0xA11CE;
    address private constant PAYEE = address(0xB0B);
    bytes32 private constant NONCE = "nonce";
    MockUSDC private usdc = new MockUSDC(address(this));
    address private payer = vm.addr(KEY);

    function setUp() external {
        vm.warp(1_000_000);
        usdc.mint(payer, 100e6);
    }

    function signedFor(bytes32 typed, uint256 micro, uint256 validAfter, uint256 validBefore)
        private
        view
        returns (bytes memory)
    {
        bytes32 hash = keccak256(abi.encode(typed, payer, PAYEE, micro, validAfter, validBefore, NONCE));
        return signed(KEY, keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), hash)));
    }

    function transferSigned(uint256 micro) private view returns (bytes memory) {
        return signedFor(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), micro, 0, 2_000_000);
    }

    function split(bytes memory signature) private pure returns (uint8 v, bytes32 r, bytes32 s) {
        assembly ("memory-safe") {
            r := mload(add(signature, 0x20))
            s := mload(add(signature, 0x40))
            v := byte(0, mload(add(signature, 0x60)))
        }
    }

    function cancelSigned() private view returns (bytes memory) {
        bytes32 hash = keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), payer, NONCE));
        return signed(KEY, keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), hash)));
    }

    function test_the_domain_is_that_of_usd_coin_version_2() external view {
        bytes32 typed =
            keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
        holds(
            usdc.DOMAIN_SEPARATOR()
                == keccak256(
                    abi.encode(typed, keccak256("USD Coin"), keccak256("2"), block.chainid, address(usdc))
                )
        );
        same(usdc.decimals(), 6);
    }

    function test_anyone_pushes_a_signed_transfer_once() external {
        bytes memory signature = transferSigned(5e6);
        vm.expectEmit(address(usdc));
        emit IUsdc.AuthorizationUsed(payer, NONCE);
        vm.prank(address(0xFEED));
        usdc.transferWithAuthorization(payer, PAYEE, 5e6, 0, 2_000_000, NONCE, signature);
        same(usdc.balanceOf(PAYEE), 5e6);
        holds(usdc.authorizationState(payer, NONCE));
        vm.expectRevert(abi.encodeWithSelector(MockUSDC.AuthorizationUsedOrCanceled.selector, payer, NONCE));
        usdc.transferWithAuthorization(payer, PAYEE, 5e6, 0, 2_000_000, NONCE, signature);
    }

    function test_both_signature_forms_are_taken() external {
        (uint8 v, bytes32 r, bytes32 s) = split(transferSigned(5e6));
        usdc.transferWithAuthorization(payer, PAYEE, 5e6, 0, 2_000_000, NONCE, v, r, s);
        same(usdc.balanceOf(PAYEE), 5e6);
    }

    function test_the_window_is_strict_on_both_sides() external {
        bytes32 typed = usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH();
        bytes memory signature = signedFor(typed, 1, block.timestamp, block.timestamp + 2);
        vm.expectRevert(abi.encodeWithSelector(MockUSDC.AuthorizationNotYetValid.selector, block.timestamp));
        usdc.transferWithAuthorization(payer, PAYEE, 1, 1_000_000, 1_000_002, NONCE, signature);
        vm.warp(1_000_002);
        vm.expectRevert(abi.encodeWithSelector(MockUSDC.AuthorizationExpired.selector, 1_000_002));
        usdc.transferWithAuthorization(payer, PAYEE, 1, 1_000_000, 1_000_002, NONCE, signature);
        vm.warp(1_000_001);
        usdc.transferWithAuthorization(payer, PAYEE, 1, 1_000_000, 1_000_002, NONCE, signature);
        same(usdc.balanceOf(PAYEE), 1);
    }

    function test_receiving_is_for_the_payee_alone_and_has_its_own_type() external {
        bytes memory signature = signedFor(usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), 5e6, 0, 2_000_000);
        vm.expectRevert(MockUSDC.CallerNotPayee.selector);
        usdc.receiveWithAuthorization(payer, PAYEE, 5e6, 0, 2_000_000, NONCE, signature);
        vm.expectRevert(MockUSDC.SignatureInvalid.selector);
        usdc.transferWithAuthorization(payer, PAYEE, 5e6, 0, 2_000_000, NONCE, signature);
        (uint8 v, bytes32 r, bytes32 s) = split(signature);
        vm.prank(PAYEE);
        usdc.receiveWithAuthorization(payer, PAYEE, 5e6, 0, 2_000_000, NONCE, v, r, s);
        same(usdc.balanceOf(PAYEE), 5e6);
    }

    function test_a_cancelled_nonce_cannot_be_used() external {
        vm.expectEmit(address(usdc));
        emit IUsdc.AuthorizationCanceled(payer, NONCE);
        usdc.cancelAuthorization(payer, NONCE, cancelSigned());
        bytes memory signature = transferSigned(5e6);
        vm.expectRevert(abi.encodeWithSelector(MockUSDC.AuthorizationUsedOrCanceled.selector, payer, NONCE));
        usdc.transferWithAuthorization(payer, PAYEE, 5e6, 0, 2_000_000, NONCE, signature);
    }

    function test_a_used_nonce_cannot_be_cancelled() external {
        usdc.transferWithAuthorization(payer, PAYEE, 5e6, 0, 2_000_000, NONCE, transferSigned(5e6));
        (uint8 v, bytes32 r, bytes32 s) = split(cancelSigned());
        vm.expectRevert(abi.encodeWithSelector(MockUSDC.AuthorizationUsedOrCanceled.selector, payer, NONCE));
        usdc.cancelAuthorization(payer, NONCE, v, r, s);
    }

    function test_fuzz_no_other_amount_than_the_signed_one_moves(uint256 micro) external {
        vm.assume(micro != 5e6);
        bytes memory signature = transferSigned(5e6);
        vm.expectRevert(MockUSDC.SignatureInvalid.selector);
        usdc.transferWithAuthorization(payer, PAYEE, micro, 0, 2_000_000, NONCE, signature);
    }

    function test_a_blacklisted_account_neither_sends_nor_receives() external {
        usdc.setBlacklisted(payer, true);
        bytes memory signature = transferSigned(5e6);
        vm.expectRevert(abi.encodeWithSelector(MockUSDC.Blacklisted.selector, payer));
        usdc.transferWithAuthorization(payer, PAYEE, 5e6, 0, 2_000_000, NONCE, signature);
        vm.expectRevert(abi.encodeWithSelector(MockUSDC.Blacklisted.selector, payer));
        usdc.mint(payer, 1);
    }

    function test_only_the_owner_mints_and_blacklists() external {
        vm.prank(PAYEE);
        vm.expectRevert(MockUSDC.NotOwner.selector);
        usdc.mint(PAYEE, 1);
        vm.prank(PAYEE);
        vm.expectRevert(MockUSDC.NotOwner.selector);
        usdc.setBlacklisted(payer, true);
    }
}
