// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {IGdaForwarder, IGdaPool} from "../src/interfaces/ISuperfluid.sol";
import {ISessionEscrow, Terms, Voucher} from "../src/interfaces/ISessionEscrow.sol";
import {SessionEscrowFactory} from "../src/SessionEscrowFactory.sol";
import {SuperfluidWorld} from "./SuperfluidWorld.sol";

/// @title A coalition reduced to what a session asks of one; the whole one is tested in Coalition.t.sol.
contract PlainCoalition {
    address public gdaPool;
    uint256 public sessionLimit = 1000e6;
    uint64 public longestSession = 30 days;

    function point(address to) external {
        gdaPool = to;
    }

    function limit(uint256 micro) external {
        sessionLimit = micro;
    }

    function stop(ISessionEscrow session) external {
        session.stop();
    }
}

/// @title A payer, a controller, four operators and a factory over the real Superfluid.
abstract contract SessionWorld is SuperfluidWorld {
    uint256 internal constant PAYER_KEY = 0xA11CE;
    address internal constant CONTROLLER = address(0xC0117);
    address internal constant STRANGER = address(0x5124);
    uint32 internal constant MARGIN = 60;
    uint96 internal constant RATE = 50e12; // 50 micro-USDC a second
    uint64 internal constant CAP = 2e6;

    address internal payer = vm.addr(PAYER_KEY);
    SessionEscrowFactory internal factory;
    PlainCoalition internal coalition;
    address[] internal operators;
    uint128[] internal shares;
    address internal pool;

    function deployWorld() internal {
        deploySuperfluid();
        factory = new SessionEscrowFactory(usdc, usdcx, gda, MARGIN);
        coalition = new PlainCoalition();
        operators = [address(0x0401), address(0x0402), address(0x0403), address(0x0404)];
        shares = [4000, 3000, 2000, 1000];
        pool = newPool();
        coalition.point(pool);
        usdc.mint(payer, 1000e6);
    }

    function newPool() internal returns (address made) {
        (, made) = gda.createPool(usdcx, address(this), IGdaForwarder.PoolConfig(false, true));
        for (uint256 i = 0; i < operators.length; ++i) {
            gda.updateMemberUnits(made, operators[i], shares[i], "");
        }
    }

    function someTerms() internal view returns (Terms memory terms) {
        terms.payer = payer;
        terms.coalition = address(coalition);
        terms.rate = RATE;
        terms.minCap = 100_000;
        terms.cap = CAP;
        terms.minSecondsPerRequest = 2;
        terms.maxConcurrent = 4;
        terms.openBy = uint64(block.timestamp + 300);
        terms.closeBy = uint64(block.timestamp + 1 days);
        terms.controller = CONTROLLER;
        terms.sessionId = "session 1";
    }

    function voucherOf(uint256 key, Terms memory terms, uint256 micro, bytes32 nonce)
        internal
        view
        returns (Voucher memory voucher)
    {
        voucher.from = vm.addr(key);
        voucher.value = micro;
        voucher.validBefore = block.timestamp + 1 hours;
        voucher.nonce = nonce;
        bytes32 hash = keccak256(
            abi.encode(
                usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
                voucher.from,
                factory.addressOf(terms),
                micro,
                0,
                voucher.validBefore,
                nonce
            )
        );
        voucher.signature =
            signed(key, keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), hash)));
    }

    function push(Terms memory terms, Voucher memory voucher) internal {
        usdc.transferWithAuthorization(
            voucher.from,
            factory.addressOf(terms),
            voucher.value,
            voucher.validAfter,
            voucher.validBefore,
            voucher.nonce,
            voucher.signature
        );
    }

    function cancel(uint256 key, bytes32 nonce) internal {
        bytes32 hash = keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), vm.addr(key), nonce));
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), hash));
        usdc.cancelAuthorization(vm.addr(key), nonce, signed(key, digest));
    }

    function opened(Terms memory terms, uint32 active) internal returns (ISessionEscrow session) {
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, terms.cap, terms.sessionId);
        vm.prank(CONTROLLER);
        session = ISessionEscrow(factory.open(terms, voucher, active));
    }

    function set(ISessionEscrow session, uint32 active) internal {
        vm.prank(CONTROLLER);
        session.setActive(active);
    }

    function closed(ISessionEscrow session) internal {
        vm.prank(CONTROLLER);
        session.close();
    }

    function pass(uint256 secondsPassed) internal {
        vm.warp(block.timestamp + secondsPassed);
    }

    /// wei, of all operators in one gda_pool; each has exactly its share.
    function received(address gdaPool) internal view returns (uint256 total) {
        for (uint256 i = 0; i < operators.length; ++i) {
            total += IGdaPool(gdaPool).getTotalAmountReceivedByMember(operators[i]);
        }
        for (uint256 i = 0; i < operators.length; ++i) {
            same(IGdaPool(gdaPool).getTotalAmountReceivedByMember(operators[i]), total * shares[i] / 10_000);
        }
    }
}
